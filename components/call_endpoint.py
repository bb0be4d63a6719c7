from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def call_endpoint(
    endpoint: dsl.Input[dsl.Artifact],
    validation_records: dsl.Input[dsl.Dataset],
    test_records: dsl.Input[dsl.Dataset],
    test_image_uri: str,
    advanced: dict,
    answer: dsl.Output[dsl.Artifact],
) -> str:
    """Sends one image to the deployed model over HTTP and waits for the answer.

    Starts the server for it if the model is deployed to a model repository.

    Args:
        endpoint: endpoint from deploy_model.
        validation_records: validation images, to take an image from.
        test_records: test images; preferred over the validation images if there are any.
        test_image_uri: image to send; empty for a held-out one.
        advanced: advanced settings; uses name_encoding and store_wait_seconds.

    Returns:
        answer: The image, its predicted class, the score and the address called, as JSON.
        Output: The predicted class.
    """
    from pathlib import Path

    from kfp_vision.deployment import call
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    inputs = (Path(endpoint.path), Path(validation_records.path), Path(test_records.path))
    answered = call.call_endpoint(*inputs, test_image_uri, Path(answer.path))
    answer.metadata.update(answered)
    return str(answered["prediction"])
