"""Arrows run one way: pipelines, components, library. And what is heavy is imported by those alone who need it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "kfp_vision"
COMMAND_LINE = {"kfp_vision.cli", "kfp_vision.cli.containers", "kfp_vision.cli.run"}
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in LIBRARY.rglob("*.py")
}
NOT_FOR_ALL = ("tensorflow", "keras", "kserve", "kfp", "kfp_vision.components", "kfp_vision.pipelines")
PATIENCE = ("kfp_vision.storage.retry", "kfp_vision.storage.retry.CHECK_SECONDS")  # of the stages that check a form
# What the bodies of these stages import.
STAGES_WITHOUT_TENSORFLOW = {
    "fingerprint_images": ["kfp_vision.dataset.scan", "kfp_vision.storage.reading"],
    "ingest_images": ["kfp_vision.dataset.scan", "kfp_vision.storage.reading"],
    "split_images": ["kfp_vision.preflight.rules", "kfp_vision.dataset.split"],
    "write_tfrecords": ["kfp_vision.preflight.rules", "kfp_vision.records.partitions", "kfp_vision.storage.reading"],
    "write_partition": ["kfp_vision.preflight.rules", "kfp_vision.records.partitions", "kfp_vision.storage.reading"],
    "partition_records": ["kfp_vision.records.partitions"],
    "join_records": ["kfp_vision.preflight.rules", "kfp_vision.records.partitions"],
    "check_run": ["kfp_vision.preflight.rules", "kfp_vision.storage.reading", "kfp_vision.training.tensorboard", *PATIENCE],
    "decide_training": ["kfp_vision.deployment.deploy", "kfp_vision.preflight.rules", "kfp_vision.storage.reading"],
    "check_preparation": ["kfp_vision.preflight.rules", "kfp_vision.storage.reading", *PATIENCE],
    "check_prediction": ["kfp_vision.preflight.rules", "kfp_vision.storage.reading", *PATIENCE],
    "fetch_model": ["kfp_vision.repository.version"],
    "join_predictions": ["kfp_vision.prediction.batch", "kfp_vision.repository.version", "kfp_vision.storage.reading"],
    "check_serving": ["kfp_vision.deployment.deploy"],
    "deploy_model": ["kfp_vision.deployment.deploy", "kfp_vision.preflight.rules", "kfp_vision.storage.reading"],
    "call_endpoint": ["kfp_vision.deployment.deploy", "kfp_vision.storage.reading"],
    "report_outcome": ["kfp_vision.reports.outcome"],
}


def brought_along(*modules: str) -> set[str]:
    """Which of `NOT_FOR_ALL` a fresh process holds after it imported the modules."""
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    command = [sys.executable, "-c", program, *modules]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.split()) & set(NOT_FOR_ALL)


def test_the_pipelines_are_there_in_a_moment():
    program = "import time, kfp_vision.components\nstart = time.process_time()\n"
    program += "import kfp_vision.pipelines\nprint(time.process_time() - start)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 4  # half a second; eight where KFP looks through all modules for each value that it is given


def imported(file: Path) -> set[str]:
    """Names of the modules that a file imports anywhere, those below a package written out."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports out in full"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if any(name == package or name.startswith(f"{package}.") for package in packages)}


@pytest.mark.parametrize("package", ["kfp_vision.components", "kfp_vision.pipelines"])
def test_what_is_compiled_does_not_need_tensorflow(package):
    assert brought_along(package).isdisjoint({"tensorflow", "keras"})


def test_the_library_does_not_need_kfp():
    library = sorted(MODULES.keys() - COMMAND_LINE)
    assert {"kfp_vision.networks.inception", "kfp_vision.training.train", "kfp_vision.reports.pages"} < set(library)
    assert brought_along(*library) == {"tensorflow", "keras", "kserve"}


@pytest.mark.parametrize("stage", STAGES_WITHOUT_TENSORFLOW)
def test_a_stage_that_computes_nothing_does_not_wait_for_tensorflow(stage):
    modules = STAGES_WITHOUT_TENSORFLOW[stage]
    assert within(imported(ROOT / "components" / f"{stage}.py"), "kfp_vision") - {"kfp_vision", *modules} == {
        "kfp_vision.components.images",
        "kfp_vision.components.images.CPU_IMAGE",
    }
    assert brought_along(*(module for module in modules if module not in PATIENCE[1:])) == set()


def test_the_command_line_answers_without_waiting_for_tensorflow():
    assert brought_along("kfp_vision.cli") == set()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - COMMAND_LINE))
def test_the_library_knows_nothing_above_it(module):
    assert within(imported(MODULES[module]), "kfp", "kfp_vision.components", "kfp_vision.pipelines") == set()


@pytest.mark.parametrize("file", sorted((ROOT / "components").glob("*.py")), ids=lambda file: file.stem)
def test_a_component_knows_nothing_of_pipelines(file):
    assert within(imported(file), "kfp_vision.pipelines", "kfp_vision.cli", "kfp_vision.cli.run") == set()


def test_the_plain_install_compiles_without_what_the_stages_run_on():
    program = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'numpy', 'PIL', 'sklearn', 'matplotlib', 'jinja2', 'minio', 'google.cloud'):\n"
        "    sys.modules[name] = None\n"
        "from kfp_vision.cli import main\n"
        "assert main(['compile', '--check']) == 0\n"
        "sys.exit(main(['sample', 'nowhere']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.stdout == "every YAML is up to date\n"
    assert done.stderr.startswith("error: the packages that the stages run on must be installed; got import of PIL halted")
    assert done.stderr.endswith("Install kfp-vision[cpu], or kfp-vision[gpu].\n")
    assert done.returncode == 1
