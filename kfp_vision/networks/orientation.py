"""Shows an image as a person sees it, in graph operations: turned as its EXIF orientation says, transparent pixels on white.

Part of the exported SavedModel, so it uses only operations that TensorFlow 2.6 has, and reads the bytes of the file itself. An
orientation that cannot be read counts as upright.
"""

from functools import partial

import tensorflow as tf

UPRIGHT, ORIENTATIONS = 1, 8  # EXIF 2.3, section 4.6.4: values 1 to 8
MAX_BLOCKS = 100  # segments or chunks looked at before the pixels; bounds the time that a crafted file can take
EXIF_PREFIX = b"Exif\0\0"  # of the TIFF block in a JPEG
JPEG_FILL, JPEG_EXIF, JPEG_END, JPEG_SCAN = 0xFFFF, 0xFFE1, 0xFFD9, 0xFFDA  # ITU-T T.81, table B.1
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COLOUR_TYPE, PNG_ALPHA_TYPES = 25, (b"\x04", b"\x06")  # place in the file, and the types with an alpha channel
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
    length = tf.strings.length(encoded)

    def may_follow(at: tf.Tensor, found: tf.Tensor, ended: tf.Tensor) -> tf.Tensor:
        return (at + 4 <= length) & ~found & ~ended

    def step(at: tf.Tensor, found: tf.Tensor, ended: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        head = _shorts(tf.strings.substr(encoded, at, 4), little=False)
        marker, size = head[0], head[1]
        found = (marker == JPEG_EXIF) & (tf.strings.substr(encoded, at + 4, len(EXIF_PREFIX)) == EXIF_PREFIX)
        fill = marker == JPEG_FILL
        ended = (marker <= 0xFF00) | (marker == JPEG_SCAN) | (marker == JPEG_END) | ((size < 2) & ~fill)
        return tf.where(found, at, at + tf.where(fill, 1, 2 + size)), found, ended

    at, found, _ = tf.while_loop(may_follow, step, (2, tf.constant(False), tf.constant(False)), maximum_iterations=MAX_BLOCKS)
    return tf.cond(found, lambda: _tiff_orientation(_jpeg_exif(encoded, at)), _upright)


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
    is_png = (tf.strings.substr(encoded, 0, len(PNG_SIGNATURE)) == PNG_SIGNATURE) & (length > PNG_COLOUR_TYPE)

    def may_follow(at: tf.Tensor, exif: tf.Tensor, transparent: tf.Tensor, ended: tf.Tensor) -> tf.Tensor:
        return is_png & (at + 8 <= length) & ~ended

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
    transparent |= is_png & tf.reduce_any(colour_type == tf.constant(PNG_ALPHA_TYPES))
    return tf.cond(exif > 0, from_exif, _upright), transparent


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
    return tf.switch_case(orientation - 1, [*upright, *(partial(transposed, axes) for axes in ([], [1], [0, 1], [0]))])


def lay_on_white(image: tf.Tensor) -> tf.Tensor:
    """Lays an image with transparency on white; opaque pixels keep their values.

    Args:
        image: uint8 (height, width, 4), RGB and alpha.

    Returns:
        Uint8 (height, width, 3) RGB.
    """
    colours, alpha = tf.cast(image[..., :3], tf.float32), tf.cast(image[..., 3:], tf.float32)
    return tf.cast(tf.round((colours * alpha + 255 * (255 - alpha)) / 255), tf.uint8)
