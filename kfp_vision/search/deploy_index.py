"""Deploys an index next to the model it was built with, and syncs it to servers.

Generations have numbers of their own in a repository. All files of a generation are written before `index.json` names it, and
those of the previous one stay until the next deployment, so that a reader sees one generation or the other, never a mixture.
"""

import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kfp_vision.core import json_text
from kfp_vision.core.errors import InputError
from kfp_vision.reports import results
from kfp_vision.reports.formatting import plural
from kfp_vision.repository import publish
from kfp_vision.repository.version import INDEX_FOLDER, SERVING_FOLDER, exported_version
from kfp_vision.search.index import (
    INDEX_FILE,
    INDEX_FILES,
    MODEL_FOLDER,
    index_files,
    parse_index_info,
    read_index_info,
    remove_other_generations,
)
from kfp_vision.search.parts import REINDEX_REMEDY
from kfp_vision.storage import atomic, base, reading, unwritable, uris, writing

NOWHERE = "none"


def check_index_target(deploy_to: str, model_uri: str) -> None:
    """Checks that an index can be deployed to a repository.

    Args:
        deploy_to: `none`, a model folder or a repository. In a bucket, write access is tested with a small object, which is
            removed again.
        model_uri: Model that the index will be built with; empty for a pretrained network, which is not deployed anywhere.

    Raises:
        InputError: deploy_to is not valid, holds no model, or cannot be written to.
    """
    if deploy_to == NOWHERE:
        return
    if uris.scheme_of(deploy_to) not in ("", "file", *base.BUCKETS) or not deploy_to:
        rule = f"deploy_to must be {NOWHERE}, or the place of the model whose images are searched"
        raise InputError(rule, deploy_to, "Name a model folder or a model repository, in a bucket or not.")
    if not model_uri:
        rule = "deploy_to must be the place of the model that the index is built with"
        raise InputError(rule, f"{deploy_to} without model_uri", f"Set model_uri to it as well, or deploy_to to {NOWHERE}.")
    writing.check_writable(deploy_to, "deploy_to")
    _find_newest(deploy_to)


@unwritable.in_one_line("deploy_to", "deployed")
def deploy_index(index: Path, deploy_to: str, deployed: Path) -> dict[str, Any]:
    """Copies an index to the repository of its model, for servers to search in.

    Args:
        index: Folder of the index.
        deploy_to: A model folder or a repository, also in a bucket; its newest version must be the index's model.
        deployed: JSON file to write.

    Returns:
        What the file holds: repository, model_name, version, generation, pictures (number of images).

    Raises:
        InputError: The newest version is another model or missing, or the store denies access or does not answer.
    """
    about, version = read_index_info(index), exported_version(index / MODEL_FOLDER)
    place, newest = _find_newest(deploy_to)
    if not newest.is_copy_of(version):
        rule = f"an index must be deployed beside its model, {about.model_name} {about.model_fingerprint[:12]}"
        raise InputError(rule, f"another one as version {newest.number} in {place}", "Run image_search with it as model_uri.")
    target = uris.join_uri(place, INDEX_FOLDER)
    previous = _generation(target)
    # By the clock, so that two simultaneous deployments get different numbers and their files do not mix.
    generation = max(previous + 1, time.time_ns() // 1_000_000)
    for file in index_files(index)[1:]:
        writing.write_file(file, uris.join_uri(target, f"{generation}/{file.name}"))
    metadata = asdict(replace(about, generation=generation))
    writing.write_file(f"{json_text.write(metadata, indent=1)}\n".encode(), uris.join_uri(target, INDEX_FILE))
    _tidy(target, previous)
    deployment = {"repository": place, "model_name": newest.name, "version": newest.number}
    deployment |= {"generation": generation, "pictures": about.pictures}
    atomic.write_json(deployed, deployment)
    images = plural(about.pictures, "image", "images")
    results.announce(f"index of {images} deployed beside version {newest.number} of {newest.name} in {place}")
    return deployment


def sync_index(place: str, folder: Path) -> bool:
    """Syncs a local index with the one in a repository in a bucket, if there is one.

    Args:
        place: URI of the repository.
        folder: Folder of the local index; its current generation stays usable until the new one is complete.

    Returns:
        True if a new generation was downloaded.

    Raises:
        InputError: The index is damaged, or the store denies access or does not answer.
    """
    source = uris.join_uri(place, INDEX_FOLDER)
    metadata = reading.read_if_exists(uris.join_uri(source, INDEX_FILE))
    if metadata is None or ((folder / INDEX_FILE).exists() and (folder / INDEX_FILE).read_bytes() == metadata):
        return False
    about = parse_index_info(metadata, source)
    generation = str(about.generation)
    files = {found.name: found.uri for found in reading.list_files(uris.join_uri(source, generation))}
    wanted = INDEX_FILES if about.probes else INDEX_FILES[:-1]
    if missing := [name for name in wanted if name not in files]:
        raise InputError("an index must be whole", f"{source} without {generation}/{missing[0]}", REINDEX_REMEDY)
    with atomic.replacing(folder / generation) as beside:
        beside.mkdir()
        for name in wanted:
            _download(files[name], beside / name)
    with atomic.replacing(folder / INDEX_FILE) as beside:
        beside.write_bytes(metadata)
    remove_other_generations(folder, about.generation)
    return True


def _find_newest(deploy_to: str) -> tuple[str, publish.PublishedVersion]:
    """Returns the repository at a URI, or in the model folder there, with its newest version.

    Raises:
        InputError: There is none, or the store denies access or does not answer.
    """
    deploy_to = uris.from_field(deploy_to)
    for place in (uris.absolute_uri(deploy_to), uris.join_uri(deploy_to, SERVING_FOLDER.as_posix())):
        if versions := publish.repository_at(place).versions():
            return place, versions[-1]
    rule = "deploy_to must hold a model for the index to be deployed beside"
    raise InputError(rule, f"none in {deploy_to}", "Deploy the model there first.")


def _generation(uri: str) -> int:
    """Returns the number of the current generation; 0 if there is no index, or its metadata is damaged."""
    metadata = reading.read_if_exists(uris.join_uri(uri, INDEX_FILE))
    try:
        return parse_index_info(metadata, uri).generation if metadata else 0
    except InputError:
        return 0


def _tidy(uri: str, previous: int) -> None:
    """Removes the generations older than the previous one; newer ones may still be being written by another deployment."""
    if uris.scheme_of(uri) not in base.BUCKETS:
        for folder in Path(uri).iterdir():
            if folder.name.isdecimal() and int(folder.name) < previous:
                shutil.rmtree(folder)
        return
    for found in reading.list_files(uri):
        generation = found.name.partition("/")[0]
        if generation.isdecimal() and int(generation) < previous:
            writing.delete_file(found.uri)


def _download(uri: str, file: Path) -> None:
    from kfp_vision.storage import transfer

    try:
        transfer.download(uri, file)
    except FileNotFoundError as reason:
        raise InputError("an index must not be removed while it is read", str(reason), "Try again.") from None
