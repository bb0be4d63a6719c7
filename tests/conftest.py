"""What the tests of every layer share: where the real data lies."""

import os
from pathlib import Path

import pytest
from left_out import leave_out

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs and published weights."""
    folder = Path(os.environ.get("KFP_VISION_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        leave_out(f"no real data at {folder}; KFP_VISION_DATA may say where it lies")
    return folder


@pytest.fixture(scope="session")
def flower_photos(real_data: Path) -> Path:
    """754 real photographs in five class folders."""
    return real_data / "flower_photos"
