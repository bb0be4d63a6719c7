"""Imports form no cycle, between packages and between modules; heavy packages are imported only where needed."""

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
PACKAGES = sorted(f"kfp_vision.{file.parent.name}" for file in LIBRARY.glob("*/__init__.py"))
FORMER_PLACES = {"kfp_vision.pictures", "kfp_vision.export"}  # of names; in no room, and import only where a name is now
FORWARDING = {"kfp_vision.records", "kfp_vision.repository"}  # rooms that were modules, and still give a former name
COMMAND_LINE = {name for name in MODULES if name.split(".")[:2] == ["kfp_vision", "cli"]}
HEAVY_PACKAGES = ("tensorflow", "keras", "kserve", "kfp", "kubernetes", "kfp_vision.components", "kfp_vision.pipelines")
# Their pods start fast and need little memory.
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
    "check_collected",
    "check_drift",
    "collect_logged",
    "fetch_model",
    "join_predictions",
    "check_serving",
    "deploy_model",
    "call_endpoint",
    "evaluate_classifier",
    "predict_images",
    "index_images",
    "search_images",
    "audit_images",
    "export_model",
    "report_outcome",
)


def loaded_packages(*modules: str) -> set[str]:
    """Returns which of `HEAVY_PACKAGES` a fresh process loads by importing the modules."""
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    command = [sys.executable, "-c", program, *modules]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.split()) & set(HEAVY_PACKAGES)


def test_the_pipelines_import_quickly():
    program = "import time, kfp_vision.components\nstart = time.process_time()\n"
    program += "import kfp_vision.pipelines\nprint(time.process_time() - start)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 4  # half a second; eight if KFP searches all modules for each argument


def imported_modules(file: Path) -> set[str]:
    """Returns the names of the modules that a file imports anywhere, and of everything it imports from them."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports out in full"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def select_below(names: set[str], *packages: str) -> set[str]:
    return {name for name in names if any(name == package or name.startswith(f"{package}.") for package in packages)}


@pytest.mark.parametrize("package", ["kfp_vision.components", "kfp_vision.pipelines"])
def test_components_and_pipelines_do_not_import_tensorflow(package):
    assert loaded_packages(package).isdisjoint({"tensorflow", "keras"})


@pytest.mark.slow
def test_the_library_does_not_import_kfp():
    library = sorted(MODULES.keys() - COMMAND_LINE)
    assert {"kfp_vision.networks.inception", "kfp_vision.training.train", "kfp_vision.reports.pages"} < set(library)
    assert loaded_packages(*library) == {"tensorflow", "keras", "kserve", "kubernetes"}


@pytest.mark.parametrize("stage", STAGES_WITHOUT_TENSORFLOW)
def test_stages_without_a_network_do_not_import_tensorflow(stage):
    modules = select_below(imported_modules(ROOT / "components" / f"{stage}.py"), *PACKAGES) & MODULES.keys()
    assert modules and loaded_packages(*modules) == set()


def test_the_command_line_starts_without_heavy_packages():
    assert loaded_packages("kfp_vision.cli") == set()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - COMMAND_LINE))
def test_the_library_does_not_import_kfp_components_or_pipelines(module):
    assert select_below(imported_modules(MODULES[module]), "kfp", "kfp_vision.components", "kfp_vision.pipelines") == set()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"kfp_vision.core.frameworks"}))
def test_tensorflow_and_keras_are_imported_in_one_place(module):
    assert select_below(imported_modules(MODULES[module]), "tensorflow", "keras") == set()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"kfp_vision.engines.openvino_runtime"}))
def test_openvino_is_imported_in_one_place(module):
    assert select_below(imported_modules(MODULES[module]), "openvino") == set()


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"kfp_vision.serving.kserve_parts"}))
def test_kserve_is_imported_in_one_place(module):
    assert select_below(imported_modules(MODULES[module]), "kserve") == set()


def test_the_server_starts_without_what_only_other_parts_of_kserve_need():
    program = "import sys, kfp_vision.serving.app, kfp_vision.serving.grpc_server, kfp_vision.engines.openvino_engine\n"
    program += "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert {"kserve", "kserve.protocol.dataplane", "openvino"} <= loaded
    assert loaded.isdisjoint({"pandas", "kubernetes", "google.auth", "tensorflow", "keras", "sklearn"})


@pytest.mark.parametrize("file", sorted((ROOT / "components").glob("*.py")), ids=lambda file: file.stem)
def test_a_component_does_not_import_pipelines_or_the_command_line(file):
    assert select_below(imported_modules(file), "kfp_vision.pipelines", "kfp_vision.cli") == set()


def import_graph(files: dict[str, Path]) -> dict[str, set[str]]:
    """Maps each module to the modules among `files` that it imports anywhere, in functions too.

    Packages do not count: their files hold a docstring, or, for the command line, re-export `main`. What is imported for a
    former name does not count either: `core.former_names` imports it by its text.
    """
    packages = set(PACKAGES) - {"kfp_vision.networks"}
    return {name: (imported_modules(file) & files.keys()) - {name} - packages for name, file in files.items()}


def test_modules_do_not_import_each_other_in_a_cycle():
    TopologicalSorter(import_graph(MODULES)).prepare()  # CycleError names the cycle


def test_packages_do_not_import_each_other_in_a_cycle():
    graph: dict[str, set[str]] = {}
    for name, imports in import_graph(MODULES).items():
        if name not in {"kfp_vision", *FORMER_PLACES}:
            package = name.split(".")[1]
            graph.setdefault(package, set()).update({other.split(".")[1] for other in imports - {"kfp_vision"}} - {package})
    assert len(graph) == len(PACKAGES)
    TopologicalSorter(graph).prepare()


def test_detects_an_import_cycle(tmp_path):
    (tmp_path / "one.py").write_text("from project import two")
    (tmp_path / "two.py").write_text("def lazily():\n    from project.one import name")
    files = {f"project.{file.stem}": file for file in tmp_path.glob("*.py")}
    with pytest.raises(CycleError):
        TopologicalSorter(import_graph(files)).prepare()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_file_holds_only_its_docstring(package):
    body = ast.parse(MODULES[package].read_text(encoding="utf-8")).body
    assert ast.get_docstring(ast.Module(body, []))
    if package in FORWARDING:
        assert [ast.unparse(line).partition("(")[0] for line in body[1:]] == [
            "from kfp_vision.core.former_names import forward",
            "__getattr__ = forward",
        ]
        return
    assert len(body) == 1 or package in ("kfp_vision.networks", "kfp_vision.cli")  # the registry, and `main`


@pytest.mark.parametrize("module", sorted(FORMER_PLACES | FORWARDING))
def test_a_former_place_imports_nothing_until_a_name_is_used(module):
    assert imported_modules(MODULES[module]) & MODULES.keys() == {"kfp_vision.core.former_names"}


@pytest.mark.slow
def test_the_plain_install_compiles_without_the_packages_of_the_stages():
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
