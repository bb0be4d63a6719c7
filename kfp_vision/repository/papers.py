"""The papers of a version: its model card and the pipeline that made it, with tags and aliases; beside the versions.

    papers/3/README.md        the model card, with the front matter that Hugging Face reads
    papers/3/pipeline.yaml    the compiled pipeline, whose defaults are the values of the run
    papers/3/papers.json      figures, verdict, data and run, for programs; written last
    papers/3/tags.json        tags, which people set
    papers/aliases.json       champion and challenger, each the number of a version

They lie beside the versions and not in them, since verdict and proof are bound to the fingerprint of a version, which covers
all its files, and the papers tell of both; and since tags change while a version never does. Servers load the folders that are
numbers, and see none of this. `papers.json` holds a hash of the version's metadata: papers that are left from another version
of the same number do not count.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kfp_vision.core import json_text
from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.storage import reading, unwritable, uris, writing

PAPERS_FOLDER, PAPERS_FILE = "papers", "papers.json"
CARD_FILE, PIPELINE_FILE = "README.md", "pipeline.yaml"
TAGS_FILE, ALIASES_FILE = "tags.json", "aliases.json"
ALIASES = ("champion", "challenger")  # the model in use, and the one that is tried against it
NEWEST = "newest"  # names the version that servers answer with
MAX_TAG_LENGTH = 100


class Described(Protocol):
    """A version that papers may belong to, see `publish.PublishedVersion`."""

    @property
    def number(self) -> int:
        """Number of the version."""

    @property
    def about(self) -> Mapping[str, Any]:
        """Metadata of the model, as the export wrote it."""


def hash_metadata(about: Mapping[str, Any]) -> str:
    """Returns the hash of a version's metadata by which papers know their version.

    Args:
        about: Metadata of the version; among them the hash of what it was trained from.
    """
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


@unwritable.in_one_line("place")
def publish_papers(papers: Path, place: str, number: int) -> None:
    """Copies papers to a version, in place of earlier ones; tags stay.

    Args:
        papers: Folder of the papers, as `model_card.write_papers` makes it.
        place: Path or URI of the repository.
        number: Number of the version.

    Raises:
        InputError: The repository cannot be written to.
    """
    target = _folder(place, number)
    writing.delete_file(uris.join_uri(target, PAPERS_FILE))
    for name in (CARD_FILE, PIPELINE_FILE, PAPERS_FILE):
        if (papers / name).exists():
            writing.write_file(papers / name, uris.join_uri(target, name))


def read_papers(place: str, version: Described) -> dict[str, Any] | None:
    """Returns what `papers.json` says of a version; None if it has no papers.

    Args:
        place: Path or URI of the repository.
        version: One of its versions.

    Raises:
        InputError: The file holds something else, or the store denies access or does not answer.
    """
    where = uris.join_uri(_folder(place, version.number), PAPERS_FILE)
    found = _read_json(where)
    if not found or found.get("metadata") != hash_metadata(version.about):
        return None
    if not _is_whole(found):
        raise _not_ours(where)
    return found


def download_papers(place: str, version: Described, folder: Path) -> bool:
    """Copies the papers of a version to a new folder on this machine, without its tags.

    Args:
        place: Path or URI of the repository.
        version: One of its versions.
        folder: Folder to create.

    Returns:
        False if it has none.

    Raises:
        InputError: The store denies access or does not answer.
    """
    if read_papers(place, version) is None:
        return False
    folder.mkdir(parents=True)
    for found in reading.list_files(_folder(place, version.number)):
        if found.name in (CARD_FILE, PIPELINE_FILE, PAPERS_FILE):
            (folder / found.name).write_bytes(reading.read_if_exists(found.uri) or b"")
    return True


def remove_papers(place: str, number: int) -> None:
    """Removes the papers and tags of a version, and its aliases.

    Args:
        place: Path or URI of the repository.
        number: Number of the version.

    Raises:
        InputError: The store denies access or does not answer.
    """
    target = _folder(place, number)
    for found in sorted(reading.list_files(target), key=lambda found: found.name != PAPERS_FILE):
        writing.delete_file(found.uri)
    if not uris.Location.of_file(target).is_remote and Path(uris.absolute_uri(target)).is_dir():
        Path(uris.absolute_uri(target)).rmdir()
    aliases = read_aliases(place)
    if number in aliases.values():
        _write_aliases(place, {alias: other for alias, other in aliases.items() if other != number})


def read_card(place: str, version: Described) -> str:
    """Returns the model card of a version.

    Args:
        place: Path or URI of the repository.
        version: One of its versions.

    Raises:
        InputError: The version has none, or the store denies access or does not answer.
    """
    where = uris.join_uri(_folder(place, version.number), CARD_FILE)
    card = reading.read_if_exists(where) if read_papers(place, version) else None
    if card is None:
        rule, remedy = "a version must have papers to show its card", "Versions get them when a pipeline deploys them."
        raise InputError(rule, f"none of version {version.number} in {place}", remedy)
    try:
        return card.decode()
    except UnicodeDecodeError:
        raise _not_ours(where) from None


def read_tags(place: str, number: int) -> list[str]:
    """Returns the tags of a version, sorted.

    Args:
        place: Path or URI of the repository.
        number: Number of the version.

    Raises:
        InputError: The file holds something else, or the store denies access or does not answer.
    """
    where = uris.join_uri(_folder(place, number), TAGS_FILE)
    tags = (_read_json(where) or {}).get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) and _is_tag(tag) for tag in tags):
        raise _not_ours(where)
    return sorted(tags)


def change_tags(place: str, number: int, add: Collection[str] = (), remove: Collection[str] = ()) -> list[str]:
    """Adds tags to a version, and removes others.

    Args:
        place: Path or URI of the repository.
        number: Number of the version.
        add: Tags to add.
        remove: Tags to remove.

    Returns:
        All tags of the version, sorted.

    Raises:
        FieldError: A tag is empty, has white space around it or more than one line, or is too long; or one to remove is not
            there.
        InputError: The store denies access or does not answer.
    """
    before = read_tags(place, number)
    for tag in add:
        if not _is_tag(tag):
            rule = f"a tag must be one line of at most {MAX_TAG_LENGTH} characters, without spaces around it"
            raise FieldError(rule, tag, "Choose one such as reviewed.")
    for tag in remove:
        if tag not in before:
            found = f"{tag}, and version {number} has {', '.join(before) or 'none'}"
            raise FieldError("a tag must be there to be removed", found, "Name one of its tags.")
    after = sorted({*before, *add} - set(remove))
    writing.write_file(_as_json({"tags": after}), uris.join_uri(_folder(place, number), TAGS_FILE))
    return after


def read_aliases(place: str) -> dict[str, int]:
    """Returns the number of the version that each alias names; aliases that are not set are missing.

    Args:
        place: Path or URI of the repository.

    Raises:
        InputError: The file holds something else, or the store denies access or does not answer.
    """
    where = uris.join_uri(place, f"{PAPERS_FOLDER}/{ALIASES_FILE}")
    aliases = _read_json(where) or {}
    if not all(type(number) is int for number in aliases.values()):  # a boolean is one of isinstance's
        raise _not_ours(where)
    return {alias: number for alias, number in aliases.items() if alias in ALIASES}


def set_alias(place: str, alias: str, number: int | None) -> None:
    """Gives a version an alias, which another one may have had before.

    Args:
        place: Path or URI of the repository.
        alias: One of `ALIASES`.
        number: Number of the version; None for no version.

    Raises:
        FieldError: There is no such alias.
        InputError: The store denies access or does not answer.
    """
    if alias not in ALIASES:
        raise FieldError(f"an alias must be one of {', '.join(ALIASES)}", alias, "Choose one, or set a tag.")
    others = {name: other for name, other in read_aliases(place).items() if name != alias}
    _write_aliases(place, others | ({} if number is None else {alias: number}))


def find_number(place: str, published: Sequence[Described], name: str) -> int:
    """Returns the number of the version that a person names.

    Args:
        place: Path or URI of the repository.
        published: Its versions.
        name: A number, an alias, or `newest`.

    Raises:
        InputError: There is no such version.
    """
    numbers = [version.number for version in published]
    named = read_aliases(place) if name in ALIASES else {}
    by_name = {str(number): number for number in numbers} | named | ({NEWEST: numbers[-1]} if numbers else {})
    if (number := by_name.get(name, 0)) in numbers:
        return number
    rule = f"a version must be a number, {', '.join(ALIASES)} or {NEWEST}, and be there"
    raise InputError(rule, f"{name} in {place}, which has {list_numbers(numbers)}", "See kfp-vision models for all of them.")


def list_numbers(numbers: Sequence[int]) -> str:
    """Lists versions in an error, such as `versions 1, 2, 3`.

    Args:
        numbers: Numbers of the versions.
    """
    if len(numbers) == 1:
        return f"version {numbers[0]} alone"
    return f"versions {', '.join(map(str, numbers))}" if numbers else "no version"


def _is_tag(tag: str) -> bool:
    return bool(tag) and tag == tag.strip() and tag.isprintable() and len(tag) <= MAX_TAG_LENGTH


def _is_whole(found: Mapping[str, Any]) -> bool:
    """Returns whether what programs read of papers is of the types that it should be; what is missing is unknown."""

    def are_numbers(values: Any) -> bool:
        return all(isinstance(value, int | float) for value in values)

    figures, intervals, verdict = (found.get(name, {}) for name in ("figures", "intervals", "verdict"))
    return (
        all(isinstance(one, dict) for one in (figures, intervals, verdict))
        and are_numbers(figures.values())
        and all(isinstance(bounds, list) and len(bounds) == 2 and are_numbers(bounds) for bounds in intervals.values())
        and isinstance(verdict.get("reasons", []), list)
        and isinstance(found.get("date", ""), str)
    )


def _folder(place: str, number: int) -> str:
    return uris.join_uri(place, f"{PAPERS_FOLDER}/{number}")


def _write_aliases(place: str, aliases: Mapping[str, int]) -> None:
    writing.write_file(_as_json(aliases), uris.join_uri(place, f"{PAPERS_FOLDER}/{ALIASES_FILE}"))


def _as_json(content: Mapping[str, Any]) -> bytes:
    return (json_text.write(content, indent=1) + "\n").encode()


def _read_json(uri: str) -> dict[str, Any] | None:
    content = reading.read_if_exists(uri)
    if content is None:
        return None
    try:
        found: Any = json_text.parse(content)
    except ValueError:
        raise _not_ours(uri) from None
    if not isinstance(found, dict):
        raise _not_ours(uri)
    return found


def _not_ours(uri: str) -> InputError:
    return InputError("papers must be JSON as this library writes them", uri, "Delete the file.")
