from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_serving(
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    validation_records: dsl.Input[dsl.Dataset],
    test_records: dsl.Input[dsl.Dataset],
    deploy_to: str,
    accepted: bool,
    proof: dsl.Output[dsl.Metrics],
) -> bool:
    """Starts the real server, sends it held-out images over HTTP, and compares its answers with the evaluation.

    Skipped if the model is rejected, or if neither the model nor the data has changed.

    Args:
        model: model from train_classifier.
        verdict: verdict on the model, from evaluate_classifier.
        validation_records: validation images.
        test_records: test images; may be empty.
        deploy_to: deployment target; none for no deployment.
        accepted: the unnamed output of evaluate_classifier.

    Returns:
        proof: Number of images sent, largest difference from the evaluation, and median seconds per request, as JSON.
        Output: Whether to deploy the model: accepted, proven, changed, and deploy_to names a target.
    """
    from pathlib import Path

    from kfp_vision.deployment import serving_check

    inputs = (Path(model.path), Path(verdict.path), Path(validation_records.path), Path(test_records.path))
    proven = serving_check.check_serving(*inputs, Path(proof.path), deploy_to=deploy_to, accepted=accepted)
    proof.metadata.update(proven.figures)
    return proven.to_be_deployed
