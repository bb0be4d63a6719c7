from typing import NamedTuple

from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_drift(
    model: dsl.Input[dsl.Model],
    collected_uri: str,
    days: int,
    advanced: dict,
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> NamedTuple("Found", [("drifted", bool)]):  # type: ignore[valid-type]
    """Compares what a model has answered lately with its validation images, and writes the result into the collection.

    Args:
        model: model from fetch_model.
        collected_uri: folder or bucket folder that servers collect their answers in.
        days: days to look back.
        advanced: advanced settings; uses store_wait_seconds.

    Returns:
        drifted: Whether the images or the shares of the classes have drifted.
        page: Report with the p values, and the images that are most unlike those of the validation.
        metrics: Figures of the comparison.
    """
    from dataclasses import asdict
    from pathlib import Path

    from kfp_vision.collection import drift
    from kfp_vision.repository.version import exported_version
    from kfp_vision.storage import atomic, reading_settings

    reading_settings.apply(advanced)
    found = drift.check_drift(exported_version(Path(model.path)), collected_uri, days, Path(page.path))
    atomic.write_json(Path(metrics.path), asdict(found))
    metrics.metadata.update({name: getattr(found, name) for name in ("area", "embeddings_p", "novel_p", "shares_p")})
    return (found.drifted,)
