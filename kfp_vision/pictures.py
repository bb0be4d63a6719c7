"""The former place of `kfp_vision.dataset.images`."""

from kfp_vision.core.former_names import forward

__getattr__ = forward(
    __name__, {"Refused": "kfp_vision.dataset.images.Rejected", "checked": "kfp_vision.dataset.images.validate_image"}
)
