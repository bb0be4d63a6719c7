"""Names of the two container images that the stages run in, derived from the version."""

from kfp_vision import __version__

CPU_IMAGE = f"kfp-vision:{__version__}"
GPU_IMAGE = f"kfp-vision-gpu:{__version__}"
