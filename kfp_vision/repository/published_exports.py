"""Exports beside the versions of a repository: a model's files for other runtimes, as `export_model` writes them.

`exports.json`, the table, says which model they were made of. It is deleted before the files change and written after them, so
that files without a table are not whole.
"""

from collections.abc import Collection
from pathlib import Path

from kfp_vision.core import values
from kfp_vision.core.errors import InputError
from kfp_vision.repository.version import EXPORTS_FILE, EXPORTS_FOLDER
from kfp_vision.storage import atomic, reading, transfer, uris, writing
from kfp_vision.storage.base import ObjectNotFound


def publish_exports(exports: Path, deploy_to: str) -> None:
    """Copies exports into a model repository, in place of those of an earlier model.

    Args:
        exports: the folder that `export_model` writes.
        deploy_to: deployment target; nothing is copied unless it is a model repository.

    Raises:
        InputError: the repository cannot be written to.
    """
    place = uris.from_field(deploy_to)
    if place in (values.NOWHERE, values.KSERVE):
        return
    target = uris.join_uri(uris.absolute_uri(place), EXPORTS_FOLDER)
    files = sorted(file for file in exports.rglob("*") if file.is_file() and file != exports / EXPORTS_FILE)
    names = [file.relative_to(exports).as_posix() for file in files]
    before = {found.name: found.uri for found in reading.list_files(target)}
    if EXPORTS_FILE in before:
        writing.delete_file(before.pop(EXPORTS_FILE))
    for name in names:
        writing.write_file(exports / name, uris.join_uri(target, name))
    writing.write_file(exports / EXPORTS_FILE, uris.join_uri(target, EXPORTS_FILE))
    for name, uri in before.items():
        if name not in names:
            writing.delete_file(uri)


def sync_exports(place: str, repository: Path, formats: Collection[str]) -> bool:
    """Syncs a local repository's exports with those of the same repository in a bucket, if there are any.

    Args:
        place: URI of the repository.
        repository: the local one; its exports stay usable until the new ones are complete.
        formats: names of the formats to download.

    Returns:
        True if new ones were downloaded.

    Raises:
        InputError: the exports are being replaced, or the store denies access or does not answer.
    """
    if not formats:
        return False
    source, folder = uris.join_uri(place, EXPORTS_FOLDER), repository / EXPORTS_FOLDER
    table_uri = uris.join_uri(source, EXPORTS_FILE)
    table = reading.read_if_exists(table_uri)
    if table is None or ((folder / EXPORTS_FILE).exists() and (folder / EXPORTS_FILE).read_bytes() == table):
        return False
    with atomic.replacing(folder) as beside:
        beside.mkdir()
        for found in reading.list_files(source):
            export, _, name = found.name.partition("/")
            if export in formats and "/" not in name and name not in ("", ".", ".."):
                (beside / export).mkdir(exist_ok=True)
                try:
                    transfer.download(found.uri, beside / export / name)
                except ObjectNotFound as reason:
                    raise _changed(str(reason)) from None
        if reading.read_if_exists(table_uri) != table:
            raise _changed(source)
        (beside / EXPORTS_FILE).write_bytes(table)
    return True


def _changed(found: str) -> InputError:
    return InputError("exports must not be replaced while they are read", found, "Try again.")
