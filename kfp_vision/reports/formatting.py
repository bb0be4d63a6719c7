"""Formats numbers for pages and log lines."""

import math

NOT_A_NUMBER = "not a number"
PLAIN_FROM, PLAIN_BELOW = 1e3, 1e7  # in between, numbers are written without an exponent, which `.4g` has from 10,000 on


def count(number: float) -> str:
    """Formats a count with thousands separators, such as `1,234`.

    Args:
        number: the count; rounded to an integer.

    Returns:
        The text, or `not a number` if it is not finite.
    """
    return f"{number:,.0f}" if math.isfinite(number) else NOT_A_NUMBER


def decimal(number: float) -> str:
    """Formats a number with three decimals, such as `0.977`.

    Args:
        number: any float.

    Returns:
        The text, or `not a number` if it is not finite.
    """
    return f"{number:.3f}" if math.isfinite(number) else NOT_A_NUMBER


def short(number: float) -> str:
    """Formats a number of any size with about four digits, such as `0.0042`, `30,020` or `1e+09`.

    Args:
        number: any float.
    """
    return f"{number:,.0f}" if PLAIN_FROM <= abs(number) < PLAIN_BELOW else f"{number:.4g}"


def megabytes(size: int) -> str:
    """Formats a size, such as `123.5 MB`.

    Args:
        size: in bytes.

    Returns:
        The text; below 0.1 MB, it says so.
    """
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else "less than 0.1 MB"


def duration(seconds: float) -> str:
    """Formats a duration, such as `1 h 4 min`, `12 min` or `40 s`.

    Args:
        seconds: the duration.

    Returns:
        The text, in seconds below a minute.
    """
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def percent(share: float, digits: int = 1) -> str:
    """Formats a share in percent, such as `91.4 %`.

    Args:
        share: 0 to 1.
        digits: number of decimals.

    Returns:
        The text, or `not a number` if the share is not finite.
    """
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else NOT_A_NUMBER


def plural(number: int, one: str, many: str) -> str:
    """Formats a count with its noun, such as `1 image` or `1,200 images`.

    Args:
        number: the count.
        one: the noun in the singular.
        many: the noun in the plural.

    Returns:
        The count, with thousands separators, and the noun.
    """
    return f"{number:,} {one if number == 1 else many}"


def ratio(part: float, whole: float) -> float:
    """Divides two numbers.

    Args:
        part: the numerator.
        whole: the denominator.

    Returns:
        The quotient, or 0.0 if `whole` is 0.
    """
    return part / whole if whole else 0.0
