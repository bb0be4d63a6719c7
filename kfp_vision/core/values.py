"""Checks of single values: type, range and choice."""

import codecs
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from kfp_vision.core.errors import InputError

NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
NOWHERE, KSERVE = "none", "kserve"  # values of deploy_to besides a model repository
ONE, SEVERAL = "one", "several"  # labels of an image: the values of the field labels


def normalize_numbers(value: Any) -> Any:
    """Converts floats without a fraction to integers, also within dictionaries and lists.

    Forms, command lines and JSON write the same number as 16 or as 16.0.

    Args:
        value: as read from JSON.
    """
    if isinstance(value, Mapping):
        return {name: normalize_numbers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [normalize_numbers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Sorts the names of classes as they are numbered: by value if all are numbers, else by name.

    Args:
        labels: the names.
    """
    listed = list(labels)
    if all(NUMBER.fullmatch(label) for label in listed):
        return sorted(listed, key=lambda label: (Decimal(label), label))
    return sorted(listed)


def check_type(name: str, value: Any, kind: type, example: str) -> None:
    """Checks the type of a form field.

    Args:
        name: the field.
        value: what was given.
        kind: `dict`, `list`, `bool` or `str`.
        example: a right value in JSON, for the message.

    Raises:
        InputError: the value has another type.
    """
    if not isinstance(value, kind):
        shapes = {dict: "a dictionary", list: "a list", bool: "true or false", str: "text"}
        raise InputError(f"{name} must be {shapes[kind]}", value, f"Write it as JSON, such as {example}.")


def has_type_of(value: Any, default: Any) -> bool:
    """Returns whether a value can replace a default: whole numbers may be floats, as JSON and KFP pass them.

    Args:
        value: what was given.
        default: a string, a dictionary, an integer or a float.
    """
    if isinstance(default, str | dict):
        return isinstance(value, type(default))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return isinstance(default, float) or float(value).is_integer()


def is_text_codec(name: str) -> bool:
    """Returns whether Python knows an encoding of text by a name, and it extends ASCII, as those of file names do.

    Args:
        name: such as `gbk`.
    """
    try:
        return "a/1".encode(codecs.lookup(name).name) == b"a/1"
    except (LookupError, ValueError):  # UnicodeError is a ValueError; so is a zero in the name
        return False


def check_choices(form: Mapping[str, Any], choices_of: Mapping[str, tuple[str, ...]]) -> None:
    """Refuses a field whose value is not one of its choices.

    Args:
        form: name to value.
        choices_of: field to its choices.

    Raises:
        InputError: for the first such field.
    """
    for name, choices in choices_of.items():
        if form[name] not in choices:
            raise InputError(f"{name} must be one of {', '.join(choices)}", form[name], f"Choose one, say {choices[0]}.")


def check_set(name: str, value: Any, remedy: str) -> None:
    """Refuses an empty text.

    Args:
        name: the field.
        value: its value.
        remedy: what to do if it is empty.

    Raises:
        InputError: it is no text, or empty.
    """
    check_type(name, value, str, '"somewhere"')
    if not value:
        raise InputError(f"{name} must be set", value, remedy)


def check_number(name: str, value: Any, lowest: float, below: float, rule: str, usual: str, *, whole: bool = False) -> None:
    """Refuses a value that is not a number in a range.

    Args:
        name: the field.
        value: its value.
        lowest: smallest allowed value.
        below: exclusive upper bound.
        rule: the range in words, as in "must be RULE".
        usual: an example for the remedy.
        whole: accept whole numbers only.

    Raises:
        InputError: it is no number, or out of range.
    """
    if not (has_type_of(value, 0 if whole else 0.0) and lowest <= value < below):
        raise InputError(f"{name} must be {rule}", value, f"Set it to {usual}, say.")


RATIO_RULE = (0, 1, "at least 0 and below 1", "0.2")  # lowest value, upper bound, the rule in words, an example
MAX_NEAREST = 1000
MIN_DRIFT_ANSWERS = 50  # collected answers that a check for drift needs for a verdict


def suggest_name(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Returns the remedy for an unknown name: the known name that is closest to it.

    Args:
        name: what was given.
        known: the names that exist.
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {close[0]}?" if close else "Take one of these, or leave it out."


def check_model_name(name: str, field: str) -> None:
    """Checks that a model name can be part of a URL.

    Args:
        name: the name of the model.
        field: the form field or option that gave it, for the message.

    Raises:
        InputError: the name is empty, or has other characters than letters, digits, - and _.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"{field} must be letters, digits, - and _", name, "Choose a name such as flowers.")
