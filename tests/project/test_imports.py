"""Imports run one way, between rooms and between files; heavy packages are imported only where they are needed."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "kfp_vision"
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in LIBRARY.rglob("*.py")
}
ROOMS = sorted(f"kfp_vision.{file.parent.name}" for file in LIBRARY.glob("*/__init__.py"))
COMMAND_LINE = {name for name in MODULES if name.split(".")[:2] == ["kfp_vision", "cli"]}
NOT_FOR_ALL = ("tensorflow", "keras", "kserve", "kfp", "kfp_vision.components", "kfp_vision.pipelines")
# Their pods start in a moment, and need little memory.
STAGES_WITHOUT_TENSORFLOW = (
    "fingerprint_images",
    "ingest_images",
    "split_images",
    "write_tfrecords",
    "write_partition",
    "partition_records",
    "join_records",
    "check_run",
    "decide_training",
    "check_preparation",
    "check_prediction",
    "fetch_model",
    "join_predictions",
    "check_serving",
    "deploy_model",
    "call_endpoint",
    "report_outcome",
)


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
    modules = within(imported(ROOT / "components" / f"{stage}.py"), *ROOMS) & MODULES.keys()
    assert modules and brought_along(*modules) == set()


def test_the_command_line_answers_without_waiting_for_tensorflow():
    assert brought_along("kfp_vision.cli") == set()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - COMMAND_LINE))
def test_the_library_knows_nothing_above_it(module):
    assert within(imported(MODULES[module]), "kfp", "kfp_vision.components", "kfp_vision.pipelines") == set()


@pytest.mark.parametrize("file", sorted((ROOT / "components").glob("*.py")), ids=lambda file: file.stem)
def test_a_component_knows_nothing_of_pipelines(file):
    assert within(imported(file), "kfp_vision.pipelines", "kfp_vision.cli") == set()


def imports_of(files: dict[str, Path]) -> dict[str, set[str]]:
    """Maps each module to the modules among `files` that it imports anywhere, in functions too.

    A package ties nothing by itself: it is a docstring, or, of the command line, hands `main` on.
    """
    packages = set(ROOMS) - {"kfp_vision.networks"}
    return {name: (imported(file) & files.keys()) - {name} - packages for name, file in files.items()}


def test_no_file_imports_one_that_imports_it():
    TopologicalSorter(imports_of(MODULES)).prepare()  # CycleError names the circle


def test_no_room_imports_one_that_imports_it():
    rooms: dict[str, set[str]] = {}
    for name, imports in imports_of(MODULES).items():
        if name != "kfp_vision":
            room = name.split(".")[1]
            rooms.setdefault(room, set()).update({other.split(".")[1] for other in imports - {"kfp_vision"}} - {room})
    assert len(rooms) == len(ROOMS)
    TopologicalSorter(rooms).prepare()


def test_a_circle_is_found(tmp_path):
    (tmp_path / "one.py").write_text("from house import two")
    (tmp_path / "two.py").write_text("def lazily():\n    from house.one import name")
    files = {f"house.{file.stem}": file for file in tmp_path.glob("*.py")}
    with pytest.raises(CycleError):
        TopologicalSorter(imports_of(files)).prepare()


@pytest.mark.parametrize("room", ROOMS)
def test_the_file_of_a_package_is_its_docstring(room):
    body = ast.parse(MODULES[room].read_text(encoding="utf-8")).body
    assert ast.get_docstring(ast.Module(body, []))
    assert len(body) == 1 or room in ("kfp_vision.networks", "kfp_vision.cli")  # the registry, and `main`


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
