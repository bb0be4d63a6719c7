"""Shows an image as a person sees it, in graph operations: upright by its EXIF orientation, transparent pixels on white.

Pixels of 16 bits are scaled to 8. Part of the exported SavedModel, so it uses only operations that TensorFlow 2.6
has, and reads the bytes of the file itself. An orientation that cannot be read counts as upright.
"""

from functools import partial

from kfp_vision.core.frameworks import tf

UPRIGHT, ORIENTATIONS = 1, 8  # EXIF 2.3, section 4.6.4: values 1 to 8
MAX_BLOCKS = 100  # segments or chunks looked at before the pixels; bounds the time that a crafted file can take
EXIF_PREFIX = b"Exif\0\0"  # of the TIFF block in a JPEG
ADOBE_PREFIX = b"Adobe"  # of the segment without which TensorFlow and browsers disagree on what 0 is in CMYK
JPEG_FILL, JPEG_EXIF, JPEG_ADOBE, JPEG_END, JPEG_SCAN = 0xFFFF, 0xFFE1, 0xFFEE, 0xFFD9, 0xFFDA  # ITU-T T.81, table B.1
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_BITS, PNG_DEEP = 24, b"\x10"  # place in the file, and 16 bits per channel
PNG_COLOUR_TYPE, PNG_GREY, PNG_ALPHA_TYPES = (
    25,
    b"\0",
    (b"\x04", b"\x06"),
)  # place in the file, types without colours or with alpha
GIF_SIGNATURES, GIF_HEADER = (b"GIF87a", b"GIF89a"), 13  # GIF89a, sections 17 and 18: header and screen descriptor
GIF_IMAGE, GIF_EXTENSION, GIF_CONTROL = 0x2C, 0x21, 0xF9  # sections 20, 23 and 26
BMP_SIGNATURE, BMP_HEADER, BMP_FIELDS = b"BM", 14, 54  # BITMAPINFOHEADER: place, and the end of its fields
WHITE_LEVELS = tuple((1 << bits) - 1 for bits in (8, 10, 12, 14, 16))  # as in `dataset.images`
TIFF_LITTLE, TIFF_BIG = b"II*\0", b"MM\0*"
TIFF_ENTRY, TIFF_SHORT, TIFF_LONG = 12, 3, 4  # TIFF 6.0, section 2: bytes of an entry, field types
TIFF_ORIENTATION = 0x0112


def jpeg_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Reads the EXIF orientation of a JPEG from the segments before its pixels.

    Args:
        encoded: the JPEG file, scalar string.

    Returns:
        1 to 8, int32; 1 if there is none that can be read.
    """
    at, found = _find_segment(encoded, JPEG_EXIF, EXIF_PREFIX)
    return tf.cond(found, lambda: _tiff_orientation(_jpeg_exif(encoded, at)), _upright)


def check_cmyk(encoded: tf.Tensor) -> None:
    """Fails on a CMYK JPEG without Adobe's segment, which TensorFlow would show as a negative.

    Args:
        encoded: a CMYK JPEG file, scalar string.

    Raises:
        InvalidArgumentError: when the graph runs.
    """
    _, marked = _find_segment(encoded, JPEG_ADOBE, ADOBE_PREFIX)
    tf.debugging.Assert(marked, ["a CMYK JPEG without Adobe's marker; convert it to RGB"])


def _find_segment(encoded: tf.Tensor, wanted: int, prefix: bytes) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the place of a JPEG's segment before the pixels, and whether there is one."""
    length = tf.strings.length(encoded)

    def may_follow(at: tf.Tensor, found: tf.Tensor, ended: tf.Tensor) -> tf.Tensor:
        return (at + 4 <= length) & ~found & ~ended

    def step(at: tf.Tensor, found: tf.Tensor, ended: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        head = _shorts(tf.strings.substr(encoded, at, 4), little=False)
        marker, size = head[0], head[1]
        found = (marker == wanted) & (tf.strings.substr(encoded, at + 4, len(prefix)) == prefix)
        fill = marker == JPEG_FILL
        ended = (marker <= 0xFF00) | (marker == JPEG_SCAN) | (marker == JPEG_END) | ((size < 2) & ~fill)
        return tf.where(found, at, at + tf.where(fill, 1, 2 + size)), found, ended

    at, found, _ = tf.while_loop(may_follow, step, (2, tf.constant(False), tf.constant(False)), maximum_iterations=MAX_BLOCKS)
    return at, found


def _jpeg_exif(encoded: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    size = _shorts(tf.strings.substr(encoded, at + 2, 2), little=False)[0]
    return tf.strings.substr(encoded, at + 4 + len(EXIF_PREFIX), tf.maximum(size - 2 - len(EXIF_PREFIX), 0))


def png_properties(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the EXIF orientation of an image, and whether it has transparency, from the PNG chunks before its pixels.

    Args:
        encoded: an image file, scalar string.

    Returns:
        The orientation, 1 to 8, int32; 1 if there is none that can be read, or if the file is not a PNG.
        Whether there is an alpha channel or a tRNS chunk, bool.
    """
    length = tf.strings.length(encoded)
    whole = is_png(encoded) & (length > PNG_COLOUR_TYPE)

    def may_follow(at: tf.Tensor, exif: tf.Tensor, transparent: tf.Tensor, ended: tf.Tensor) -> tf.Tensor:
        return whole & (at + 8 <= length) & ~ended

    def step(
        at: tf.Tensor, exif: tf.Tensor, transparent: tf.Tensor, ended: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        size, kind = _int(tf.strings.substr(encoded, at, 4), little=False), tf.strings.substr(encoded, at + 4, 4)
        ended = (kind == b"IDAT") | (size < 0) | (size > length - at)
        return at + 12 + tf.where(ended, 0, size), tf.where(kind == b"eXIf", at, exif), transparent | (kind == b"tRNS"), ended

    start = (len(PNG_SIGNATURE), 0, tf.constant(False), tf.constant(False))
    _, exif, transparent, _ = tf.while_loop(may_follow, step, start, maximum_iterations=MAX_BLOCKS)

    def from_exif() -> tf.Tensor:
        size = _int(tf.strings.substr(encoded, exif, 4), little=False)
        return _tiff_orientation(tf.strings.substr(encoded, exif + 8, tf.maximum(size, 0)))

    colour_type = tf.strings.substr(encoded, tf.minimum(PNG_COLOUR_TYPE, length), 1)
    transparent |= whole & tf.reduce_any(colour_type == tf.constant(PNG_ALPHA_TYPES))
    return tf.cond(exif > 0, from_exif, _upright), transparent


def is_png(encoded: tf.Tensor) -> tf.Tensor:
    """Tells whether a file is a PNG.

    Args:
        encoded: a file, scalar string.
    """
    return tf.strings.substr(encoded, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE


def is_deep_png(encoded: tf.Tensor) -> tf.Tensor:
    """Tells whether a PNG has 16 bits per channel.

    Args:
        encoded: a PNG file, scalar string.
    """
    return tf.strings.substr(encoded, tf.minimum(PNG_BITS, tf.strings.length(encoded)), 1) == PNG_DEEP


def is_grey_png(encoded: tf.Tensor) -> tf.Tensor:
    """Tells whether a PNG has grey pixels without an alpha channel.

    Args:
        encoded: a PNG file, scalar string.
    """
    return tf.strings.substr(encoded, tf.minimum(PNG_COLOUR_TYPE, tf.strings.length(encoded)), 1) == PNG_GREY


def is_gif(encoded: tf.Tensor) -> tf.Tensor:
    """Tells whether a file is a GIF.

    Args:
        encoded: a file, scalar string.
    """
    return tf.reduce_any(tf.strings.substr(encoded, 0, 6) == tf.constant(GIF_SIGNATURES))


def check_gif(encoded: tf.Tensor) -> None:
    """Fails on a GIF whose first image is transparent or does not fill the screen, since TensorFlow would show black there.

    Args:
        encoded: a GIF file, scalar string.

    Raises:
        InvalidArgumentError: when the graph runs.
    """
    length = tf.strings.length(encoded)
    tf.debugging.Assert(length > GIF_HEADER, ["a damaged GIF"])
    head = _bytes(tf.strings.substr(encoded, 0, GIF_HEADER))
    palette = tf.where(head[10] >= 128, 3 * tf.bitwise.left_shift(2, head[10] % 8), 0)

    def may_follow(at: tf.Tensor, within: tf.Tensor, opaque: tf.Tensor, ended: tf.Tensor) -> tf.Tensor:
        return (at + 10 <= length) & ~ended

    def step(
        at: tf.Tensor, within: tf.Tensor, opaque: tf.Tensor, ended: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        block = _bytes(tf.strings.substr(encoded, at, 10))
        extension = ~within & (block[0] == GIF_EXTENSION)
        opaque &= ~(extension & (block[1] == GIF_CONTROL) & (block[3] % 2 == 1))
        ended = ~within & ~extension
        whole = (block[0] == GIF_IMAGE) & tf.reduce_all(block[1:5] == 0) & tf.reduce_all(block[5:9] == head[6:10])
        follows = tf.where(within, 1 + block[0], 2)
        return tf.where(ended, at, at + follows), tf.where(within, block[0] > 0, extension), opaque & (~ended | whole), ended

    start = (GIF_HEADER + palette, tf.constant(False), tf.constant(True), tf.constant(False))
    _, _, opaque, ended = tf.while_loop(may_follow, step, start, maximum_iterations=10 * MAX_BLOCKS)
    tf.debugging.Assert(opaque & ended, ["a transparent GIF; convert it to PNG"])


def is_bmp(encoded: tf.Tensor) -> tf.Tensor:
    """Tells whether a file is a BMP.

    Args:
        encoded: a file, scalar string.
    """
    return tf.strings.substr(encoded, 0, len(BMP_SIGNATURE)) == BMP_SIGNATURE


def check_bmp(encoded: tf.Tensor) -> None:
    """Fails on a BMP other than one of 24 bits without compression, of which TensorFlow would show wrong colours.

    Args:
        encoded: a BMP file, scalar string.

    Raises:
        InvalidArgumentError: when the graph runs.
    """
    whole = tf.strings.length(encoded) > BMP_FIELDS
    fields = _bytes(tf.cond(whole, lambda: tf.strings.substr(encoded, BMP_HEADER, 20), lambda: 20 * b"\0"))
    plain = (fields[0] >= 40) & tf.reduce_all(fields[14:20] == [24, 0, 0, 0, 0, 0])  # bits per pixel, compression
    tf.debugging.Assert(plain, ["a BMP with a palette, compression or transparency; convert it to PNG"])


def _bytes(raw: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.decode_raw(raw, tf.uint8), tf.int32)


def scale_levels(image: tf.Tensor, grey: tf.Tensor) -> tf.Tensor:
    """Scales pixels of 16 bits to 8, as `dataset.images` does when it converts.

    Args:
        image: uint16 (height, width, 4), RGB and alpha.
        grey: whether the file has neither colours nor an alpha channel, and so is scaled by its own range.

    Returns:
        Uint8 of the same shape.
    """
    levels = tf.cast(image, tf.int32)
    colours, alpha = levels[..., :3], levels[..., 3:] // 256

    def own_range() -> tuple[tf.Tensor, tf.Tensor]:
        low, high = tf.reduce_min(colours), tf.reduce_max(colours)
        return tf.where(low < high, low, 0), high

    def full_scale() -> tuple[tf.Tensor, tf.Tensor]:
        highest = tf.reduce_max(tf.where(alpha > 0, colours, 0))
        return 0, tf.gather(WHITE_LEVELS, tf.reduce_sum(tf.cast(highest > WHITE_LEVELS, tf.int32)))

    low, high = tf.cond(grey, own_range, full_scale)
    span = tf.maximum(high - low, 1)
    scaled = tf.clip_by_value((510 * (colours - low) + span) // (2 * span), 0, 255)
    return tf.cast(tf.concat([scaled, alpha], -1), tf.uint8)


def _tiff_orientation(block: tf.Tensor) -> tf.Tensor:
    """Reads the orientation from a TIFF block, as EXIF holds it."""
    order = tf.strings.substr(block, 0, 4)
    kinds = [(order == kind, partial(_first_directory, block, kind == TIFF_LITTLE)) for kind in (TIFF_LITTLE, TIFF_BIG)]
    orientation = tf.case(kinds, default=_upright)
    return tf.where((orientation >= UPRIGHT) & (orientation <= ORIENTATIONS), orientation, UPRIGHT)


def _first_directory(block: tf.Tensor, little: bool) -> tf.Tensor:
    """Reads the orientation from the first directory; of several, the last counts, as for Pillow."""
    size = tf.strings.length(block)
    start = _int(tf.strings.substr(block, 4, 4), little)

    def entries() -> tf.Tensor:
        count = _shorts(tf.strings.substr(block, start, 2), little)[0]
        whole = tf.minimum(count, (size - start - 2) // TIFF_ENTRY)
        fields = tf.reshape(_shorts(tf.strings.substr(block, start + 2, TIFF_ENTRY * whole), little), (-1, TIFF_ENTRY // 2))
        low, high = (0, 1) if little else (1, 0)

        def long(column: int) -> tf.Tensor:
            return fields[:, column + low] + 65536 * fields[:, column + high]

        kind = fields[:, 1]
        is_orientation = (fields[:, 0] == TIFF_ORIENTATION) & ((kind == TIFF_SHORT) | (kind == TIFF_LONG)) & (long(2) == 1)
        values = tf.where(kind == TIFF_SHORT, fields[:, 4], long(4))
        return tf.concat([[UPRIGHT], tf.boolean_mask(values, is_orientation)], 0)[-1]

    return tf.cond((start >= 8) & (start <= size - 2), entries, _upright)


def _upright() -> tf.Tensor:
    return tf.constant(UPRIGHT)


def _shorts(raw: tf.Tensor, little: bool) -> tf.Tensor:
    return tf.cast(tf.io.decode_raw(raw, tf.uint16, little_endian=little), tf.int32)


def _int(raw: tf.Tensor, little: bool) -> tf.Tensor:
    """Returns the number in four bytes; negative if there are fewer, or if it is above 2^31."""
    padded = tf.cond(tf.strings.length(raw) == 4, lambda: raw, lambda: b"\xff\xff\xff\xff")
    return tf.io.decode_raw(padded, tf.int32, little_endian=little)[0]


def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors a square image as its EXIF orientation says.

    Args:
        image: (size, size, channels).
        orientation: 1 to 8, int32.

    Returns:
        The upright image, of the same shape.
    """

    def mirrored(axes: list[int]) -> tf.Tensor:
        return tf.reverse(image, axes)

    def transposed(axes: list[int]) -> tf.Tensor:
        turned = tf.transpose(image, (1, 0, 2))
        return tf.reverse(turned, axes) if axes else turned

    upright = [lambda: tf.identity(image), *(partial(mirrored, axes) for axes in ([1], [0, 1], [0]))]
    branch = tf.convert_to_tensor(orientation) - 1  # outside a graph `tf.case` hands the number on as it is
    return tf.switch_case(branch, [*upright, *(partial(transposed, axes) for axes in ([], [1], [0, 1], [0]))])


def lay_on_white(image: tf.Tensor) -> tf.Tensor:
    """Lays an image with transparency on white; opaque pixels keep their values.

    Args:
        image: uint8 (height, width, 4), RGB and alpha.

    Returns:
        Uint8 (height, width, 3) RGB.
    """
    colours, alpha = tf.cast(image[..., :3], tf.float32), tf.cast(image[..., 3:], tf.float32)
    return tf.cast(tf.round((colours * alpha + 255 * (255 - alpha)) / 255), tf.uint8)
