from kfp import dsl

from kfp_vision.components import check_prediction, fetch_model, join_predictions, partition_records, predict_images
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named, with_choices
from kfp_vision.pipelines.pods import RUN, equipped


@with_choices({})
@dsl.pipeline(name="batch-prediction", pipeline_config=RUN)
def batch_prediction(
    model_uri: str = "",
    predict_uri: str = "sample",
    all_scores: bool = False,
    partitions: int = 1,
    advanced: dict = {},  # noqa: B006
) -> None:
    """Classifies all images at a URI with a trained model, on as many machines in parallel as there are partitions.

    Args:
        model_uri: a run's model folder, a model repository, or an archive of one; local, in a bucket or registered.
        predict_uri: images to classify: an image, folder, archive (also over HTTP), or sample.
        all_scores: also write the scores of all classes.
        partitions: number of machines that classify in parallel.
        advanced: settings of reading; see docs/reference/fields.md.
    """
    form = dict(locals())
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = check_prediction(**form)
        fetched = fetch_model(model_uri=model_uri, advanced=advanced).after(checked)
        numbers = partition_records(partitions=partitions).after(checked)
        with named(dsl.ParallelFor(numbers.output, name="partitions")) as partition:
            inputs = {"predict_uri": predict_uri, "all_scores": all_scores, "partitions": partitions, "advanced": advanced}
            part = predict_images(model=fetched.outputs["model"], partition=partition, **inputs)
        parts = dsl.Collected(part.outputs["predictions"])
        joined = join_predictions(parts=parts, model=fetched.outputs["model"], predict_uri=predict_uri)
    equipped(checked, fetched, numbers, part, joined)
