from typing import Any

from kfp import dsl

from kfp_vision.pipelines.classification import classify
from kfp_vision.pipelines.form import like, with_choices
from kfp_vision.pipelines.image_classification import image_classification
from kfp_vision.pipelines.pods import RUN
from kfp_vision.preflight import rules


@with_choices(rules.CHOICES)
@dsl.pipeline(name="image-classification-partitioned", pipeline_config=RUN)
@like(image_classification, partitions=(4, "number of machines that write records in parallel."))
def image_classification_partitioned(fields: dict[str, Any]) -> None:
    """Trains and deploys a classifier from large data: image_classification, with several machines that read the images."""
    classify(fields)
