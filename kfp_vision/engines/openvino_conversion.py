"""Converts a frozen TensorFlow graph to OpenVINO's format, in a process of its own: `python -m` this module.

It needs no TensorFlow. What the converted model answers is compared with what TensorFlow answered, before it is kept.
"""

import argparse
import sys
from pathlib import Path

from kfp_vision.core import children

SAMPLE_FILE = "sample.npz"  # images, and TensorFlow's answers for them under the names of the outputs
GRAPH_FILE = "graph.pb"
MAX_DIFFERENCE = 1e-3  # between TensorFlow's and OpenVINO's values in float32, as a share of the largest if that is over 1
TIMEOUT = 600  # seconds; a deep network takes about ten


class NotConverted(Exception):
    """The model has no file for OpenVINO, and why."""


def convert(scratch: Path, target: Path) -> None:
    """Converts a graph in a new process, and checks its answers.

    Args:
        scratch: folder with `GRAPH_FILE` and `SAMPLE_FILE`.
        target: the file to write, with the ending `.xml`, in a folder that exists; its weights go beside it, ending `.bin`.

    Raises:
        NotConverted: OpenVINO is not installed, does not read the graph, or answers differently. Nothing is left then.
    """
    try:
        children.run_child("kfp_vision.engines.openvino_conversion", [str(scratch), str(target)], TIMEOUT)
    except children.ChildFailed as reason:
        for file in (target, target.with_suffix(".bin")):
            file.unlink(missing_ok=True)
        raise NotConverted(str(reason)) from None


def main(scratch: Path, target: Path) -> None:
    """Converts a graph in this process; see `convert`.

    Args:
        scratch: folder with `GRAPH_FILE` and `SAMPLE_FILE`.
        target: the file to write.

    Raises:
        NotConverted: OpenVINO answers differently.
    """
    import numpy as np

    from kfp_vision.engines.openvino_runtime import openvino, read_model

    with np.load(scratch / SAMPLE_FILE) as sample:
        expected = dict(sample)
    images, names = expected.pop("images"), sorted(expected)  # in the order in which TensorFlow's graph has its outputs
    core = openvino.Core()
    model = core.read_model(str(scratch / GRAPH_FILE))
    model.input(0).get_tensor().set_names({"images"})
    for output, name in zip(model.outputs, names, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, str(target), compress_to_fp16=False)
    compiled = core.compile_model(read_model(target), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = compiled({"images": images})
    difference = max(
        float(np.abs(answers[name] - values).max() / max(1, np.abs(values).max())) for name, values in expected.items()
    )
    if not difference <= MAX_DIFFERENCE:
        raise NotConverted(f"its answers differ from TensorFlow's by {difference:.2g}, of {MAX_DIFFERENCE:g} allowed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Converts a frozen graph to OpenVINO's format.")
    parser.add_argument("scratch", type=Path, help="folder of the graph and of a sample")
    parser.add_argument("target", type=Path, help="file to write")
    options = children.parse_arguments(parser)
    try:
        main(options.scratch, options.target)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")
