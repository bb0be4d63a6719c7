"""What `kfp-vision models` prints: the versions of a repository with figures, tags and aliases, and what it has changed."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from kfp_vision.core import json_text
from kfp_vision.core.errors import DamagedError, InputError
from kfp_vision.deployment import import_model
from kfp_vision.repository import papers, publish
from kfp_vision.repository.publish import PublishedVersion
from kfp_vision.storage import uris

COLUMNS = ("version", "date", "figure", "alias", "tags")


def manage(options: argparse.Namespace) -> Iterable[str]:
    """Does what a command line asks for.

    Args:
        options: the parsed command line of `kfp-vision models`.

    Returns:
        The lines to print.

    Raises:
        InputError: there is no such version, alias or tag, the model must not be imported, or an error of the store.
    """
    place = uris.absolute_uri(uris.from_field(options.repository))
    if options.source:
        imported = import_model.import_model(options.source, place, force=options.force)
        return [f"{imported.name}: version {imported.number} of {place} is the model of {options.source}"]
    published = publish.repository_at(place).versions()
    if not published:
        raise InputError("a model repository must hold a version", f"none in {place}", "Deploy to it, or import a model.")
    if options.show:
        version = _find(place, published, options.show)
        return [_printable(line) for line in papers.read_card(place, version).rstrip().split("\n")]
    if options.tag or options.untag:
        change = "add" if options.tag else "remove"
        named = [(papers.find_number(place, published, name), tag) for name, tag in options.tag or options.untag]
        changed = {number: papers.change_tags(place, number, **{change: [tag]}) for number, tag in named}
        return [f"version {number}: {', '.join(tags) or 'no tags'}" for number, tags in changed.items()]
    if options.alias:
        alias, name = options.alias
        number = papers.find_number(place, published, name)
        papers.set_alias(place, alias, number)
        return [f"{alias} is version {number}"]
    if options.unalias:
        papers.set_alias(place, options.unalias, None)
        return [f"{options.unalias} is no version"]
    rows = describe_versions(place, published)
    return [json_text.write(row) for row in rows] if options.json else _lines(place, rows)


def describe_versions(place: str, published: Iterable[PublishedVersion]) -> list[dict[str, Any]]:
    """Describes the versions of a repository, the newest first.

    Args:
        place: path or URI of the repository.
        published: its versions, the newest last.

    Returns:
        A row per version: model_name, version, served (whether servers answer with it), damaged (whether its metadata is, so
        that they do not), network, aliases and tags; and of its papers, else None: date, figures, intervals, accepted,
        fingerprint and run_id.

    Raises:
        DamagedError: the metadata of every version is damaged.
    """
    newest_first = list(published)[::-1]
    aliases = papers.read_aliases(place)
    abouts = [_about(version) for version in newest_first]
    if not any(abouts):
        abouts = [version.about for version in newest_first]  # raises
    served = next(version for version, about in zip(newest_first, abouts, strict=True) if about)
    rows = []
    for version, about in zip(newest_first, abouts, strict=True):
        found = (papers.read_papers(place, version) if about else None) or {}
        rows.append(
            {
                "model_name": about.get("model_name"),
                "version": version.number,
                "served": version is served,
                "damaged": not about,
                "network": about.get("network"),
                "date": found.get("date"),
                "figures": found.get("figures"),
                "intervals": found.get("intervals"),
                "accepted": (found.get("verdict") or {}).get("accepted"),
                "fingerprint": found.get("fingerprint"),
                "run_id": found.get("run_id"),
                "aliases": sorted(alias for alias, number in aliases.items() if number == version.number),
                "tags": papers.read_tags(place, version.number),
            }
        )
    return rows


def _about(version: PublishedVersion) -> Mapping[str, Any]:
    """Returns the metadata of a version; nothing if it is damaged, since the other versions are wanted all the same."""
    try:
        return version.about
    except DamagedError:
        return {}


def _printable(line: str) -> str:
    """Returns a line of a card without what a terminal takes for a command; whoever can write to the bucket wrote it."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def _find(place: str, published: Iterable[PublishedVersion], name: str) -> PublishedVersion:
    by_number = {version.number: version for version in published}
    return by_number[papers.find_number(place, list(by_number.values()), name)]


def _lines(place: str, rows: list[dict[str, Any]]) -> list[str]:
    cells = [
        (
            str(row["version"]),
            (row["date"] or "-").partition("T")[0],
            _figure(row),
            ", ".join(row["aliases"]) or "-",
            ", ".join(row["tags"]) or "-",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (COLUMNS, *cells)]
    served = next(row for row in rows if row["served"])
    head = f"{served['model_name']} in {place}; servers answer with version {served['version']}"
    return [head, *("  ".join(line).rstrip() for line in padded)]


def _figure(row: dict[str, Any]) -> str:
    """Returns the most important figure of a version, with its interval, or that it is damaged."""
    if row["damaged"]:
        return "damaged"
    if not row["figures"]:
        return "-"
    name, value = next(iter(row["figures"].items()))
    bounds = (row["intervals"] or {}).get(name)
    interval = f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
    return f"{name} {value:.4f}{interval}"
