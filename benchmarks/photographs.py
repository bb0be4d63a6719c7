"""The pictures that benchmarks read: real photographs where there are any, else the sample's drawn ones."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from kfp_vision import sample

DRAWN_A_CLASS = 60


def copies(folder: Path, times: int) -> Path:
    """Makes `folder` with a folder a class, each picture `times` under different names, and gives it."""
    for name, encoded in read():
        label, _, file_name = name.partition("/")
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(times):
            (folder / label / f"{number}-{file_name}").write_bytes(encoded)
    return folder


def read() -> Iterator[tuple[str, bytes]]:
    """Names, `class/file`, and bytes of the pictures.

    The photographs lie where the tests find them: in `flower_photos` below KFP_VISION_DATA, or of `../shared/data`.
    """
    photographs = data() / "flower_photos"
    yield from _real(photographs) if photographs.is_dir() else _drawn()


def data() -> Path:
    """Where the tests find real data: KFP_VISION_DATA, or `../shared/data`."""
    return Path(os.environ.get("KFP_VISION_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def googlenet(benchmark: str) -> Path | None:
    """Caffe's weights beside the photographs; where there are none, says that a benchmark is left out."""
    weights = data() / "googlenet" / "bvlc_googlenet.npz"
    if weights.exists():
        return weights
    print(f"{benchmark} is left out: there are no weights at {weights}", file=sys.stderr)
    return None


def _real(photographs: Path):
    for path in sorted(photographs.glob("*/*.jpg")):
        yield f"{path.parent.name}/{path.name}", path.read_bytes()


def _drawn():
    for name in sample.names():
        if name.endswith(".jpg") and int(Path(name).stem) <= DRAWN_A_CLASS:
            yield name, sample.draw(name)
