"""The stages after the evaluation, which every deploying pipeline ends with: serving check, deployment, request, prediction."""

from typing import Any

from kfp import dsl

from kfp_vision.components import call_endpoint, check_serving, deploy_model, predict_images
from kfp_vision.pipelines.form import named
from kfp_vision.pipelines.pods import equipped


def release(
    accepted: Any,
    *,
    model: Any,
    verdict: Any,
    validation_records: Any,
    test_records: Any,
    deploy_to: Any,
    advanced: Any,
    test_image_uri: Any,
    predict_uri: Any,
) -> None:
    """Adds the stages after the evaluation. A rejected model is not deployed; the run succeeds nevertheless.

    check_serving decides whether the group of deploying stages runs, `accepted` whether the group that predicts does. Each
    condition tests a single value, because kfp.local supports conditions on a stage's unnamed output only.

    Args:
        accepted: unnamed output of evaluate_classifier.
        model: the trained model, an artifact.
        verdict: verdict of evaluate_classifier on the model, an artifact.
        validation_records: the validation images, an artifact.
        test_records: the test images, an artifact.
        deploy_to: the field.
        advanced: the field.
        test_image_uri: the field.
        predict_uri: the field; empty text if the form lacks it, for a pipeline without the group that predicts.
    """
    held_out = {"validation_records": validation_records, "test_records": test_records}
    settings = {"deploy_to": deploy_to, "accepted": accepted}
    checked = equipped(check_serving(model=model, verdict=verdict, **held_out, **settings))
    with named(dsl.If(checked.outputs["Output"] == True, name="publish")):  # noqa: E712 (KFP turns it into a condition)
        checks = {"verdict": verdict, "proof": checked.outputs["proof"]}
        deployed = deploy_model(model=model, **checks, deploy_to=deploy_to, advanced=advanced)
        request = {"test_image_uri": test_image_uri, "advanced": advanced}
        called = call_endpoint(endpoint=deployed.outputs["endpoint"], **request, **held_out)
        equipped(deployed, called)
    if not predict_uri:  # a field of the form is never false
        return
    with (
        named(dsl.If(predict_uri != "", name="predict")),
        named(dsl.If(accepted == True, name="accepted")),  # noqa: E712
    ):
        inputs = {"all_scores": False, "partition": 0, "partitions": 1, "advanced": advanced}
        equipped(predict_images(model=model, predict_uri=predict_uri, **inputs)).after(checked)
