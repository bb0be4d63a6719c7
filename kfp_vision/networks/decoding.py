"""Cropping and resizing of images by TensorFlow, in the exported model; `engines.cropping` gives the same pixels without it."""

from functools import partial

from kfp_vision.core.crop_shapes import SQUARE, STRETCHED, WHOLE
from kfp_vision.core.frameworks import tf
from kfp_vision.networks import orientation

CENTRAL_FRACTION = 0.875  # of each side, as TF-Slim and Caffe evaluate
JPEG_REDUCTIONS = (1, 2, 4, 8)  # factors by which libjpeg can reduce an image while decoding it


def central_crop(encoded: tf.Tensor, image_size: int, shape: str = STRETCHED) -> tf.Tensor:
    """Decodes an image, crops its centre, resizes the crop, and sets it upright.

    Transparent pixels of a PNG become white; pixels of 16 bits are scaled to 8.

    Part of the exported SavedModel, so it uses only operations that TensorFlow 2.6 has. The conversion and our server decode
    more; what is not shown here as there fails.

    Args:
        encoded: a JPEG, a PNG, an opaque GIF, or a BMP of 24 bits; scalar string.
        image_size: height and width of the result in pixels.
        shape: of the crop before it is resized; see `central_window`.

    Returns:
        Float32 (size, size, 3) RGB in 0 to 255.

    Raises:
        InvalidArgumentError: when the graph runs, for any other file.
    """

    def jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        stored = tf.image.extract_jpeg_shape(encoded)
        window = central_window(stored[:2], shape)
        shown = tf.cond(stored[2] == 4, cmyk, lambda: decode_jpeg_window(encoded, *window, stored[1], image_size))
        return shown, orientation.jpeg_orientation(encoded)

    def cmyk() -> tf.Tensor:
        orientation.check_cmyk(encoded)
        # As Pillow decodes it, and so the conversion. Other JPEGs keep the method of the training.
        return crop(tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"))

    def png() -> tuple[tf.Tensor, tf.Tensor]:
        turned, transparent = orientation.png_properties(encoded)
        shown = tf.cond(transparent, on_white, lambda: crop(tf.io.decode_png(encoded, channels=3)))
        return shown, turned

    def deep_png() -> tuple[tf.Tensor, tf.Tensor]:
        levels = tf.io.decode_png(encoded, channels=4, dtype=tf.uint16)
        scaled = orientation.scale_levels(levels, orientation.is_grey_png(encoded))
        return orientation.lay_on_white(crop(scaled)), orientation.png_properties(encoded)[0]

    def on_white() -> tf.Tensor:
        return orientation.lay_on_white(crop(tf.io.decode_png(encoded, channels=4)))

    def gif() -> tuple[tf.Tensor, tf.Tensor]:
        orientation.check_gif(encoded)
        return crop(tf.io.decode_image(encoded, channels=3, expand_animations=False)), orientation.UPRIGHT

    def bmp() -> tuple[tf.Tensor, tf.Tensor]:
        orientation.check_bmp(encoded)
        return crop(tf.io.decode_bmp(encoded, channels=3)), orientation.UPRIGHT

    def any_other() -> tuple[tf.Tensor, tf.Tensor]:
        tf.debugging.Assert(False, ["not a JPEG, PNG, GIF or BMP; convert it to JPEG"])
        return tf.zeros((1, 1, 3), tf.uint8), orientation.UPRIGHT

    def crop(image: tf.Tensor) -> tf.Tensor:
        return _slice_image(image, *central_window(tf.shape(image)[:2], shape))

    is_png = orientation.is_png(encoded)
    kinds = [
        (tf.io.is_jpeg(encoded), jpeg),
        (is_png & orientation.is_deep_png(encoded), deep_png),
        (is_png, png),
        (orientation.is_gif(encoded), gif),
        (orientation.is_bmp(encoded), bmp),
    ]
    image, turned = tf.case(kinds, default=any_other)
    # Turned last: the window and the result are symmetric, and the result is small.
    return orientation.turn_upright(resize(image, image_size), turned)


def central_window(sides: tf.Tensor, shape: str = STRETCHED) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the part of an image that a network sees in evaluation.

    Args:
        sides: (height, width) of the image.
        shape: `STRETCHED` for so much of each side, rounded as by `tf.image.central_crop`; `SQUARE` for so much of the shorter
            side, of the longer one a pixel more if the margins were unequal otherwise; `WHOLE` for all.

    Returns:
        (top, left) and (height, width) of the part, in pixels.
    """
    margins = tf.cast(tf.cast(sides, tf.float32) * ((1 - CENTRAL_FRACTION) / 2), sides.dtype)
    if shape == WHOLE:
        margins = tf.zeros_like(margins)
    begin = (sides - tf.reduce_min(sides - 2 * margins)) // 2 if shape == SQUARE else margins
    return begin, sides - 2 * begin


def _slice_image(image: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return tf.slice(image, tf.pad(begin, [[0, 1]]), tf.pad(size, [[0, 1]], constant_values=-1))


def decode_jpeg_window(encoded: tf.Tensor, begin: tf.Tensor, size: tf.Tensor, width: tf.Tensor, image_size: int) -> tf.Tensor:
    """Decodes a window of a JPEG, at 1/2, 1/4 or 1/8 of its size if that is enough.

    Reduced decoding is several times as fast for images far larger than needed, and its pixels are means instead of samples.
    At full size the pixels are those of decoding the whole image: libjpeg smooths colours across the edge of its window, so
    one column more is decoded on either side.

    Args:
        encoded: the JPEG file, scalar string.
        begin: (top, left) of the window in pixels, int32.
        size: (height, width) of the window in pixels, int32.
        width: of the whole image, int32.
        image_size: smallest side to which the window may be reduced, give or take one for rounding.

    Returns:
        Uint8 (height, width, 3) RGB.
    """
    choice = tf.reduce_sum(tf.cast(tf.reduce_min(size) // image_size >= JPEG_REDUCTIONS[1:], tf.int32))
    ratio = tf.gather(JPEG_REDUCTIONS, choice)
    first, last = (begin + ratio // 2) // ratio, (begin + size + ratio // 2) // ratio
    left, right = tf.maximum(first[1] - 1, 0), tf.minimum(last[1] + 1, (width + ratio - 1) // ratio)
    window = tf.stack([first[0], left, last[0] - first[0], right - left])
    # The ratio is an attribute of the operation, so there is one operation per ratio, of which one runs.
    decoders = [partial(tf.io.decode_and_crop_jpeg, encoded, window, channels=3, ratio=ratio) for ratio in JPEG_REDUCTIONS]
    return tf.switch_case(choice, decoders)[:, first[1] - left : last[1] - left]


def resize(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes an image bilinearly, as `tf.image.resize` does, but without the time that takes to inspect shapes.

    Args:
        image: (height, width, 3) of any numeric type.
        image_size: height and width of the result in pixels.

    Returns:
        Float32 (size, size, 3).
    """
    images = tf.cast(image, tf.float32)[None]  # the operation is faster on floats, even with the cast
    size = (image_size, image_size)
    return tf.ensure_shape(tf.raw_ops.ResizeBilinear(images=images, size=size, half_pixel_centers=True)[0], (*size, 3))
