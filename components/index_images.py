from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def index_images(
    model: dsl.Input[dsl.Model],
    images: dsl.Input[dsl.Dataset],
    index_uri: str,
    partition: int,
    partitions: int,
    part: dsl.Output[dsl.Artifact],
) -> None:
    """Writes down what a model sees of each picture, for an index of them; or of one partition of them.

    Args:
        model: the model.
        images: the table of all pictures.
        index_uri: an index from before, of which the pictures that it has already are not computed again; empty for none.
        partition: the number of this partition, from 0.
        partitions: how many there are; join_index makes an index of them.

    Returns:
        part: A folder with vectors and thumbnails of its pictures, and the list of those that could not be used. It says
            nothing of itself, since KFP hands those of all partitions over in a single argument.
    """
    from pathlib import Path

    from kfp_vision.search import sources

    which = {"partition": partition, "partitions": partitions}
    table, folder = Path(images.path), Path(model.path)
    sources.index_images(table, folder, index_uri, part=Path(part.path), **which)
