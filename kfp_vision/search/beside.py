"""An index beside the versions of the model that it is of: how it gets there, in a folder or in a bucket, and from there here.

Its generations have numbers of their own there. The files of one lie there before `index.json` says so, and those of the one
before stay until the next one comes: whoever reads meanwhile finds all of the one or all of the other.
"""

import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kfp_vision import publishing, repository, results, storage, stores
from kfp_vision.errors import InputError
from kfp_vision.repository import INDEX_FOLDER, SERVING_FOLDER
from kfp_vision.search import ABOUT_FILE, FILES, MODEL_FOLDER, REMEDY, about_in, described, files_in, forget_others

NOWHERE = "none"


def check_target(deploy_to: str, model_uri: str) -> None:
    """Refuses a place that an index cannot be deployed to.

    Args:
        deploy_to: `none`, or a model folder or a repository; one in a bucket is tried with an object that is made and removed.
        model_uri: of the model that the index is to be of; empty for a network that nobody serves.

    Raises:
        InputError: naming deploy_to, or what the store says.
    """
    if deploy_to == NOWHERE:
        return
    if storage.scheme(deploy_to) not in ("", "file", *stores.BUCKETS) or not deploy_to:
        rule = f"deploy_to must be {NOWHERE}, or where the model lies whose pictures are to be searched in"
        raise InputError(rule, deploy_to, "Name a model folder or a model repository, in a bucket or not.")
    if not model_uri:
        rule = "deploy_to must be where the model lies that the index is of"
        raise InputError(rule, f"{deploy_to} without model_uri", f"Set model_uri to it as well, or deploy_to to {NOWHERE}.")
    storage.check_writable(deploy_to, "deploy_to")
    _with_newest(deploy_to)


def deploy_index(index: Path, deploy_to: str, deployed: Path) -> dict[str, Any]:
    """Brings an index to where the model lies that it is of, for servers to search in.

    Args:
        index: its folder.
        deploy_to: a model folder or a repository, in a bucket or not, with the model as its newest version.
        deployed: the file to write (JSON).

    Returns:
        What is written: repository, model_name, version, generation, pictures.

    Raises:
        InputError: no model or another one lies there, or the store refuses or does not answer.
    """
    about, version = about_in(index), repository.exported(index / MODEL_FOLDER)
    place, newest = _with_newest(deploy_to)
    if not newest.is_copy_of(version):
        rule = f"an index must lie with the model that it is of, {about.model_name} {about.model_fingerprint[:12]}"
        raise InputError(rule, f"another one as version {newest.number} in {place}", "Run image_search with it as model_uri.")
    there = storage.inside(place, INDEX_FOLDER)
    before = _generation(there)
    # Numbers of two who deploy at a time differ, and their files do not mix.
    generation = max(before + 1, time.time_ns() // 1_000_000)
    for file in files_in(index)[1:]:
        storage.put(file, storage.inside(there, f"{generation}/{file.name}"))
    said = asdict(replace(about, generation=generation))
    storage.put(f"{json.dumps(said, indent=1, ensure_ascii=False)}\n".encode(), storage.inside(there, ABOUT_FILE))
    _tidy(there, before)
    told = {"repository": place, "model_name": newest.name, "version": newest.number}
    told |= {"generation": generation, "pictures": about.pictures}
    storage.write_json(deployed, told)
    results.announce(f"index of {about.pictures} images deployed beside version {newest.number} of {newest.name} in {place}")
    return told


def bring(place: str, folder: Path) -> bool:
    """Makes an index in a folder like the one that lies with the versions of a repository in a bucket, if one does.

    Args:
        place: the repository.
        folder: of the index here; what is there already is not brought again, and answers until the new one is whole.

    Returns:
        Whether there was something to bring.

    Raises:
        InputError: it is torn, or the store refuses or does not answer.
    """
    there = storage.inside(place, INDEX_FOLDER)
    said = _said(there)
    if said is None or ((folder / ABOUT_FILE).exists() and (folder / ABOUT_FILE).read_bytes() == said):
        return False
    about = described(said, there)
    generation = str(about.generation)
    files = {found.name: found.uri for found in storage.children(storage.inside(there, generation))}
    wanted = FILES if about.probes else FILES[:-1]
    if missing := [name for name in wanted if name not in files]:
        raise InputError("an index must be whole", f"{there} without {generation}/{missing[0]}", REMEDY)
    with storage.replacing(folder / generation) as beside:
        beside.mkdir()
        for name in wanted:
            _receive(files[name], beside / name)
    with storage.replacing(folder / ABOUT_FILE) as beside:
        beside.write_bytes(said)
    forget_others(folder, about.generation)
    return True


def _with_newest(deploy_to: str) -> tuple[str, publishing.Published]:
    """The repository at a model folder or a repository, and its newest version.

    Raises:
        InputError: there is none, or the store refuses or does not answer.
    """
    for place in (storage.absolute(deploy_to), storage.inside(deploy_to, SERVING_FOLDER.as_posix())):
        if versions := publishing.repository_at(place).versions():
            return place, versions[-1]
    rule = "deploy_to must hold a model for an index to lie with"
    raise InputError(rule, f"none in {deploy_to}", "Deploy the model there first.")


def _said(there: str) -> bytes | None:
    """What says of an index what it is; nothing where there is none."""
    try:
        with storage.Reader() as reader:
            return reader.read(storage.inside(there, ABOUT_FILE))
    except FileNotFoundError:
        return None


def _generation(there: str) -> int:
    """The number of the generation that counts; 0 where there is none, or nobody can say."""
    said = _said(there)
    try:
        return described(said, there).generation if said else 0
    except InputError:
        return 0


def _tidy(there: str, before: int) -> None:
    """Removes the generations from before the one that counted until now; what is newer somebody may be writing."""
    if storage.scheme(there) not in stores.BUCKETS:
        for folder in Path(there).iterdir():
            if folder.name.isdecimal() and int(folder.name) < before:
                shutil.rmtree(folder)
        return
    for found in storage.children(there):
        generation = found.name.partition("/")[0]
        if generation.isdecimal() and int(generation) < before:
            storage.remove(found.uri)


def _receive(uri: str, file: Path) -> None:
    from kfp_vision.stores import transfer

    try:
        transfer.download(uri, file)
    except FileNotFoundError as reason:
        raise InputError("an index must stay while it is read", str(reason), "Try again.") from None
