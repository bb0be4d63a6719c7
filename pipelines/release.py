"""The stages after the evaluation: serving check, deployment, request, export, registration, prediction."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.pipeline_context import Pipeline

from kfp_vision.components import (
    call_endpoint,
    check_serving,
    deploy_model,
    export_model,
    predict_images,
    register_model,
)
from kfp_vision.pipelines.form import named
from kfp_vision.pipelines.pods import equipped

RUN = {"run_name": dsl.PIPELINE_JOB_NAME_PLACEHOLDER, "run_id": dsl.PIPELINE_JOB_ID_PLACEHOLDER}


def release(
    accepted: Any,
    *,
    model: Any,
    verdict: Any,
    metrics: Any,
    report: Any,
    origin: Mapping[str, Any],
    train_records: Any,
    validation_records: Any,
    test_records: Any,
    deploy_to: Any,
    advanced: Any,
    test_image_uri: Any,
    predict_uri: Any,
    formats: Any,
    register_in: Any,
) -> None:
    """Adds the stages after the evaluation. A rejected model is not deployed; the run succeeds nevertheless.

    check_serving decides whether the group of deploying stages runs, `accepted` whether the groups that export and predict do.
    Each condition tests a single value, because kfp.local supports conditions on a stage's unnamed output only.

    Args:
        accepted: unnamed output of evaluate_classifier.
        model: the trained model, an artifact.
        verdict: verdict of evaluate_classifier on the model, an artifact.
        metrics: metrics of evaluate_classifier, an artifact.
        report: report of evaluate_classifier, an artifact.
        origin: what the papers say of the model's origin besides pipeline and run: form and data_fingerprint, see deploy_model.
        train_records: the training images, an artifact.
        validation_records: the validation images, an artifact.
        test_records: the test images, an artifact.
        deploy_to: the field.
        advanced: the field.
        test_image_uri: the field.
        predict_uri: the field; empty text if the form lacks it, for a pipeline without the group that predicts.
        formats: the same for the group that exports.
        register_in: the same for the group that registers.
    """
    held_out = {"validation_records": validation_records, "test_records": test_records}
    settings = {"deploy_to": deploy_to, "accepted": accepted}
    checked = equipped(check_serving(model=model, verdict=verdict, **held_out, **settings))
    papers = {"metrics": metrics, "pipeline": Pipeline.get_default_pipeline().name, **RUN, **origin}
    with named(dsl.If(checked.outputs["Output"] == True, name="publish")):  # noqa: E712 (KFP turns it into a condition)
        checks = {"verdict": verdict, "proof": checked.outputs["proof"]}
        deployed = deploy_model(model=model, **checks, **papers, deploy_to=deploy_to, advanced=advanced)
        request = {"test_image_uri": test_image_uri, "advanced": advanced}
        called = call_endpoint(endpoint=deployed.outputs["endpoint"], **request, **held_out)
        equipped(deployed, called)
    if formats:  # a field of the form is never false
        with (
            named(dsl.If(formats != "", name="formats")),
            named(dsl.If(accepted == True, name="export")),  # noqa: E712
        ):
            asked = {"formats": formats, "deploy_to": deploy_to, "advanced": advanced}
            inputs = {"model": model, "verdict": verdict, "train_records": train_records}
            equipped(export_model(**inputs, **held_out, **asked)).after(checked)
    if register_in:
        with (
            named(dsl.If(register_in != "", name="registries")),
            named(dsl.If(accepted == True, name="register")),  # noqa: E712
        ):
            judged = {"model": model, "verdict": verdict, "report": report}
            equipped(register_model(**judged, **papers, register_in=register_in)).after(checked)
    if not predict_uri:
        return
    with (
        named(dsl.If(predict_uri != "", name="predict")),
        named(dsl.If(accepted == True, name="accepted")),  # noqa: E712
    ):
        inputs = {"all_scores": False, "partition": 0, "partitions": 1, "advanced": advanced}
        equipped(predict_images(model=model, predict_uri=predict_uri, **inputs)).after(checked)
