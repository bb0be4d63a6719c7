from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def call_endpoint(
    endpoint: dsl.Input[dsl.Artifact],
    validation_records: dsl.Input[dsl.Dataset],
    test_records: dsl.Input[dsl.Dataset],
    test_image_uri: str,
    advanced: dict,
    answer: dsl.Output[dsl.Artifact],
) -> str:
    """Sends a picture to the deployed model over HTTP, until it answers; on a model repository it starts the server for that.

    Args:
        endpoint: the endpoint of deploy_model.
        validation_records: pictures held out while training, to take one from.
        test_records: pictures held out for the last evaluation; taken first if there are any.
        test_image_uri: the picture to ask about; empty for one that was held out.
        advanced: store_wait_seconds is read of it.

    Returns:
        answer: The picture, what it is called, how surely, and the address that was asked, as JSON.
        Output: What it is called.
    """
    from pathlib import Path

    from kfp_vision import deployment, storage

    storage.wait_for_stores(advanced)
    inputs = (Path(endpoint.path), Path(validation_records.path), Path(test_records.path))
    told = deployment.call_endpoint(*inputs, test_image_uri, Path(answer.path))
    answer.metadata.update(told)
    return told["prediction"]
