"""What a server collects, and for how long: the options of `kfp-vision serve`, or the environment of a pod."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from kfp_vision.core.errors import FieldError
from kfp_vision.storage import base, uris, writing

VARIABLE, OPTION = "KFP_VISION_COLLECT", "--collect"  # the others are these with _SHARE or -share, and so on
NOWHERE = "none"  # as the folder: nothing is collected, as without one
DEFAULT_SHARE, DEFAULT_DAYS, DEFAULT_MAX_MB = 0.1, 30.0, 1000.0
FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}  # of KFP_VISION_COLLECT_IMAGES


@dataclass(frozen=True)
class CollectSettings:
    """What a server collects.

    Attributes:
        uri: folder or bucket folder to collect in.
        share: of the answers that are kept, above 0 and at most 1.
        images: whether the images are kept as well.
        days: after which a day is deleted.
        max_mb: megabytes that all files together may have; the oldest are deleted first.
    """

    uri: str
    share: float = DEFAULT_SHARE
    images: bool = False
    days: int = int(DEFAULT_DAYS)
    max_mb: float = DEFAULT_MAX_MB

    def describe(self) -> str:
        """Returns what is collected in words, for the log of the server."""
        kept = "answers with their images" if self.images else "answers"
        return (
            f"{self.share:.1%} of the {kept} in {base.redact_uri(self.uri)}, for {self.days} days, at most {self.max_mb:g} MB"
        )


def read_settings(
    uri: str | None = None,
    share: float | None = None,
    images: bool | None = None,
    days: float | None = None,
    max_mb: float | None = None,
    environment: Mapping[str, str] = os.environ,
) -> CollectSettings | None:
    """Reads what to collect; what is None comes from `KFP_VISION_COLLECT`, `KFP_VISION_COLLECT_SHARE` and so on.

    Args:
        uri: folder or bucket folder to collect in; empty or `none` for none.
        share: of the answers to keep.
        images: whether to keep the images as well.
        days: after which a day is deleted.
        max_mb: megabytes that all files together may have.
        environment: that variables are read from.

    Returns:
        The settings; None if nothing is collected, as by default.

    Raises:
        FieldError: a value is wrong, or given without a folder to collect in.

    Example:
        read_settings("s3://bucket/collected", share=0.05, images=True, days=14)
    """
    place = environment.get(VARIABLE, "") if uri is None else uri
    if uri is None and not place:
        _check_none_given(share=share, images=images, days=days, max_mb=max_mb)
    if place in ("", NOWHERE):
        return None
    settings = CollectSettings(
        uris.absolute_uri(place),
        _number("share", share, environment, DEFAULT_SHARE, above=0, most=1),
        _flag(environment) if images is None else images,
        int(_number("days", days, environment, DEFAULT_DAYS, above=0, most=3650, whole=True)),
        _number("max_mb", max_mb, environment, DEFAULT_MAX_MB, above=0, most=math.inf),
    )
    writing.check_writable(settings.uri, VARIABLE if uri is None else OPTION)
    return settings


def _check_none_given(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None:
            option = f"{OPTION}-{name.replace('_', '-')}"
            remedy = f"Say where to collect, or leave {option} out."
            raise FieldError(f"{option} must come with {OPTION}", f"no {OPTION}", remedy)


def _number(
    name: str,
    given: float | None,
    environment: Mapping[str, str],
    default: float,
    *,
    above: float,
    most: float,
    whole: bool = False,
) -> float:
    variable = f"{VARIABLE}_{name.upper()}"
    source = variable if given is None else f"{OPTION}-{name.replace('_', '-')}"
    text = environment.get(variable, "") if given is None else given
    try:
        value = float(text) if text != "" else default
    except ValueError:
        value = math.nan
    if not above < value <= most or not math.isfinite(value) or (whole and not value.is_integer()):
        kind = "a whole number" if whole else "a number"
        limits = f"above {above:g}" + (f" and at most {most:g}" if math.isfinite(most) else "")
        raise FieldError(f"{source} must be {kind} {limits}", text, f"Set it to {default:g}, say.")
    return value


def _flag(environment: Mapping[str, str]) -> bool:
    variable = f"{VARIABLE}_IMAGES"
    text = environment.get(variable, "")
    if text.strip().lower() not in FLAGS:
        raise FieldError(f"{variable} must be true or false", text, "Set it to true to keep the images.")
    return FLAGS[text.strip().lower()]
