"""What an index is made of: a model, pictures, and an index from before; wherever they lie."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from kfp_vision import catalog, partitioning, repository, results, search, storage
from kfp_vision.errors import InputError, without_secrets
from kfp_vision.networks import NETWORKS
from kfp_vision.repository import Version


def fetch_embedder(model_uri: str, network: str, checkpoint_uri: str, model: Path) -> Version:
    """Writes a model folder: the newest version of a model that was trained before, or a network with published weights.

    Args:
        model_uri: of a model folder or a repository; empty for the network.
        network, checkpoint_uri: which, and its weights; see `checkpoints.load`.
        model: the folder to make.

    Raises:
        InputError: no version lies there, or the checkpoint does not fit.
    """
    if model_uri:
        return repository.fetch(model_uri, model)
    from kfp_vision import export  # TensorFlow is large

    with storage.replacing(model) as beside:
        export.write_backbone(beside, NETWORKS[network], checkpoint_uri)
    return repository.exported(model)


def list_images(images_uri: str, partitions: int, table: Path) -> list[int]:
    """Writes the table of the pictures at a URI, and says what a loop over partitions of them runs through.

    Args:
        images_uri: whatever the data stage reads; pictures in no folder have no label.
        partitions: how many there are to be.
        table: the file to write.

    Returns:
        The numbers of the partitions, from 0.

    Raises:
        InputError: no pictures lie there.
    """
    rows = search.rows_at(images_uri)
    if not rows:
        raise search.no_pictures([])
    catalog.write(table, rows)
    print(f"{len(rows)} pictures to index")
    return partitioning.numbers(partitions)


def index_images(
    table: Path, model: Path, index_uri: str, *, part: Path, partition: int = 0, partitions: int = 1
) -> dict[str, int]:
    """Writes one of several parts of an index, for `join_index` to put together.

    Args:
        table: of all pictures.
        model: a model folder.
        index_uri: an index from before, in a bucket or not, of which the pictures that it has are taken; empty for none.
        part: the folder to make.
        partition: its number, from 0.
        partitions: how many there are.

    Returns:
        pictures, computed: how many.

    Raises:
        InputError: the index before is torn.
    """
    with storage.temporary() as scratch:
        before = _brought(index_uri, scratch / "before") if index_uri else None
        rows = list(catalog.read(table))
        written = search.write_part(rows, model, part, before, partition=partition, partitions=partitions)
    return {"pictures": written.pictures, "computed": written.computed}


def join_index(parts: Sequence[Path], model: Path, *, folder: Path, refused: Path) -> dict[str, Any]:
    """Puts the parts of an index together.

    Args:
        parts: what `index_images` wrote, in the order of the partitions.
        model: the model folder that they are of.
        folder: of the index to write.
        refused: where the list of pictures that could not be used is written: CSV with uri, label, reason.

    Returns:
        pictures, computed, refused: how many; recall, of the truly nearest ten, the share that is found.

    Raises:
        InputError: no picture could be read, or a part is torn.
    """
    built = search.join(parts, model, folder)
    catalog.write_unused(refused, built.refused)
    for uri, label, reason in built.refused[: search.REFUSED_NAMED]:
        print(without_secrets(f"refused: {uri}{f' ({label})' if label else ''}: {reason}"))
    results.announce(f"{built.about.pictures} images indexed, {len(built.refused)} could not be used")
    return {
        "pictures": built.about.pictures,
        "computed": built.computed,
        "refused": len(built.refused),
        "recall": built.about.recall,
    }


def check_index(uri: str, field: str) -> None:
    """Refuses a URI where no index lies.

    Raises:
        InputError: naming the field.
    """
    storage.check_there(uri, field)
    if not any(item.name == search.ABOUT_FILE for item in storage.walk(uri)):
        raise InputError(f"{field} must name an index", f"none at {uri}", "Give the folder that index_images has made.")


def _brought(uri: str, folder: Path) -> Path:
    """The index at a URI on this machine: a local one as it is."""
    if not storage.scheme(uri) and Path(storage.absolute(uri)).is_dir():
        return Path(storage.absolute(uri))
    for item in storage.walk(uri):
        name = PurePosixPath(item.name)
        if ".." not in name.parts and not name.is_absolute():
            storage.save(item, folder / name, "an index")
    return folder
