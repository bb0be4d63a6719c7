"""How Kubeflow's user interface finds the TensorBoard of a training that still runs."""

import json
from pathlib import Path

from kfp_vision import storage, stores

OPENED = ("s3", "gs")  # of the addresses that a training can write to, those that the user interface opens TensorBoard on


def write_link(log_uri: str, path: Path) -> None:
    """Writes what an artifact called `mlpipeline_ui_metadata` holds, for the user interface to offer TensorBoard beside it.

    TensorBoard is opened on the whole of log_uri: there each training has a folder of its own, and they can be compared. Where
    the settings of a bucket stand in its address they are left out, as TensorBoard has them from its environment.

    Args:
        log_uri: where trainings write their events; empty for nowhere.
        path: the file to write (JSON): the format of the output viewers of Kubeflow Pipelines 1, which version 2 still reads.
    """
    outputs = []
    if storage.scheme(log_uri) in OPENED:
        outputs.append({"type": "tensorboard", "source": stores.parted(log_uri)[0]})
    elif log_uri:
        print(
            f"the user interface opens TensorBoard on s3:// and gs:// alone: run tensorboard --logdir {stores.shown(log_uri)}"
        )
    with storage.replacing(path) as beside:
        beside.write_text(json.dumps({"version": 1, "outputs": outputs}), encoding="utf-8")
