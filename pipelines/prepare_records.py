from kfp import dsl

from kfp_vision.components import check_preparation
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named, with_choices
from kfp_vision.pipelines.image_classification import FLOWERS
from kfp_vision.pipelines.pods import RUN, equipped
from kfp_vision.pipelines.preparation import fingerprinted, prepare
from kfp_vision.preflight import rules


@with_choices(rules.PREPARATION_CHOICES)
@dsl.pipeline(name="prepare-records", pipeline_config=RUN)
def prepare_records(
    images_uri: str = FLOWERS,
    leave_out_uri: str = "",
    labels_uri: str = "",
    labels: str = "one",
    task: str = "classification",
    check_images: bool = True,
    validation_ratio: float = 0.2,
    test_ratio: float = 0.0,
    images_per_shard: int = 1000,
    partitions: int = 1,
    advanced: dict = {},  # noqa: B006
) -> None:
    """Converts images to TFRecord files for a training elsewhere: for classification, or with boxes for object detection.

    Args:
        images_uri: folder of class folders, archive of one (also over HTTP), or sample; for detection, images with XML.
        leave_out_uri: list of images to exclude, as image_search's audit writes it: CSV with a column path; empty for none.
        labels_uri: list of labels that add or correct images: CSV with path and label, or Label Studio's JSON; empty for none.
        task: classification, or detection with boxes in Pascal VOC XML.
        labels: one, or several for images with any number of labels.
        check_images: stop the run if the data cannot be trained on.
        validation_ratio: share of each class to hold out for validation, from 0 to 1.
        test_ratio: share of each class to hold out for the final test, from 0 to 1; 0 for none.
        images_per_shard: images per TFRecord file; the last file may hold fewer.
        partitions: number of machines that write records in parallel.
        advanced: the advanced settings that the data stages read; see docs/reference/fields.md.
    """
    fields = dict(locals())
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_preparation(**fields))
        prepare(fields, fingerprint=fingerprinted(fields, after=checked), advanced=checked.output, after=checked)
