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
    """Same as image_classification, for large data sets: several machines check and convert the images in parallel."""
    classify(fields)
