"""Reads exclusion lists, which name images to leave out.

An exclusion list is CSV with a header. Column `path` holds the URI of an image or its path below the root of the data. If there
is a column `leave_out`, only lines with yes are applied. Other columns are ignored.
"""

from functools import partial

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import import_csv, import_files
from kfp_vision.storage import uris
from kfp_vision.storage.base import redact_uri

LEAVE_OUT_VALUES = dict.fromkeys(("yes", "true", "1", "x"), True) | dict.fromkeys(
    ("no", "false", "0", ""), False
)  # values of leave_out
EXCLUSIONS_FORMAT = "Write path,leave_out in the first line and lines such as daisy/1.jpg,yes below it, in UTF-8."


def read_exclusions(uri: str) -> list[str]:
    """Reads an exclusion list.

    Args:
        uri: of the CSV file.

    Returns:
        The URIs of the excluded images, or their paths below the root of the data; in the order of the list, without
        duplicates.

    Raises:
        InputError: the file cannot be read, has no column `path`, or has an invalid line, which the message names.
    """
    uri = uris.absolute_uri(uri)
    line_error = partial(_broken_list, uri)
    try:
        text = import_files.decode_text(uri, line_error)
    except OSError as reason:
        rule = "leave_out_uri must be a readable file"
        raise InputError(rule, f"{redact_uri(uri)} ({reason.strerror})", "Give a CSV with a column path.") from None
    try:
        lines = iter(list(import_csv.read_rows(text, _delimiter(text))))
    except import_csv.BrokenCsv as fault:
        raise line_error(fault.line, str(fault)) from None
    _, first = next(lines, (1, []))
    header = [cell.lower() for cell in first]
    if "path" not in header:
        rule = "leave_out_uri must have a column path"
        raise InputError(rule, f"{', '.join(first) or 'nothing'} in {redact_uri(uri)}, line 1", EXCLUSIONS_FORMAT)
    excluded: dict[str, None] = {}
    for line, cells in lines:
        if len(cells) != len(header):
            raise line_error(line, f"{len(cells)} fields under a header of {len(header)}")
        fields = dict(zip(header, cells, strict=True))
        is_excluded = LEAVE_OUT_VALUES.get(fields.get("leave_out", "yes").lower())
        if is_excluded is None:
            rule = "column leave_out of leave_out_uri must be yes or no"
            found = f"{fields['leave_out']} in {redact_uri(uri)}, line {line}"
            raise InputError(rule, found, "Write yes to exclude the image, no or nothing to keep it.")
        if is_excluded and not fields["path"]:
            raise line_error(line, "no path")
        if is_excluded:
            excluded[fields["path"]] = None
    return list(excluded)


def _broken_list(uri: str, line: int, found: str) -> InputError:
    rule = "every line of leave_out_uri must name an image"
    return InputError(rule, f"{found} in {redact_uri(uri)}, line {line}", EXCLUSIONS_FORMAT)


def _delimiter(text: str) -> str:
    """Returns the delimiter of the header; a path may contain others."""
    return import_csv.find_delimiter(text.lstrip().partition("\n")[0])
