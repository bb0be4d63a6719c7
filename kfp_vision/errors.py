"""The one error a person is meant to read."""

from typing import Self


class InputError(SystemExit):
    """Something given from outside breaks a rule: one line with the rule, the value and the remedy.

    It derives from SystemExit, so that a stage which lets it pass ends with that line and exit code 1, without a traceback,
    in a pod, in a container and as a plain process alike.
    """

    PREFIX = "error: "

    def __init__(self, rule: str, value: object, remedy: str):
        super().__init__(f"{self.PREFIX}{rule}; got {shown(value)}. {remedy}")

    def __reduce__(self) -> tuple:  # on its way from one process to another
        return type(self).from_line, (str(self),)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """The error that another process ended with, from the line it printed."""
        error = cls.__new__(cls)
        SystemExit.__init__(error, line)
        return error


def shown(value: object, limit: int = 600) -> str:
    """The value as a person reads it, on one line and not endless."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split()) or '""'
    return text if len(text) <= limit else f"{text[:limit]}..."
