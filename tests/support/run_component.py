"""Runs one component as KFP runs it on this machine.

A component with an input artifact cannot be called alone there, but a pipeline of one step that imports local paths can.
"""

import contextlib
import io
import json
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import dsl, local
from kfp.dsl.base_component import BaseComponent

ARGUMENTS = re.compile(r"^    \{\n.*?^    \}\n", re.DOTALL | re.MULTILINE)  # the arguments of a stage, which KFP prints as JSON
PRINTED = re.compile(r"^    (?!\[KFP Executor)(.*\S.*)$", re.MULTILINE)  # KFP indents the output of a stage
ENDED = re.compile(r"Task '[\w-]+' finished")
ORIGIN = {  # where a model comes from, for deploy_model
    "form": {"images_uri": "sample", "train_steps": 3, "advanced": {"depth_multiplier": 0.1}, "tolerations": []},
    "pipeline": "image-classification",
    "data_fingerprint": "0ca8",
    "run_name": "sunday",
    "run_id": "8a2f",
}
COLOURS = re.compile(r"\x1b\[\d+m")


@dataclass(frozen=True)
class Result:
    """The result of a component that ended, successfully or not.

    Attributes:
        folder: its outputs, each under its name.
        printed: the lines it printed.
        succeeded: whether KFP reports success.
        output: the value of its unnamed output, if any.
        outputs: the values of all its output parameters, by name.
        metadata: of its output artifacts, by name.
    """

    folder: Path
    printed: list[str]
    succeeded: bool
    output: Any
    metadata: dict[str, dict[str, Any]]
    outputs: dict[str, Any]

    def left_behind(self) -> list[str]:
        """Lists all paths in the folder."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))


def run(component: BaseComponent, root: Path, artifacts: Mapping[str, Path] | None = None, **parameters: Any) -> Result:
    """Runs a component in a pipeline of one step.

    Args:
        component: one of `kfp_vision.components`.
        root: the pipeline root, for all outputs.
        artifacts: the input artifacts by name, as local paths.
        parameters: the other inputs.
    """

    @dsl.pipeline(name="one-step")
    def one_step():
        inputs = {name: import_artifact(component, name, path) for name, path in (artifacts or {}).items()}
        component(**inputs, **parameters)

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    stdout = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(stdout):
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        succeeded = True
        try:
            one_step()
        except RuntimeError:
            succeeded = False
    folder = next(root.glob(f"one-step-*/{component.name}"), root / component.name)  # made with the first artifact only
    streamed = COLOURS.sub("", stdout.getvalue()).partition(f"Executing task '{component.name}'")[2]
    printed = PRINTED.findall(ARGUMENTS.sub("", ENDED.split(streamed)[0]))
    output = json.loads((folder / "executor_output.json").read_text()) if succeeded else {}
    metadata = {name: listed["artifacts"][0]["metadata"] for name, listed in output.get("artifacts", {}).items()}
    values = output.get("parameterValues", {})
    return Result(folder, printed, succeeded, values.get("Output"), metadata, values)


def ingest_arguments(images_uri: object, **fields: Any) -> dict[str, Any]:
    """Returns the arguments of ingest_images for a data source, without the ratios, with some fields changed."""
    data = {
        "images_uri": str(images_uri),
        "leave_out_uri": "",
        "labels_uri": "",
        "labels": "one",
        "task": "classification",
        "check_images": True,
    }
    return {"fingerprint": "any", "advanced": {}} | data | fields


def import_artifact(component: BaseComponent, name: str, path: Path) -> Any:
    """Imports a local path as an artifact of the type of the named input of a component."""
    kind = component.component_spec.inputs[name].type.removeprefix("system.").partition("@")[0]
    return dsl.importer(artifact_uri=str(path), artifact_class=getattr(dsl, kind)).output


def error_line(ended: Result, kept: Collection[str] = ()) -> str:
    """Returns the error line of a component that failed with exactly one line and left no outputs.

    Args:
        ended: the result of `run`.
        kept: outputs that may exist.

    Raises:
        AssertionError: if it succeeded, printed more than one error line, or left other outputs.
    """
    assert not ended.succeeded
    errors = [line for line in ended.printed if line.startswith("error: ")]
    assert len(errors) == 1 and ended.printed[-1] == errors[0], ended.printed
    assert "Traceback" not in "\n".join(ended.printed)
    assert [name for name in ended.left_behind() if name.partition("/")[0] not in kept] == []
    return errors[0]
