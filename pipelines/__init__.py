"""The pipelines, one file each, with its compiled YAML beside it."""

from kfp_vision.pipelines.batch_prediction import batch_prediction
from kfp_vision.pipelines.image_classification import image_classification
from kfp_vision.pipelines.image_classification_partitioned import image_classification_partitioned
from kfp_vision.pipelines.prepare_records import prepare_records

PIPELINES = {
    pipeline.pipeline_func.__name__: pipeline
    for pipeline in (image_classification, image_classification_partitioned, prepare_records, batch_prediction)
}

__all__ = ["PIPELINES", "batch_prediction", "image_classification", "image_classification_partitioned", "prepare_records"]
