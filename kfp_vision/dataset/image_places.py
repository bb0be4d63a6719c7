"""Finds the images that an import file names by an id or by a bare file name: below the folder of the file."""

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from kfp_vision.core.errors import AccessError
from kfp_vision.dataset import import_files
from kfp_vision.dataset.image_files import skip_reason
from kfp_vision.dataset.import_files import ImportEntry
from kfp_vision.dataset.import_lines import has_ending
from kfp_vision.dataset.label_studio import UPLOAD_PREFIX
from kfp_vision.storage import base, reading, uris


class ImagePlaces:
    """The files below the folder of an import file, listed once, when they are first needed.

    Attributes:
        found: name and place of each image that was found, below the folder.
    """

    def __init__(self, listing: str, entries: Iterable[ImportEntry]):
        """Remembers which names to look for.

        Args:
            listing: URI of the import file.
            entries: its entries.
        """
        self.found: list[tuple[str, str]] = []
        self._listing = uris.absolute_uri(listing)
        self._wanted = {_last(path).casefold() for entry in entries for path in spellings(entry.name)}

    def settle_ids(self, entries: list[ImportEntry]) -> list[ImportEntry]:
        """Sets the URIs of the images that are named by an id, without the ending of a file, with backslashes, or as uploads.

        Args:
            entries: of the import file.

        Returns:
            The entries in the same order; unchanged where nothing is found.

        Raises:
            InputError: there are several images with one of the names.
        """
        doubtful = {entry.line for entry in entries if self._can_find(entry) and _is_doubtful(entry)}
        return self._settle(entries, doubtful)

    def settle_lost(self, entries: list[ImportEntry]) -> list[ImportEntry]:
        """Sets the URIs of images that are not at the place that the import file names.

        Args:
            entries: those without an image.

        Returns:
            The entries in the same order; unchanged where nothing is found.

        Raises:
            InputError: there are several images with one of the names.
        """
        return self._settle(entries, {entry.line for entry in entries if self._can_find(entry)})

    def _settle(self, entries: list[ImportEntry], lines: set[int]) -> list[ImportEntry]:
        settled, wrong = [], []
        for entry in entries:
            matches = self._matches(entry.name) if entry.line in lines else []
            if len(matches) > 1:
                names = " and ".join(name for name, _ in matches[:2])
                more = f" and {len(matches) - 2} more" if len(matches) > 2 else ""
                wrong.append((entry.line, f"{entry.name}, which may be {names}{more}"))
            for name, uri in matches[:1]:
                if uri != entry.uri:
                    self.found.append((entry.name, name))
                entry = replace(entry, uri=uri)
            settled.append(entry)
        if wrong:
            raise import_files.invalid_lines_error(self._listing, wrong)
        return settled

    def _can_find(self, entry: ImportEntry) -> bool:
        """Returns whether an entry names a file below the folder, and the folder can be listed."""
        kind = uris.scheme_of(self._listing)
        is_path = not uris.scheme_of(entry.name) and not entry.name.startswith("/") and "#" not in entry.name
        return is_path and (kind in base.BUCKETS if kind else _folder(self._listing) != "")

    def _matches(self, name: str) -> list[tuple[str, str]]:
        """Returns the files that a name may mean: that very path, else one that ends with it, else one without its ending.

        If there is none, upper and lower case do not count: `1.JPG` is `1.jpg` on the machine where many lists were written.
        """
        return next((found for path in spellings(name) if (found := self._named(name, path))), [])

    def _named(self, name: str, path: str) -> list[tuple[str, str]]:
        files = self._files.get(_last(path).casefold(), [])
        if exact := [file for written in (name, path) for file in files if file[0] == written]:
            return exact[:1]
        images = [file for file in files if not skip_reason(file[0])]
        for in_case in (str, str.casefold):
            end = in_case(f"/{path}")
            ends = [file for file in images if in_case(f"/{file[0]}").endswith(end)]
            stems = [file for file in images if in_case(f"/{file[0].rpartition('.')[0]}").endswith(end)]
            if ends or stems:
                return ends or stems
        return []

    @cached_property
    def _files(self) -> dict[str, list[tuple[str, str]]]:
        """Name and URI of the files that may be meant, by their last component with and without its ending, in lower case."""
        files: dict[str, list[tuple[str, str]]] = {}
        with contextlib.suppress(AccessError):  # images may be readable where listing is denied
            for item in reading.walk(_folder(self._listing)):
                last = _last(_with_slashes(item.name)).casefold()
                for key in {last, last.rpartition(".")[0]} & self._wanted:
                    files.setdefault(key, []).append((item.name, item.uri))
        return files


def spellings(name: str) -> list[str]:
    """Returns the paths that a name may stand for: as it is, and without what Label Studio put before it.

    Args:
        name: of an image in an import file.
    """
    path = _with_slashes(name)
    return list(dict.fromkeys((path, UPLOAD_PREFIX.sub("", path))))


def _is_doubtful(entry: ImportEntry) -> bool:
    is_remote = bool(uris.scheme_of(entry.uri))
    is_uploaded = UPLOAD_PREFIX.search(entry.name) is not None
    if has_ending(entry.name) and not is_uploaded and not ("\\" in entry.name and is_remote):
        return False
    return is_remote or not Path(entry.uri).is_file()


def _folder(listing: str) -> str:
    """Returns the URI of the folder of a file; empty for the root of the file system."""
    place = base.split_settings(listing)[0]
    return f"{place.rpartition('/')[0]}{listing[len(place) :]}"


def _with_slashes(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _last(path: str) -> str:
    return path.rpartition("/")[2]
