"""Model repositories: numbered versions of a model in a folder or a bucket."""

from kfp_vision.core.former_names import forward

__getattr__ = forward(__name__, {"ABOUT_FILE": "kfp_vision.repository.version.VERSION_FILE"})
