"""Profiles a training step of Inception v1 with TensorFlow's profiler: `python -m benchmarks.step_profile`.

Prints the milliseconds of kernels by kind. Kernels often overlap, so the sum exceeds the duration of the step.
"""

import re
import tempfile
from collections import Counter
from pathlib import Path

import tensorflow as tf

from benchmarks import train

BACKWARD = "gradient_tape/"
# The kind of a kernel by its name, `scope:operation`; the first matching pattern applies.
KINDS = (
    ("convolutions, gradient of the kernels", r":.*Conv2DBackpropFilter"),
    ("convolutions, gradient of the inputs", r":.*Conv2DBackpropInput"),
    ("1x1 convolutions, both gradients", rf"{BACKWARD}.*:.*MatMul"),
    ("convolutions, forward", r":.*(Conv2D|MatMul)"),
    ("batch norm, gradient", r":.*BatchNormGrad"),
    ("batch norm, forward, with the rectifiers behind it", r":.*BatchNorm"),
    ("rectifiers, gradient", r":.*ReluGrad"),
    ("pools, gradient", r":.*PoolGrad"),
    ("pools and rectifiers, forward", r":.*(Pool|Relu)"),
    ("joining and dividing the branches", r":.*(Concat|Slice|AddN)"),
    ("casts of weights and gradients", r":.*Cast"),
    ("optimizer, weight decay, moving averages", r":.*(Mul|AddV2|Sub|Assign|ResourceApply)"),
    ("rest", r":"),
)


def main() -> None:
    """Profiles some steps and prints the table as Markdown."""
    train.steps()
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            rate = train.steps()
        durations = kernels(next(Path(folder).glob("**/*.xplane.pb")))
    sums: Counter[str] = Counter()
    for name, milliseconds in durations.items():
        sums[next(kind for kind, pattern in KINDS if re.search(pattern, name))] += milliseconds / (train.STEPS + 1)
    print(f"| of a step of {1000 * train.BATCH / rate:.0f} ms | ms of kernels | share |\n| --- | ---: | ---: |")
    for kind, milliseconds in sums.most_common():
        print(f"| {kind} | {milliseconds:.1f} | {milliseconds / sums.total():.0%} |")


def kernels(trace: Path) -> Counter[str]:
    """Sums the duration of each kernel in a trace.

    Args:
        trace: an .xplane.pb file.

    Returns:
        Milliseconds by name of the kernel.
    """
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    durations: Counter[str] = Counter()
    for plane in space.planes:
        if not plane.name.startswith("/host:CPU"):
            continue
        names = {key: about.name for key, about in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                name = names[event.metadata_id]
                if re.fullmatch(r"[^: ]+:[^: ]+", name):
                    durations[name] += event.duration_ps / 1e9
    return durations


if __name__ == "__main__":
    main()
