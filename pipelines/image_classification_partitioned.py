from typing import Any

from kfp import dsl

from kfp_vision import parameters
from kfp_vision.pipelines.classification import classify
from kfp_vision.pipelines.form import like, with_choices
from kfp_vision.pipelines.image_classification import image_classification
from kfp_vision.pipelines.pods import RUN


@with_choices(parameters.CHOICES)
@dsl.pipeline(name="image-classification-partitioned", pipeline_config=RUN)
@like(image_classification, partitions=(4, "on how many machines the records are written at a time."))
def image_classification_partitioned(fields: dict[str, Any]) -> None:
    """The same as image_classification for many pictures: they are looked at and written by several machines at a time."""
    classify(fields)
