from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def collect_logged(
    model: dsl.Input[dsl.Model],
    logged_uri: str,
    collected_uri: str,
    days: int,
    advanced: dict,
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Adds the requests that KServe's logger has written to a collection, answered once more by the model.

    Args:
        model: model from fetch_model.
        logged_uri: folder that the logger of KServe writes to; empty for none.
        collected_uri: folder or bucket folder of the collection.
        days: days to look back.
        advanced: advanced settings; uses store_wait_seconds.

    Returns:
        metrics: Files with requests that were read, answers that were collected, and rejected images.
    """
    from pathlib import Path

    from kfp_vision.deployment import collect_logged as deployment_collect_logged
    from kfp_vision.repository.version import exported_version
    from kfp_vision.storage import atomic, reading_settings

    reading_settings.apply(advanced)
    version = exported_version(Path(model.path))
    counts = deployment_collect_logged.collect_logged(version, logged_uri, collected_uri, days=days, images=False)
    metrics.metadata.update(counts)
    atomic.write_json(Path(metrics.path), counts)
