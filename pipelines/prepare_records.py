from kfp import dsl

from kfp_vision import parameters
from kfp_vision.components import check_preparation
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named, with_choices
from kfp_vision.pipelines.image_classification import FLOWERS
from kfp_vision.pipelines.pods import RUN, equipped
from kfp_vision.pipelines.preparation import fingerprinted, prepare


@with_choices(parameters.PREPARATION_CHOICES)
@dsl.pipeline(name="prepare-records", pipeline_config=RUN)
def prepare_records(
    images_uri: str = FLOWERS,
    leave_out_uri: str = "",
    task: str = "classification",
    check_images: bool = True,
    validation_ratio: float = 0.2,
    test_ratio: float = 0.0,
    images_per_shard: int = 1000,
    partitions: int = 1,
    advanced: dict = {},  # noqa: B006
):
    """From pictures to TFRecord files for a training elsewhere: of classes, or of boxes for an object detector.

    Args:
        images_uri: a folder of class folders, an archive of one (also over http), or sample; for detection, pictures with XML.
        leave_out_uri: pictures to leave out, as the audit of image_search lists them: CSV with a column path; empty for none.
        task: classification, or detection: boxes in the XML of Pascal VOC.
        check_images: refuse data that nothing can be trained on.
        validation_ratio: share of each class held out while training.
        test_ratio: share of each class held out for the last evaluation; 0 for none.
        images_per_shard: pictures in each TFRecord file but the last.
        partitions: on how many machines the records are written at a time.
        advanced: max_refused_ratio, check_pixels, max_side, conflicting_labels and store_wait_seconds; see the README.
    """
    fields = dict(locals())
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_preparation(**fields))
        prepare(fields, fingerprint=fingerprinted(fields, behind=checked), advanced=checked.output, behind=checked)
