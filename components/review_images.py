from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def review_images(
    model: dsl.Input[dsl.Model],
    images_uri: str,
    collected_uri: str,
    labels_uri: str,
    review_images: int,
    advanced: dict,
    chosen: dsl.Output[dsl.Dataset],
    tasks: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Chooses the images most worth a label: those the model is unsure of, unlike what it knows and unlike each other.

    Args:
        model: model from fetch_model.
        images_uri: images without labels: a folder, archive (also over HTTP), or sample; empty for those that were collected.
        collected_uri: collection of a server's answers, with images; empty for none.
        labels_uri: list of the labels given so far, whose images are not chosen again; empty for none.
        review_images: number of images to choose at most.
        advanced: advanced settings; uses name_encoding, store_wait_seconds.

    Returns:
        chosen: Table with the columns path, label (empty), suggested, score, unsure and distance. Filled in, a training
            accepts it as labels_uri.
        tasks: The images as JSON that Label Studio imports, with predictions.
        page: The chosen images.
        metrics: Number of images looked at, chosen, and unreadable.
    """
    from pathlib import Path
    from typing import Any

    from kfp_vision.repository.version import exported_version
    from kfp_vision.review import review
    from kfp_vision.storage import atomic, reading_settings

    reading_settings.apply(advanced)
    given: dict[str, Any] = {"images_uri": images_uri, "collected_uri": collected_uri, "labels_uri": labels_uri}
    given |= {"table": Path(chosen.path), "tasks": Path(tasks.path), "page": Path(page.path)}
    counts = review.review_images(exported_version(Path(model.path)), most=review_images, **given)
    metrics.metadata.update(counts)
    atomic.write_json(Path(metrics.path), counts)
