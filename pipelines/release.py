"""What happens to a model once it is judged: proof, deployment, a first question. Every pipeline that deploys ends with it."""

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
    """Adds the stages after the verdict to a pipeline. A model that is not accepted is not deployed, and the run ends green.

    The stages that deploy stand in one group, which check_serving opens, and those that name pictures in another. A condition
    looks at one value alone: kfp.local knows no other outputs than a stage's unnamed one.

    Args:
        accepted: the unnamed output of evaluate_classifier.
        model, verdict, validation_records, test_records: artifacts of the stages before.
        deploy_to, advanced, test_image_uri, predict_uri: the fields.
    """
    held_out = {"validation_records": validation_records, "test_records": test_records}
    wishes = {"deploy_to": deploy_to, "accepted": accepted}
    proven = equipped(check_serving(model=model, verdict=verdict, **held_out, **wishes))
    with named(dsl.If(proven.outputs["Output"] == True, name="publish")):  # noqa: E712 (KFP makes a condition of it)
        judgements = {"verdict": verdict, "proof": proven.outputs["proof"]}
        deployed = deploy_model(model=model, **judgements, deploy_to=deploy_to, advanced=advanced)
        asked = {"test_image_uri": test_image_uri, "advanced": advanced}
        called = call_endpoint(endpoint=deployed.outputs["endpoint"], **asked, **held_out)
        equipped(deployed, called)
    with (
        named(dsl.If(predict_uri != "", name="predict")),
        named(dsl.If(accepted == True, name="accepted")),  # noqa: E712
    ):
        whole = {"all_scores": False, "partition": 0, "partitions": 1, "advanced": advanced}
        equipped(predict_images(model=model, predict_uri=predict_uri, **whole)).after(proven)
