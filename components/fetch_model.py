from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def fetch_model(model_uri: str, advanced: dict, model: dsl.Output[dsl.Model]) -> None:
    """Fetches the newest version of a model for prediction.

    Args:
        model_uri: a run's model folder, a model repository, or an archive of one; local or in a bucket.
        advanced: advanced settings; uses name_encoding, store_wait_seconds.

    Returns:
        model: Model folder that holds the SavedModel only.
    """
    from pathlib import Path

    from kfp_vision.repository.version import fetch_version
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    version = fetch_version(model_uri, Path(model.path))
    model.metadata.update({"model_name": version.name, "fingerprint": version.fingerprint})
