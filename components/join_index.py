from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def join_index(
    parts: dsl.Input[list[dsl.Artifact]],
    model: dsl.Input[dsl.Model],
    index: dsl.Output[dsl.Artifact],
    refused: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Merges the partitions into one searchable index.

    Args:
        parts: partitions from index_images.
        model: model that computed the embeddings.

    Returns:
        index: Folder with the index, thumbnails of its images, and the model.
        refused: Table of rejected images: uri, label, reason.
        metrics: Number of images, number of newly computed embeddings, and recall of the approximate search.
    """
    from pathlib import Path

    from kfp_vision.search import build
    from kfp_vision.storage import atomic

    outputs = {"folder": Path(index.path), "refused": Path(refused.path)}
    found = build.join_index([Path(part.path) for part in parts], Path(model.path), **outputs)
    index.metadata.update(found)
    metrics.metadata.update(found)
    atomic.write_json(Path(metrics.path), found)
