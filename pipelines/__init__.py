"""The pipelines, one file each, with the compiled YAML beside it."""

from kfp_vision.pipelines.batch_prediction import batch_prediction
from kfp_vision.pipelines.drift_detection import drift_detection
from kfp_vision.pipelines.hyperparameter_sweep import hyperparameter_sweep
from kfp_vision.pipelines.image_classification import image_classification
from kfp_vision.pipelines.image_classification_partitioned import image_classification_partitioned
from kfp_vision.pipelines.image_search import image_search
from kfp_vision.pipelines.prepare_records import prepare_records
from kfp_vision.pipelines.quick_classification import quick_classification
from kfp_vision.pipelines.review import review
from kfp_vision.pipelines.train_only import train_only

PIPELINES = {
    pipeline.pipeline_func.__name__: pipeline
    for pipeline in (
        image_classification,
        quick_classification,
        image_classification_partitioned,
        prepare_records,
        train_only,
        hyperparameter_sweep,
        batch_prediction,
        drift_detection,
        image_search,
        review,
    )
}

__all__ = [
    "PIPELINES",
    "batch_prediction",
    "drift_detection",
    "hyperparameter_sweep",
    "image_classification",
    "image_classification_partitioned",
    "image_search",
    "prepare_records",
    "quick_classification",
    "review",
    "train_only",
]
