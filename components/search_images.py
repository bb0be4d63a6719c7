from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def search_images(
    index: dsl.Input[dsl.Artifact],
    queries_uri: str,
    nearest: int,
    label: str,
    advanced: dict,
    found: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Finds the most similar images of an index for each query image.

    Args:
        index: index from join_index.
        queries_uri: query images: an image, folder, archive, or sample.
        nearest: number of results per query image.
        label: search images with this label only; empty for all.
        advanced: advanced settings; uses name_encoding, store_wait_seconds.

    Returns:
        found: Table with query, rank, path, label and similarity.
        page: Report with each query image next to its results.
    """
    from pathlib import Path

    from kfp_vision.search import query
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    outputs = {"table": Path(found.path), "page": Path(page.path)}
    found.metadata.update(query.search_images(Path(index.path), queries_uri, count=nearest, label=label, **outputs))
