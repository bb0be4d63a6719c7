"""The one error a person is meant to read, and texts without what nobody is: a signature in the query of a web address."""

import re
from typing import Self

ADDRESS = re.compile(r"https?://[^\s#]*", re.IGNORECASE)  # what follows a `#` names a member of an archive
USER = re.compile(r"(?<=://)[^/?]*@")
AFTER = "'\")]}>,.;:"  # what follows an address in a sentence, a list or a traceback
PATH = re.compile(r"(with url: [^\s?]*\?)\S+")  # as urllib3 writes an address that it could not reach
# What S3, Cloud Storage, COS, Azure and others sign addresses with, wherever else it stands.
SIGNED = re.compile(
    r"([?&](?:(?:x-amz|x-goog|x-cos|q)-[\w-]+|signature|sig|awsaccesskeyid|googleaccessid|(?:\w+_)?token|password)=)[^\s&#'\"]+",
    re.IGNORECASE,
)


class InputError(SystemExit):
    """Something given from outside breaks a rule: one line with the rule, the value and the remedy.

    It derives from SystemExit, so that a stage which lets it pass ends with that line and exit code 1, without a traceback,
    in a pod, in a container and as a plain process alike.
    """

    PREFIX = "error: "

    def __init__(self, rule: str, value: object, remedy: str):
        super().__init__(without_secrets(f"{self.PREFIX}{rule}; got {shown(value)}. {remedy}"))

    def __reduce__(self) -> tuple:  # on its way from one process to another
        return type(self).from_line, (str(self),)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """The error that another process ended with, from the line it printed."""
        error = cls.__new__(cls)
        SystemExit.__init__(error, without_secrets(line))
        return error


def shown(value: object, limit: int = 600) -> str:
    """The value as a person reads it, on one line, not endless and `without_secrets`."""
    text = value if isinstance(value, str) else repr(value)
    text = without_secrets(" ".join(text.split())) or '""'
    return text if len(text) <= limit else f"{text[:limit]}..."


def without_secrets(text: str) -> str:
    """The text with `?...` for the query of each web address, which may hold a signature, and without user and password.

    The settings of a bucket's address, `s3://bucket/folder?endpoint=...`, are none, and stay.
    """
    text = ADDRESS.sub(lambda found: _shown_address(found[0]), text)
    return SIGNED.sub(r"\1...", PATH.sub(r"\1...", text))


def _shown_address(address: str) -> str:
    open_part, mark, query = USER.sub("", address).partition("?")
    hidden = query.rstrip(AFTER)
    return f"{open_part}?...{query[len(hidden) :]}" if hidden else f"{open_part}{mark}{query}"
