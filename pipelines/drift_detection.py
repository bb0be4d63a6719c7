from kfp import dsl

from kfp_vision.components import check_collected, check_drift, collect_logged, fetch_model
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named, with_choices
from kfp_vision.pipelines.pods import RUN, equipped


@with_choices({})
@dsl.pipeline(name="drift-detection", pipeline_config=RUN)
def drift_detection(
    model_uri: str = "",
    collected_uri: str = "",
    logged_uri: str = "",
    days: int = 7,
    advanced: dict = {},  # noqa: B006
) -> None:
    """Compares what a model has answered lately with its validation images; for a recurring run.

    Args:
        model_uri: the model repository that is served, or a run's model folder; local, in a bucket or registered.
        collected_uri: folder or bucket folder that the server collects its answers in.
        logged_uri: folder that KServe's logger writes requests to, which are collected first; empty for none.
        days: days to look back.
        advanced: settings of reading; see docs/reference/fields.md.
    """
    form = dict(locals())
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = check_collected(**form)
        fetched = fetch_model(model_uri=model_uri, advanced=advanced).after(checked)
        inputs = {"model": fetched.outputs["model"], "collected_uri": collected_uri, "days": days, "advanced": advanced}
        logged = collect_logged(logged_uri=logged_uri, **inputs)
        compared = check_drift(**inputs).after(logged)
    equipped(checked, fetched, logged, compared)
