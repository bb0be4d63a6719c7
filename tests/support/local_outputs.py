"""Checks that the outputs announced by the stages of a local run exist."""

import json
from pathlib import Path


def unwritten(folder: Path) -> list[str]:
    """Lists the announced output artifacts without a file or folder, for which the page of KFP shows an error.

    KFP's executor lists every output artifact of a stage in the stage's `executor_output.json`, written or not.

    Args:
        folder: contains the outputs of the stages, including those of loop iterations, such as the folder of a run.

    Returns:
        `stage/artifact` for each, sorted.

    Raises:
        FileNotFoundError: if no stage has run there.
    """
    output_files = sorted(folder.rglob("executor_output.json"))
    if not output_files:
        raise FileNotFoundError(f"no stage left an executor_output.json below {folder}")
    missing = []
    for output_file in output_files:
        artifacts = json.loads(output_file.read_text(encoding="utf-8")).get("artifacts", {})
        for name, listed in artifacts.items():
            missing += [
                f"{output_file.parent.name}/{name}" for artifact in listed["artifacts"] if not Path(artifact["uri"]).exists()
            ]
    return sorted(missing)
