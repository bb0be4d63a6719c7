"""What the tests of every layer share: where the real data lies, in which order they run, and what they are not judged by."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.skip import leave_out

pytest_plugins = ["support.leftovers"]

# How long an example takes says something of the machine, and of what else it does.
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parent.parent

# The files that take minutes, more or less the longest first: the short ones fill up what is left of the time.
LONGEST = (
    "containers/test_docker_run.py",
    "unit/networks/test_applications.py",
    "pipelines/test_killed_runs.py",
    "components/test_killed_stages.py",
    "pipelines/test_local_run.py",
    "services/test_outages.py",
    "unit/training/test_checkpointing.py",
    "services/test_server.py",
    "project/test_benchmarks.py",
    "containers/test_killed_containers.py",
    "unit/training/test_train.py",
    "unit/records/test_convert.py",
    "unit/records/test_any_data.py",
    "unit/search/test_index.py",
    "services/test_searching.py",
    "services/test_bad_requests.py",
    "services/test_repositories.py",
    "services/test_stores.py",
    "pipelines/test_image_search.py",
    "pipelines/test_hyperparameter_sweep.py",
    "pipelines/test_release.py",
    "pipelines/test_batch_prediction.py",
    "pipelines/test_partitioned_run.py",
    "components/test_search_stages.py",
    "unit/training/test_workers.py",
    "unit/cli/test_commands.py",
    "unit/training/test_sweep.py",
    "browser/test_page.py",
    "unit/networks/test_networks.py",
    "unit/storage/test_killed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first, or one of several that work at the tests has the last of them to itself."""
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))


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
