from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


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
    """Starts the real server on the model, asks it over HTTP, and compares with the evaluation: proof that it can be deployed.

    Of a model that is not accepted, or about which nothing is new, nothing is proven.

    Args:
        model: the model of train_classifier.
        verdict: the verdict of evaluate_classifier on it.
        validation_records: the pictures held out while training.
        test_records: the pictures held out for the last evaluation; may be none.
        deploy_to: where the model is to be deployed; none for nowhere.
        accepted: the unnamed output of evaluate_classifier.

    Returns:
        proof: Pictures asked about, the largest difference to the evaluation, and the median seconds of a request; as JSON.
        Output: Whether the model is to be deployed: it is accepted, proven and new, and deploy_to names a place.
    """
    from pathlib import Path

    from kfp_vision import deployment

    inputs = (Path(model.path), Path(verdict.path), Path(validation_records.path), Path(test_records.path))
    proven = deployment.check_serving(*inputs, Path(proof.path), deploy_to=deploy_to, accepted=accepted)
    proof.metadata.update(proven.figures)
    return proven.to_be_deployed
