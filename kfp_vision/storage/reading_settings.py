"""Applies the fields of `advanced` that hold for everything a process reads."""

import math
from collections.abc import Mapping
from typing import Any

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.values import check_type
from kfp_vision.storage import archives, retry

NAME_ENCODING = "name_encoding"  # of advanced


def apply(advanced: Mapping[str, Any], *, at_most: float = math.inf) -> None:
    """Sets how long this process waits for stores, and in which encoding it reads the names in archives.

    Every stage that reads data calls it first: a member of an archive is named in the table of images as the first stage
    decoded its name, and the later ones must find it again.

    Args:
        advanced: the field of the form, of which only `store_wait_seconds` and `name_encoding` are read.
        at_most: seconds from now on to wait, for all stores together; `retry.CHECK_SECONDS` in a check.

    Raises:
        InputError: one of the two has a wrong value.
    """
    retry.wait_for_stores(advanced, at_most=at_most)
    apply_name_encoding(advanced)


def apply_name_encoding(advanced: Mapping[str, Any]) -> None:
    """Sets in which encoding this process reads the names in archives; see `apply`.

    Args:
        advanced: the field of the form, of which only `name_encoding` is read.

    Raises:
        InputError: it has a wrong value.
    """
    check_type("advanced", advanced, dict, '{"name_encoding": "gbk"}')
    given = {name: value for name, value in advanced.items() if name == NAME_ENCODING}
    archives.set_name_encoding(Advanced.parse(given).name_encoding)
