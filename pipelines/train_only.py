from typing import Any

from kfp import dsl

from kfp_vision.components import check_training, fetch_records
from kfp_vision.pipelines.classification import given, train_and_release
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import like, named, with_choices
from kfp_vision.pipelines.image_classification import image_classification
from kfp_vision.pipelines.pods import RUN, equipped
from kfp_vision.pipelines.preparation import Prepared
from kfp_vision.preflight import rules

OF_THE_DATA = (
    "images_uri",
    "leave_out_uri",
    "labels_uri",
    "labels",
    "check_images",
    "validation_ratio",
    "test_ratio",
    "images_per_shard",
    "skip_unchanged",
)
RECORDS = "records written by prepare_records: a folder, or an archive of one; local or in a bucket."


@with_choices(rules.CHOICES)
@dsl.pipeline(name="train-only", pipeline_config=RUN)
@like(image_classification, without=OF_THE_DATA, records_uri=("", RECORDS))
def train_only(fields: dict[str, Any]) -> None:
    """Trains and deploys a classifier on records that prepare_records wrote earlier."""
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_training(**fields))
        fetched = equipped(fetch_records(**given(fields, "records_uri", "advanced")).after(checked))
        records = Prepared(**{name: fetched.outputs[name] for name in Prepared._fields})
        fields |= {"form": checked.outputs["form"], "data_fingerprint": ""}
        train_and_release(records, fields, gpus=checked.outputs["gpus"], preset=checked.outputs["preset"])
