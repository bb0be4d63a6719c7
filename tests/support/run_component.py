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

ARGUMENTS = re.compile(r"^    \{\n.*?^    \}\n", re.DOTALL | re.MULTILINE)  # what KFP says, as JSON, that it calls a stage with
PRINTED = re.compile(r"^    (?!\[KFP Executor)(.*\S.*)$", re.MULTILINE)  # KFP sets apart what a stage prints
ENDED = re.compile(r"Task '[\w-]+' finished")
COLOURS = re.compile(r"\x1b\[\d+m")


@dataclass(frozen=True)
class Ended:
    """A component that came to its end, well or not.

    Attributes:
        folder: where its outputs lie, each under its name.
        printed: the lines it printed.
        succeeded: whether KFP says so.
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
        """Everything that lies in the folder."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*"))


def run(component: BaseComponent, root: Path, artifacts: Mapping[str, Path] | None = None, **parameters: Any) -> Ended:
    """Runs a component.

    Args:
        component: one of `kfp_vision.components`.
        root: a folder for all that is made.
        artifacts: the input artifacts by name, as local paths.
        parameters: the other inputs.
    """

    @dsl.pipeline(name="one-step")
    def one_step():
        inputs = {name: imported(component, name, path) for name, path in (artifacts or {}).items()}
        component(**inputs, **parameters)

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    shown = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(shown):
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        succeeded = True
        try:
            one_step()
        except RuntimeError:
            succeeded = False
    folder = next(root.glob(f"one-step-*/{component.name}"), root / component.name)  # made with the first artifact only
    streamed = COLOURS.sub("", shown.getvalue()).partition(f"Executing task '{component.name}'")[2]
    printed = PRINTED.findall(ARGUMENTS.sub("", ENDED.split(streamed)[0]))
    said = json.loads((folder / "executor_output.json").read_text()) if succeeded else {}
    made = {name: listed["artifacts"][0]["metadata"] for name, listed in said.get("artifacts", {}).items()}
    values = said.get("parameterValues", {})
    return Ended(folder, printed, succeeded, values.get("Output"), made, values)


def to_ingest(images_uri: object, **fields: Any) -> dict[str, Any]:
    """What ingest_images takes of pictures at a place, the ratios excepted, with some fields changed."""
    data = {"images_uri": str(images_uri), "leave_out_uri": "", "task": "classification", "check_images": True}
    return {"fingerprint": "any", "advanced": {}} | data | fields


def imported(component: BaseComponent, name: str, path: Path) -> Any:
    """The artifact of a local path, of the type that the component's input of that name takes."""
    kind = component.component_spec.inputs[name].type.removeprefix("system.").partition("@")[0]
    return dsl.importer(artifact_uri=str(path), artifact_class=getattr(dsl, kind)).output


def refusal(ended: Ended, kept: Collection[str] = ()) -> str:
    """The one line that a component refused with; nothing else went wrong, and nothing was left behind.

    Args:
        ended: what `run` gave.
        kept: outputs that may be there all the same.

    Raises:
        AssertionError: it did not refuse, did not do so in one line, or left something that looks finished.
    """
    assert not ended.succeeded
    errors = [line for line in ended.printed if line.startswith("error: ")]
    assert len(errors) == 1 and ended.printed[-1] == errors[0], ended.printed
    assert "Traceback" not in "\n".join(ended.printed)
    assert [name for name in ended.left_behind() if name.partition("/")[0] not in kept] == []
    return errors[0]
