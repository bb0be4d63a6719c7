"""What the tests of every layer share: where the real data lies."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from left_out import leave_out

pytest_plugins = ["leftovers"]

# How long an example takes says something of the machine, and of what else it does.
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

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
