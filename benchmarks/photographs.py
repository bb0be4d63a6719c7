"""Provides the images of the benchmarks: real photographs if available, otherwise the drawn sample images."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from kfp_vision.storage import sample

DRAWN_A_CLASS = 60


def write_copies(folder: Path, times: int) -> Path:
    """Writes copies of all images into class folders.

    Args:
        folder: folder to create.
        times: number of copies of each image, under different names.

    Returns:
        The folder.
    """
    for name, encoded in read_images():
        label, _, file_name = name.partition("/")
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(times):
            (folder / label / f"{number}-{file_name}").write_bytes(encoded)
    return folder


def read_images() -> Iterator[tuple[str, bytes]]:
    """Reads the images: photographs from `flower_photos` in the folder of `data` if it exists, otherwise sample images.

    Yields:
        Name, `class/file`, and encoded bytes of each image.
    """
    photographs = data_folder() / "flower_photos"
    yield from _real(photographs) if photographs.is_dir() else _drawn()


def data_folder() -> Path:
    """Returns the folder of real data that the tests use: KFP_VISION_DATA, or `../shared/data`."""
    return Path(os.environ.get("KFP_VISION_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def find_googlenet_weights(benchmark: str) -> Path | None:
    """Finds Caffe's GoogLeNet weights, and reports on stderr if a benchmark is skipped because they are missing.

    Args:
        benchmark: name of the benchmark.

    Returns:
        Path of the weights; None if missing.
    """
    weights = data_folder() / "googlenet" / "bvlc_googlenet.npz"
    if weights.exists():
        return weights
    print(f"{benchmark} is skipped: no weights at {weights}", file=sys.stderr)
    return None


def _real(photographs: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(photographs.glob("*/*.jpg")):
        yield f"{path.parent.name}/{path.name}", path.read_bytes()


def _drawn() -> Iterator[tuple[str, bytes]]:
    for name in sample.image_names():
        if name.endswith(".jpg") and int(Path(name).stem) <= DRAWN_A_CLASS:
            yield name, sample.draw(name)
