"""Resizes images bilinearly, as TensorFlow does: with OpenCV, or in an image without it with NumPy.

OpenCV takes a fifth of the time, but with its libraries of video it is half as large as all else that the server imports.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

cv2: Any
try:
    import cv2
except ModuleNotFoundError:
    cv2 = None

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

MAX_FLOAT_SIDE = 1000  # pixels of an image that OpenCV resizes, in floats: beyond, it takes much memory and is less exact


def resize(pixels: Pixels, size: int, out: Floats | None = None) -> Floats:
    """Resizes an image to a square, with half-pixel centres and without antialiasing.

    Args:
        pixels: (height, width, 3).
        size: height and width of the result in pixels.
        out: (size, size, 3), contiguous, to write the result to; by default a new array.

    Returns:
        (size, size, 3), within 0.01 levels of TensorFlow's.
    """
    if cv2 and max(pixels.shape) <= MAX_FLOAT_SIDE:
        return resize_with_opencv(pixels, size, out)
    resized = resize_with_numpy(pixels, size)
    if out is None:
        return resized
    out[...] = resized
    return out


def resize_with_opencv(pixels: Pixels, size: int, out: Floats | None = None) -> Floats:
    """Resizes as `resize` does.

    Args:
        pixels: (height, width, 3).
        size: height and width of the result in pixels.
        out: as for `resize`.

    Returns:
        (size, size, 3).
    """
    floats = pixels.astype(np.float32, order="C")
    return np.asarray(cv2.resize(floats, (size, size), dst=out, interpolation=cv2.INTER_LINEAR))


def resize_with_numpy(pixels: Pixels, size: int) -> Floats:
    """Resizes as `resize` does, converting only the pixels that count to floats.

    Args:
        pixels: (height, width, 3).
        size: height and width of the result in pixels.

    Returns:
        (size, size, 3).
    """
    (rows, down), (columns, across) = (_neighbours(side, size) for side in pixels.shape[:2])
    upper, lower = (pixels[row].astype(np.float32) for row in rows)
    mixed = _mix(upper, lower, down[:, None, None])
    return _mix(mixed.take(columns[0], 1), mixed.take(columns[1], 1), across[:, None])


def _neighbours(side: int, size: int) -> tuple[npt.NDArray[np.intp], Floats]:
    """Returns for each place of a resized side the two pixels beside it, (2, size), and the weight of the second."""
    places = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(side / size) - np.float32(0.5)
    first = np.floor(places)
    return np.clip([first, first + 1], 0, side - 1).astype(np.intp), places - first


def _mix(first: Floats, second: Floats, weight: Floats) -> Floats:
    """Mixes two arrays, which it overwrites."""
    second -= first
    second *= weight
    first += second
    return first
