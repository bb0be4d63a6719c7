from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def join_index(
    parts: dsl.Input[list[dsl.Artifact]],
    model: dsl.Input[dsl.Model],
    index: dsl.Output[dsl.Artifact],
    refused: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Makes an index of all partitions, in which pictures that are alike are found.

    Args:
        parts: what index_images wrote of each partition.
        model: the model whose embeddings they hold.

    Returns:
        index: A folder with the index, thumbnails of its pictures, and the model.
        refused: A table of the pictures that could not be used: uri, label, reason.
        metrics: How many pictures there are, how many were computed, and the share of the nearest that is found.
    """
    from pathlib import Path

    from kfp_vision import storage
    from kfp_vision.search import sources

    outputs = {"folder": Path(index.path), "refused": Path(refused.path)}
    found = sources.join_index([Path(part.path) for part in parts], Path(model.path), **outputs)
    index.metadata.update(found)
    metrics.metadata.update(found)
    storage.write_json(Path(metrics.path), found)
