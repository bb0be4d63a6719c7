from kfp import dsl

from kfp_vision.components import check_collected, check_drift, fetch_model
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named, with_choices
from kfp_vision.pipelines.pods import RUN, equipped


@with_choices({})
@dsl.pipeline(name="drift-detection", pipeline_config=RUN)
def drift_detection(
    model_uri: str = "",
    collected_uri: str = "",
    days: int = 7,
) -> None:
    """Compares what a model has answered lately with its validation images; for a recurring run.

    Args:
        model_uri: the model repository that is served, or a run's model folder; local or in a bucket.
        collected_uri: folder or bucket folder that the server collects its answers in.
        days: days to look back.
    """
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = check_collected(model_uri=model_uri, collected_uri=collected_uri, days=days)
        fetched = fetch_model(model_uri=model_uri).after(checked)
        compared = check_drift(model=fetched.outputs["model"], collected_uri=collected_uri, days=days)
    equipped(checked, fetched, compared)
