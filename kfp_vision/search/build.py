"""The stages that build an index: they fetch the model, list the images, compute parts and join them."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from kfp_vision.core.advanced import DEFAULT_ADVANCED, Advanced
from kfp_vision.core.errors import InputError, redact
from kfp_vision.core.values import ONE, SEVERAL
from kfp_vision.dataset import image_files, scan, several_labels, table
from kfp_vision.dataset.table import ImageRow, read_table, write_table, write_unused
from kfp_vision.networks import NETWORKS
from kfp_vision.records.partitions import partition_numbers
from kfp_vision.reports import results
from kfp_vision.reports.formatting import plural
from kfp_vision.repository import version
from kfp_vision.repository.version import Version, exported_version
from kfp_vision.search import ann, index, parts
from kfp_vision.search.embedding import Embedder
from kfp_vision.search.parts import VECTORS_FILE, PartInfo
from kfp_vision.storage import atomic, reading, unwritable, uris


@unwritable.in_one_line("model")
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
    if uris.from_field(model_uri):
        return version.fetch_version(model_uri, model)
    from kfp_vision.prediction import export  # imports TensorFlow

    with atomic.replacing(model) as beside:
        export.write_backbone(beside, NETWORKS[network], uris.from_field(checkpoint_uri))
    return version.exported_version(model)


@unwritable.in_one_line("table")
def list_images(
    images_uri: str, partitions: int, table: Path, labels: str = ONE, advanced: Advanced = DEFAULT_ADVANCED
) -> list[int]:
    """Writes the table of the images at a URI, and returns the partitions to loop over.

    Args:
        images_uri: Data in any form that the training accepts; images that are not in a folder have no label.
        partitions: Number of partitions.
        table: CSV file to write.
        labels: `one` or `several` labels of an image.
        advanced: Settings of the data.

    Returns:
        Numbers of the partitions, from 0.

    Raises:
        InputError: There are no images at the URI, or with several labels one holds `|`.
    """
    images_uri = uris.from_field(images_uri)
    found = scan.scan_images(images_uri, advanced, classes=False, labels=labels)
    skipped = found.skipped.lines()
    if not found.rows:
        raise no_images_to_index_error([], skipped)
    if labels == SEVERAL:
        several_labels.check_names(found, several_labels.folder_labels(found, images_uri), advanced.label_separator)
    hidden = several_labels.hidden_notes(found) if labels == ONE else []
    for line in [*reading.notes_on_names(images_uri), *found.notes, *hidden, *skipped]:
        print(line)
    write_table(table, found.rows)
    print(f"{plural(len(found.rows), 'image', 'images')} to index")
    return partition_numbers(partitions)


@unwritable.in_one_line("part")
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
        index_uri = uris.from_field(index_uri)
        before = _download(index_uri, scratch / "before") if index_uri else None
        rows = list(read_table(table))
        written = build_part(rows, model, part, before, partition=partition, partitions=partitions)
    return {"pictures": written.pictures, "computed": written.computed}


@unwritable.in_one_line("folder")
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
    built = join_index_parts(parts, model, folder)
    write_unused(refused, built.refused)
    for uri, label, reason in built.refused[: index.MAX_REJECTIONS_LOGGED]:
        print(redact(f"rejected: {uri}{f' ({label})' if label else ''}: {reason}"))
    results.announce(f"{plural(built.about.pictures, 'image', 'images')} indexed, {len(built.refused)} rejected")
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
    if not any(item.name == index.INDEX_FILE for item in reading.walk(uri)):
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


class BuildResult(NamedTuple):
    """The result of building an index.

    Attributes:
        about: Metadata of the index.
        computed: Number of images whose embeddings were computed rather than reused.
        refused: URI, label and reason of each rejected image.
    """

    about: index.IndexInfo
    computed: int
    refused: list[tuple[str, str, str]]


def build_index(rows: Sequence[ImageRow], model: Path, folder: Path, before: Path | None = None) -> BuildResult:
    """Builds an index, or updates the one in the folder.

    Args:
        rows: Images to index, as from `scan.scan_images`.
        model: Model folder.
        folder: Folder of the index; an existing index stays usable until the new one is complete.
        before: Earlier index whose embeddings are reused; may be the same folder.

    Returns:
        Metadata of the index, and what was computed and rejected.

    Raises:
        InputError: No image can be read, or the earlier index is damaged.

    Example:
        built = build_index(find_images("photos"), Path("model"), Path("index"))
        print(f"{built.about.pictures} images, {len(built.refused)} rejected")
    """
    with atomic.scratch_folder(folder) as beside:  # on the same file system, so that files can be linked instead of copied
        build_part(rows, model, beside / "part", before)
        return join_index_parts([beside / "part"], model, folder)


def build_part(
    rows: Sequence[ImageRow], model: Path, part: Path, before: Path | None = None, *, partition: int = 0, partitions: int = 1
) -> PartInfo:
    """Computes one of several parts of an index, for `join`.

    Args:
        rows: All images to index, including those of the other parts.
        model: Model folder.
        part: Folder to create.
        before: Earlier index whose embeddings are reused.
        partition: Number of the part, from 0.
        partitions: Number of parts.

    Returns:
        Metadata of the part.

    Raises:
        InputError: The earlier index is damaged.
    """
    embedder = Embedder(exported_version(model))
    old = index.Index(before) if before else None
    if old and old.about.model_fingerprint != embedder.fingerprint:
        print("the earlier index was built with another model: computing all embeddings", flush=True)
        old = None
    own_rows = parts.part_rows(rows, old.by_content if old else {}, partition, partitions)
    if partitions > 1:
        print(f"partition {partition + 1} of {partitions}: {len(own_rows)} of {len(rows)} images", flush=True)
    return parts.write_part_files(own_rows, embedder, old, part)


def join_index_parts(folders: Sequence[Path], model: Path, folder: Path) -> BuildResult:
    """Joins parts into the index that `build_index` would have written.

    Args:
        folders: Folders that `build_part` wrote, in the order of the parts.
        model: Model folder that the parts were computed with.
        folder: Folder of the index; an existing index stays usable until the new one is complete.

    Returns:
        Metadata of the index, and what was computed and rejected.

    Raises:
        InputError: A part is damaged or was computed with another model, or no part has any images.
    """
    version = exported_version(model)
    joined = [parts.read_part_info(part, version.fingerprint) for part in folders]
    pictures, computed = sum(part.pictures for part in joined), sum(part.computed for part in joined)
    refused = [reject for part in folders for reject in table.read_unused(part / parts.REJECTIONS_FILE)]
    if not pictures:
        raise no_images_to_index_error(refused)
    dimension, generation, has_model = joined[0].dimension, 1, False
    if (folder / index.INDEX_FILE).exists():
        earlier = index.read_index_info(folder)
        generation, has_model = earlier.generation + 1, earlier.model_fingerprint == version.fingerprint
    with atomic.replacing(folder / str(generation)) as beside:
        beside.mkdir()
        parts.concatenate_parts(folders, beside)
        vectors = np.memmap(beside / VECTORS_FILE, "float16", "r", shape=(pictures, dimension))
        measured = ann.build_regions(vectors, beside / index.REGIONS_FILE) if pictures > ann.MAX_EXACT else ann.Recall(1.0, 0)
    if not has_model:
        with atomic.replacing(folder / index.MODEL_FOLDER) as beside:
            shutil.copytree(version.folder, exported_version(beside).folder)
    about = index.IndexInfo(
        version.name, version.fingerprint, dimension, pictures, generation, measured.recall, measured.probes
    )
    atomic.write_json(folder / index.INDEX_FILE, asdict(about))
    index.remove_other_generations(folder, generation)
    print(f"{pictures} images in the index, {computed} embeddings computed, {len(refused)} images rejected", flush=True)
    return BuildResult(about, computed, refused)


def no_images_to_index_error(refused: Sequence[tuple[str, str, str]], skipped: Sequence[str] = ()) -> InputError:
    """Returns the error for an index without any images.

    Args:
        refused: URI, label and reason of each rejected image.
        skipped: What the other files are, as `SkippedFiles.lines`.
    """
    reasons = "; ".join([*sorted({reason for _, _, reason in refused}), *skipped]) or "no images"
    return InputError("there must be images to index", reasons, f"Give a folder of {image_files.FORMATS}.")


def find_images(uri: str) -> list[ImageRow]:
    """Lists the images at a URI; an image that is not in a folder has no label.

    Args:
        uri: A folder, an archive or an import file, see `scan.scan_images`.

    Returns:
        One row per image, sorted by name.

    Raises:
        InputError: There is nothing at the URI.
    """
    return scan.scan_images(uri, classes=False).rows
