"""Shared by the tests of every layer: the real data, what is run in which order, and the settings of Hypothesis."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import small_network
from support.skip import leave_out, skip_slow

pytest_plugins = ["support.leftovers", "support.chromium"]

# How long an example takes depends on the machine and its load.
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

ROOT = Path(__file__).resolve().parent.parent

# The files that take the most time, the longest first: the short ones then fill the gaps between the workers.
LONGEST = (
    "containers/test_docker_run.py",
    "unit/training/test_workers.py",
    "project/test_benchmarks.py",
    "services/test_outages.py",
    "unit/networks/test_keras_applications.py",
    "services/test_whole_loop.py",
    "unit/training/test_train.py",
    "unit/training/test_input_pipeline.py",
    "unit/cli/test_commands.py",
    "unit/networks/test_networks.py",
    "unit/evaluation/test_evaluate.py",
    "pipelines/test_photographs.py",
    "services/test_page_commands.py",
    "services/test_train_on_cluster.py",
    "services/test_repositories.py",
    "components/test_killed_stages.py",
    "unit/training/test_checkpointing.py",
    "services/test_server.py",
    "unit/engines/test_cropping.py",
    "pipelines/test_release.py",
    "unit/deployment/test_deploy.py",
    "unit/networks/test_pretrained.py",
    "unit/training/test_optimizers.py",
    "browser/test_why.py",
    "unit/training/test_several_labels.py",
    "services/test_bad_requests.py",
    "services/test_kserve.py",
    "containers/test_killed_containers.py",
    "services/test_stores.py",
    "pipelines/test_killed_runs.py",
    "unit/engines/test_openvino_engine.py",
    "pipelines/test_local_run.py",
    "pipelines/test_compiled.py",
    "browser/test_page.py",
    "project/test_imports.py",
    "unit/training/test_sweep.py",
    "pipelines/test_quick_classification.py",
    "pipelines/test_several_labels.py",
    "services/test_kfp_commands.py",
    "services/test_searching.py",
    "unit/deployment/test_several_labels.py",
    "unit/records/test_any_data.py",
    "pipelines/test_train_only.py",
    "unit/exports/test_convert.py",
    "pipelines/test_hyperparameter_sweep.py",
    "unit/exports/test_several_labels.py",
    "browser/test_label_page.py",
    "unit/exports/test_export.py",
    "unit/evaluation/test_evaluate_several_labels.py",
    "pipelines/test_partitioned_run.py",
    "components/test_search_stages.py",
    "pipelines/test_batch_prediction.py",
    "unit/search/test_audit.py",
    "pipelines/test_image_search.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option for every test; CI always runs them all."""
    parser.addoption("--all", action="store_true", default=bool(os.environ.get("CI")), help="run the slow tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips slow tests unless asked for; puts the longest files first, so that no worker is left with a long one at the end."""
    if not config.getoption("--all"):
        skip_slow(items)
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONGEST)))


@pytest.fixture(scope="module")
def small_network_registered() -> Iterator[None]:
    """Lets the stages and commands of a module train the network of `support.small_network`, by its name."""
    with small_network.registered():
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Returns the folder of real photographs and published weights."""
    folder = Path(os.environ.get("KFP_VISION_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        leave_out(f"no real data at {folder}; set KFP_VISION_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def flower_photos(real_data: Path) -> Path:
    """Returns the folder of 754 real photographs in five class folders."""
    return real_data / "flower_photos"
