"""The stages that build an index: they fetch the model, list the images, compute parts and join them."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from kfp_vision import search
from kfp_vision.core.errors import InputError, redact
from kfp_vision.dataset.table import read_table, write_table, write_unused
from kfp_vision.networks import NETWORKS
from kfp_vision.records.partitions import partition_numbers
from kfp_vision.reports import results
from kfp_vision.repository import version
from kfp_vision.repository.version import Version
from kfp_vision.storage import atomic, reading, uris


def fetch_embedder(model_uri: str, network: str, checkpoint_uri: str, model: Path) -> Version:
    """Creates a model folder with the newest version of a trained model, or with a pretrained network.

    Args:
        model_uri: A model folder or a repository; empty for a pretrained network.
        network: Name of the network.
        checkpoint_uri: Weights of the network, see `pretrained.load_pretrained`.
        model: Folder to create.

    Returns:
        The version in the folder.

    Raises:
        InputError: There is no version at the URI, or the checkpoint does not fit the network.
    """
    if model_uri:
        return version.fetch_version(model_uri, model)
    from kfp_vision.prediction import export  # imports TensorFlow

    with atomic.replacing(model) as beside:
        export.write_backbone(beside, NETWORKS[network], checkpoint_uri)
    return version.exported_version(model)


def list_images(images_uri: str, partitions: int, table: Path) -> list[int]:
    """Writes the table of the images at a URI, and returns the partitions to loop over.

    Args:
        images_uri: Data in any form that the training accepts; images that are not in a folder have no label.
        partitions: Number of partitions.
        table: CSV file to write.

    Returns:
        Numbers of the partitions, from 0.

    Raises:
        InputError: There are no images at the URI.
    """
    rows = search.rows_at(images_uri)
    if not rows:
        raise search.no_pictures([])
    write_table(table, rows)
    print(f"{len(rows)} images to index")
    return partition_numbers(partitions)


def index_images(
    table: Path, model: Path, index_uri: str, *, part: Path, partition: int = 0, partitions: int = 1
) -> dict[str, int]:
    """Computes one of several parts of an index, for `join_index`.

    Args:
        table: Table of all images, from `list_images`.
        model: Model folder.
        index_uri: Earlier index whose embeddings are reused, also in a bucket; empty for none.
        part: Folder to create.
        partition: Number of the part, from 0.
        partitions: Number of parts.

    Returns:
        Numbers of images in the part: pictures (all), and computed rather than reused ones.

    Raises:
        InputError: The earlier index is damaged.
    """
    with atomic.temporary_folder() as scratch:
        before = _download(index_uri, scratch / "before") if index_uri else None
        rows = list(read_table(table))
        written = search.write_part(rows, model, part, before, partition=partition, partitions=partitions)
    return {"pictures": written.pictures, "computed": written.computed}


def join_index(parts: Sequence[Path], model: Path, *, folder: Path, refused: Path) -> dict[str, Any]:
    """Joins the parts of an index.

    Args:
        parts: Folders that `index_images` wrote, in the order of the partitions.
        model: Model folder that the parts were computed with.
        folder: Folder of the index to write.
        refused: CSV file to write with the rejected images: uri, label, reason.

    Returns:
        Numbers of images: pictures (all), computed and refused; and recall, the measured recall at 10 of a search.

    Raises:
        InputError: No image can be read, or a part is damaged.
    """
    built = search.join(parts, model, folder)
    write_unused(refused, built.refused)
    for uri, label, reason in built.refused[: search.REFUSED_NAMED]:
        print(redact(f"rejected: {uri}{f' ({label})' if label else ''}: {reason}"))
    results.announce(f"{built.about.pictures} images indexed, {len(built.refused)} rejected")
    return {
        "pictures": built.about.pictures,
        "computed": built.computed,
        "refused": len(built.refused),
        "recall": built.about.recall,
    }


def check_index(uri: str, field: str) -> None:
    """Checks that there is an index at a URI.

    Args:
        uri: Folder of the index, also in a bucket.
        field: Name of the field that holds the URI, for error messages.

    Raises:
        InputError: There is none, or the URI cannot be read.
    """
    reading.check_exists(uri, field)
    if not any(item.name == search.ABOUT_FILE for item in reading.walk(uri)):
        raise InputError(
            f"{field} must name an index", f"none at {uri}", "Give the folder of an index that image_search built."
        )


def _download(uri: str, folder: Path) -> Path:
    """Returns the folder of a local index, or downloads the index into a new folder."""
    if not uris.scheme_of(uri) and Path(uris.absolute_uri(uri)).is_dir():
        return Path(uris.absolute_uri(uri))
    for item in reading.walk(uri):
        name = PurePosixPath(item.name)
        if ".." not in name.parts and not name.is_absolute():
            reading.save_item(item, folder / name, "an index")
    return folder
