from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def index_images(
    model: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    index_uri: str,
    partition: int,
    partitions: int,
    advanced: dict,
    part: dsl.Output[dsl.Artifact],
) -> None:
    """Computes the embeddings of one partition of the images for an index.

    Args:
        model: embedding model.
        images: table of all images, from list_images.
        index_uri: earlier index whose embeddings are reused for images that it already contains; empty for none.
        partition: number of this partition, from 0.
        partitions: number of partitions; join_index merges them.
        advanced: advanced settings; uses name_encoding, store_wait_seconds.

    Returns:
        part: Folder with embeddings and thumbnails of the partition's images, and a list of rejected images. It carries no
            metadata, because KFP passes the metadata of all partitions in one command-line argument.
    """
    from pathlib import Path

    from kfp_vision.search import build
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    which = {"partition": partition, "partitions": partitions}
    table, folder = Path(images.path), Path(model.path)
    build.index_images(table, folder, index_uri, part=Path(part.path), **which)
