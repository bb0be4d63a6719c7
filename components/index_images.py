from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def index_images(
    model: dsl.Input[dsl.Model],
    fingerprint: str,
    images_uri: str,
    index_uri: str,
    index: dsl.Output[dsl.Artifact],
    refused: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Makes an index of pictures, in which those that are alike are found.

    Args:
        model: the model whose embeddings it holds.
        fingerprint: the data's; see fingerprint_images. The stage is taken from the cache while it stays the same.
        images_uri: a folder, an archive of one (also over http), an import file, or sample.
        index_uri: an index from before, of which the pictures that it has already are not computed again; empty for none.

    Returns:
        index: A folder with the index, thumbnails of its pictures, and the model.
        refused: A table of the pictures that could not be used: uri, label, reason.
        metrics: How many pictures there are, how many were computed, and the share of the nearest that is found.
    """
    from pathlib import Path

    from kfp_vision.search import sources

    outputs = {"folder": Path(index.path), "refused": Path(refused.path)}
    found = sources.index_images(images_uri, Path(model.path), index_uri, **outputs)
    index.metadata.update(found)
    metrics.metadata.update(found)
