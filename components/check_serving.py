from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_serving(
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    validation_records: dsl.Input[dsl.Dataset],
    test_records: dsl.Input[dsl.Dataset],
    proof: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Starts the real server on the model, asks it over HTTP, and compares with the evaluation: proof that it can be deployed.

    Args:
        model: the model of train_classifier.
        verdict: the verdict of evaluate_classifier on it.
        validation_records: the pictures held out while training.
        test_records: the pictures held out for the last evaluation; may be none.

    Returns:
        proof: The comparison as JSON.
        metrics: Pictures asked about, the largest difference to the evaluation, and the median seconds of a request.
    """
    from pathlib import Path

    from kfp_vision import deployment

    inputs = (Path(model.path), Path(verdict.path), Path(validation_records.path), Path(test_records.path))
    metrics.metadata.update(deployment.check_serving(*inputs, Path(proof.path)))
