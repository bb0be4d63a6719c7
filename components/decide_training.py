from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def decide_training(
    fingerprint: str, recipe: str, skip_unchanged: bool, deploy_to: str, model_name: str, advanced: dict
) -> str:
    """Says what a model would be trained from, or nothing where the deployed one was trained from the very same.

    Args:
        fingerprint: the data's; see fingerprint_images.
        recipe: a hash of the fields; see check_run.
        skip_unchanged: whether to look at what is deployed.
        deploy_to: where it is deployed: a model repository, or kserve.
        model_name: the name of the model.
        advanced: the fields that begin with service_ are read of it.

    Returns:
        A hash of pictures and fields; empty where nothing is to be trained.
    """
    from kfp_vision import deployment, parameters

    settings = parameters.of_deployment(advanced)
    return deployment.decide_training(fingerprint, recipe, skip_unchanged, deploy_to, model_name, settings)
