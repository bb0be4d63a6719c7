"""Names of the two container images that the stages run in, derived from the version.

The compiled YAML names them in `REGISTRY`; this machine's container engine knows those that it built by their names alone.
"""

from kfp_vision import REGISTRY, __version__

CPU_NAME = f"kfp-vision:{__version__}"
GPU_NAME = f"kfp-vision-gpu:{__version__}"
CPU_IMAGE = f"{REGISTRY}/{CPU_NAME}"
GPU_IMAGE = f"{REGISTRY}/{GPU_NAME}"
