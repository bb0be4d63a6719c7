"""JSON as the standard has it, of any content and from anywhere: Python's own is neither."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp_vision.core.errors import DamagedError


def parse(text: str | bytes) -> Any:
    """Parses JSON, also with the NaN and Infinity that Python's `json` writes.

    Args:
        text: of a file or an answer; a damaged one may hold anything.

    Returns:
        The content.

    Raises:
        ValueError: it is no JSON, or lists or objects are in each other more deeply than Python can read.

    Example:
        parse("[" * 100_000)  # ValueError, where json.loads raises RecursionError
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_object(file: Path) -> dict[str, Any]:
    """Reads a file that holds an object.

    Args:
        file: of JSON in UTF-8.

    Returns:
        The object.

    Raises:
        DamagedError: it holds something else, or cannot be read.
    """
    try:
        found = parse(file.read_bytes())
    except (OSError, ValueError) as error:
        found, reason = None, getattr(error, "strerror", None) or error
    else:
        reason = f"it holds {type(found).__name__}"
    if not isinstance(found, dict):
        raise DamagedError(
            "the file must hold an object of JSON", f"{file} ({reason})", "Let the stage that writes it run again."
        )
    return found


def write(content: Any, *, indent: int | None = None) -> str:
    """Writes JSON that every program can read: a number that is not finite becomes null, as there is no JSON for it.

    Args:
        content: dictionaries, lists, texts and numbers.
        indent: of each level; None for one line.

    Returns:
        The text, with letters of any script as they are.
    """
    try:
        return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:  # rare, and looking at each number takes longer than writing it
        return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    return [_finite(value) for value in content] if isinstance(content, list | tuple) else content
