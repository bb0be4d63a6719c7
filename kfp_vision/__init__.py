"""KFP Vision: image classification on Kubeflow Pipelines, without writing code."""

import os

from kfp_vision.core import hardware

__version__ = "0.1.0"

# TensorFlow reads these on its first import, so they are set before any module imports it. The first one hides its start-up
# messages, which would bury those of a stage. The second enables oneDNN's kernels on processors for which TensorFlow disables
# them: Inception v1 trains 1.6 times as fast (13.8 against 8.7 images per second on two cores with AVX2).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# TensorFlow would start a thread per core of the machine, but a container may be limited to few.
if hardware.cores() < (os.cpu_count() or 1):
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(hardware.cores()))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(hardware.cores()))
# Where a cluster pulls the container images from. A placeholder until `make release REGISTRY=...` fills it: no registry has an
# owner in capitals, so it cannot name somebody else's images.
PLACEHOLDER = "ghcr.io/OWNER"
REGISTRY = "ghcr.io/OWNER"
