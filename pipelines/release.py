"""What happens to a model once it is judged: proof, deployment, a first question. Every pipeline that deploys ends with it."""

from typing import Any

from kfp import dsl

from kfp_vision.components import call_endpoint, check_serving, deploy_model, predict_images
from kfp_vision.pipelines.pods import equipped


def release_if(
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
    """Adds the stages after the verdict to a pipeline. A refused model skips them all, and the run ends green.

    Args:
        accepted: the unnamed output of evaluate_classifier.
        model, verdict, validation_records, test_records: artifacts of the stages before.
        deploy_to, advanced, test_image_uri, predict_uri: the fields.
    """
    held_out = {"validation_records": validation_records, "test_records": test_records}
    with dsl.If(accepted == True, name="accepted"):  # noqa: E712 (KFP makes a condition of it)
        proven = equipped(check_serving(model=model, verdict=verdict, **held_out))
        with dsl.If(deploy_to != "none", name="deploy"):
            judgements = {"verdict": verdict, "proof": proven.outputs["proof"]}
            deployed = deploy_model(model=model, **judgements, deploy_to=deploy_to, advanced=advanced)
            called = call_endpoint(endpoint=deployed.outputs["endpoint"], test_image_uri=test_image_uri, **held_out)
            equipped(deployed, called)
        with dsl.If(predict_uri != "", name="predict"):
            predicted = predict_images(model=model, predict_uri=predict_uri, all_scores=False, partition=0, partitions=1)
            equipped(predicted).after(proven)
