"""What the stages of a local run said that they made, and whether it is there."""

import json
from pathlib import Path


def unwritten(folder: Path) -> list[str]:
    """The output artifacts that no file or folder stands behind: the page of KFP shows an error in red in their place.

    KFP's executor lists every output artifact of a stage in the stage's `executor_output.json`, written or not.

    Args:
        folder: below which the outputs of the stages lie, such as a run's; the turns of loops among them.

    Returns:
        Stage and artifact of each, in order.

    Raises:
        FileNotFoundError: if no stage has run there.
    """
    told = sorted(folder.rglob("executor_output.json"))
    if not told:
        raise FileNotFoundError(f"no stage left an executor_output.json below {folder}")
    missing = []
    for said in told:
        made = json.loads(said.read_text(encoding="utf-8")).get("artifacts", {})
        for name, listed in made.items():
            missing += [f"{said.parent.name}/{name}" for one in listed["artifacts"] if not Path(one["uri"]).exists()]
    return sorted(missing)
