"""The former place of `kfp_vision.prediction.export`."""

from kfp_vision.core.former_names import forward

__getattr__ = forward(__name__, {"write_saved_model": "kfp_vision.prediction.export.write_saved_model"})
