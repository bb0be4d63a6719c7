"""TensorFlow and Keras come without scikit-learn, pandas and Matplotlib, which stay importable."""

import json
import subprocess
import sys

import pytest

from kfp_vision.core import frameworks

pytestmark = pytest.mark.slow

# What the stages with a network import, but for kserve, which imports pandas itself.
STAGES = (
    "kfp_vision.training.train",
    "kfp_vision.evaluation.evaluate",
    "kfp_vision.prediction.batch",
    "kfp_vision.prediction.export",
    "kfp_vision.search.build",
    "kfp_vision.search.audit",
)
SERVER = ("kfp_vision.serving.server", "kfp_vision.serving.app", "kfp_vision.serving.grpc_server")


def run(program: str, *arguments: str) -> object:
    """Runs a program in a fresh process; returns what it prints, a line of JSON."""
    command = [sys.executable, "-c", program, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize(
    ("modules", "without"), [(STAGES, {"sklearn", "pandas", "matplotlib"}), (SERVER, {"sklearn", "matplotlib"})]
)
def test_stages_and_server_load_none_of_the_packages_that_keras_would_import(modules, without):
    program = (
        "import importlib, json, sys\n"
        "from kfp_vision.core.frameworks import keras, tf\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "loaded = list(sys.modules)\n"
        "import sklearn.metrics, matplotlib.figure, pandas\n"
        "json.dump([loaded, sys.modules['tensorflow'] is tf and sys.modules['keras'] is keras], sys.stdout)"
    )
    loaded, the_same = run(program, *modules)
    assert without <= frameworks.NOT_NEEDED and without.isdisjoint(loaded)
    assert the_same and {"tensorflow", "keras", *modules} <= set(loaded)


def test_packages_loaded_before_and_imports_of_other_threads_are_left_alone():
    program = (
        "import importlib, json, matplotlib, sys, threading\n"
        "from kfp_vision.core import hidden_imports\n"
        "found = {}\n"
        "with hidden_imports.hide({'matplotlib', 'pandas', 'sklearn'}):\n"
        "    import matplotlib.ticker\n"
        "    try: import pandas\n"
        "    except ModuleNotFoundError as error: found['here'] = error.name\n"
        "    thread = threading.Thread(target=lambda: found.update(there=importlib.import_module('sklearn').__name__))\n"
        "    thread.start(); thread.join()\n"
        "json.dump([found, [type(one).__name__ for one in sys.meta_path if 'Missing' in type(one).__name__]], sys.stdout)"
    )
    assert run(program) == [{"here": "pandas", "there": "sklearn"}, []]
