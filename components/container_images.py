"""Names of the container images, derived from the version: two that the stages run in, and that of the server alone.

The compiled YAML names them in `REGISTRY`; this machine's container engine knows those that it built by their names alone.
"""

from kfp_vision import REGISTRY, __version__

CPU_NAME = f"kfp-vision:{__version__}"
GPU_NAME = f"kfp-vision-gpu:{__version__}"
SERVE_NAME = f"kfp-vision-serve:{__version__}"
CPU_IMAGE = f"{REGISTRY}/{CPU_NAME}"
GPU_IMAGE = f"{REGISTRY}/{GPU_NAME}"
SERVE_IMAGE = f"{REGISTRY}/{SERVE_NAME}"
