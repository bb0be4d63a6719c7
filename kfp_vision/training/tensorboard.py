"""The link to TensorBoard in Kubeflow's user interface."""

import json
from pathlib import Path

from kfp_vision.storage import atomic, base, uris

TENSORBOARD_SCHEMES = ("s3", "gs")  # URI schemes for which the user interface can start TensorBoard


def write_tensorboard_link(log_uri: str, path: Path) -> None:
    """Writes the artifact `mlpipeline_ui_metadata`, with which Kubeflow's user interface offers TensorBoard during a training.

    TensorBoard shows the whole of `log_uri`, where each training has a folder of its own, to compare them. Settings in the
    address of a bucket are removed: TensorBoard takes them from its environment.

    Args:
        log_uri: where trainings write their events; empty for nowhere.
        path: file to write (JSON), in the output viewer format of Kubeflow Pipelines 1, which version 2 still reads.
    """
    outputs = []
    if uris.scheme_of(log_uri) in TENSORBOARD_SCHEMES:
        outputs.append({"type": "tensorboard", "source": base.split_settings(log_uri)[0]})
    elif log_uri:
        shown = base.redact_uri(log_uri)
        print(f"the user interface opens TensorBoard only on s3:// and gs://: run tensorboard --logdir {shown}")
    with atomic.replacing(path) as beside:
        beside.write_text(json.dumps({"version": 1, "outputs": outputs}), encoding="utf-8")
