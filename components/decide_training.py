from typing import NamedTuple

from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def decide_training(
    images_uri: str,
    leave_out_uri: str,
    labels_uri: str,
    labels: str,
    recipe: str,
    skip_unchanged: bool,
    deploy_to: str,
    model_name: str,
    advanced: dict,
) -> NamedTuple("Decision", [("fingerprint", str), ("trained_from", str), ("unchanged", bool)]):  # type: ignore[valid-type]
    """Fingerprints the data from file listings, and checks whether the deployed model was trained on the same data and fields.

    Later stages come from the cache as long as the fingerprint stays the same.

    Args:
        images_uri: folder of class folders, archive of one (also over HTTP), or sample.
        leave_out_uri: list of images to exclude: CSV with a column path; empty for none.
        labels_uri: list of labels that add or correct images: CSV with path and label, or Label Studio's JSON; empty for none.
        labels: one, or several for images with any number of labels.
        recipe: hash of the fields, from check_run.
        skip_unchanged: compare with the deployed model.
        deploy_to: deployment target: a model repository, or kserve.
        model_name: name of the model.
        advanced: advanced settings; uses store_wait_seconds, label_separator, collected_uri and those that begin with service_.

    Returns:
        fingerprint: Hash of file names, sizes and times, and of the lists.
        trained_from: Hash of fingerprint and recipe; the training stores it in the model.
        unchanged: Whether the deployed model has the same hash; always false without skip_unchanged.
    """
    from kfp_vision.core.advanced import deployment_settings
    from kfp_vision.deployment import decide_training as deployment_decide_training
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    given = (images_uri, leave_out_uri, recipe, skip_unchanged, deploy_to, model_name, deployment_settings(advanced))
    of_advanced = {name: advanced.get(name, "") for name in ("collected_uri", "label_separator")}
    return deployment_decide_training.decide_training(*given, labels, labels_uri, **of_advanced)
