from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def search_images(
    index: dsl.Input[dsl.Artifact],
    queries_uri: str,
    nearest: int,
    label: str,
    found: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Finds the pictures of an index that are nearest to each of some pictures.

    Args:
        index: the index of index_images.
        queries_uri: the pictures to search for: one, a folder, an archive, or sample.
        nearest: how many are wanted of each.
        label: of the pictures that alone count; empty for all.

    Returns:
        found: A table with query, rank, path, label and similarity.
        page: The pictures that were searched for, and the nearest ones beside them.
    """
    from pathlib import Path

    from kfp_vision.search import queries

    outputs = {"table": Path(found.path), "page": Path(page.path)}
    found.metadata.update(queries.search_images(Path(index.path), queries_uri, count=nearest, label=label, **outputs))
