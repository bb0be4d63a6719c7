"""Numbers as a person reads them on a page."""

import math

NOT_A_NUMBER = "not a number"


def count(number: float) -> str:
    return f"{number:,.0f}" if math.isfinite(number) else NOT_A_NUMBER


def decimal(number: float) -> str:
    return f"{number:.3f}" if math.isfinite(number) else NOT_A_NUMBER


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else "less than 0.1 MB"


def duration(seconds: float) -> str:
    """Such as `1 h 4 min`, `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def percent(share: float, digits: int = 1) -> str:
    """Such as `91.4 %`."""
    return f"{100 * share:.{digits}f} %" if math.isfinite(share) else NOT_A_NUMBER


def plural(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
