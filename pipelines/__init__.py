"""The pipelines, one file each, with its compiled YAML beside it."""

from kfp_vision.pipelines.image_classification import image_classification

PIPELINES = {"image_classification": image_classification}

__all__ = ["PIPELINES", "image_classification"]
