"""What the shell completes, by the real argcomplete, and that other commands do not import it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_vision.cli import completion
from kfp_vision.cli.run import form_fields
from kfp_vision.pipelines import PIPELINES

COMMAND = Path(sys.executable).parent / "kfp-vision"


def completions(line: str, folder: Path) -> list[str]:
    """Returns what argcomplete offers at the end of a command line, as a shell asks for it."""
    answers = folder / "answers"
    settings = {
        "_ARGCOMPLETE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answers),
    }
    environment = os.environ | settings | {"_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1"}
    subprocess.run([COMMAND], env=environment, cwd=folder, check=False, capture_output=True)
    return [word.strip() for word in answers.read_text(encoding="utf-8").split("\n")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kfp-vision fie", ["fields"]),
        ("kfp-vision run quick", ["quick_classification"]),
        ("kfp-vision fields image_", [name for name in sorted(PIPELINES) if name.startswith("image_")]),
        ("kfp-vision run quick_classification -p m", ["min_accuracy=", "model_name="]),
        ("kfp-vision run batch_prediction -p p", ["partitions=", "predict_uri="]),
        ("kfp-vision run --runner d", ["docker"]),
    ],
)
def test_the_shell_is_offered_commands_pipelines_and_fields(line, expected, tmp_path):
    assert completions(line, tmp_path) == expected


def test_the_names_are_those_of_the_pipelines():
    assert completion.pipeline_names() == sorted(PIPELINES)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_fields_are_those_of_the_form(name):
    class Typed:
        pipeline = name

    assert completion.assignments(Typed()) == [f"{field}=" for field in sorted(form_fields(PIPELINES[name]))]


@pytest.mark.parametrize("arguments", [["--version"], ["sample", "--help"]])
def test_a_command_imports_neither_kfp_nor_argcomplete_to_start(arguments):
    script = "import sys\nfrom kfp_vision.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    script += "assert not {'kfp', 'argcomplete', 'tensorflow'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
