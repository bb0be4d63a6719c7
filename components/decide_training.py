from typing import NamedTuple

from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def decide_training(
    images_uri: str,
    leave_out_uri: str,
    recipe: str,
    skip_unchanged: bool,
    deploy_to: str,
    model_name: str,
    advanced: dict,
) -> NamedTuple("Decision", [("fingerprint", str), ("trained_from", str), ("unchanged", bool)]):  # type: ignore[valid-type]
    """Says what lies at a URI, from listings alone, and whether the deployed model was trained from the very same.

    While the fingerprint stays the same, the stages behind it are taken from the cache.

    Args:
        images_uri: a folder of class folders, an archive of one (also over http), or sample.
        leave_out_uri: a list of pictures to leave out: CSV with a column path; empty for none.
        recipe: a hash of the fields; see check_run.
        skip_unchanged: whether to look at what is deployed.
        deploy_to: where it is deployed: a model repository, or kserve.
        model_name: the name of the model.
        advanced: store_wait_seconds and the fields that begin with service_ are read of it.

    Returns:
        fingerprint: A hash of names, sizes and times, and of what the list names.
        trained_from: A hash of fingerprint and recipe, which the training writes into the model.
        unchanged: Whether the deployed model has that hash; false where skip_unchanged is.
    """
    from kfp_vision import deployment, parameters, storage

    storage.wait_for_stores(advanced)
    settings = parameters.of_deployment(advanced)
    return deployment.decide_training(images_uri, leave_out_uri, recipe, skip_unchanged, deploy_to, model_name, settings)
