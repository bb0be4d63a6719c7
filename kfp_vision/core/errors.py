"""Errors for users: one line with the rule, the value and the remedy, and never a secret.

SystemExit
└── InputError                a rule is broken
    ├── FieldError            a field or a setting has a wrong value
    ├── NotFoundError         the file, object or bucket does not exist
    ├── AccessError           permission or valid credentials are missing
    ├── UnreachableError      the server does not answer, or not in time
    └── DamagedError          the data is truncated, altered or corrupt
"""

import re
from typing import Any, Self

WEB_ADDRESS = re.compile(r"https?://[^\s#]*", re.IGNORECASE)  # a `#` begins the name of an archive member
USER_INFO = re.compile(r"(?<=://)[^/?]*@")
TRAILING_PUNCTUATION = "'\")]}>,.;:"  # punctuation after an address in a sentence, a list or a traceback
URLLIB3_PATH = re.compile(r"(with url: [^\s?]*\?)\S+")  # how urllib3 prints the address of a failed request
# Signing parameters of S3, Cloud Storage, COS, Azure and others, wherever they appear.
SIGNING_PARAMETERS = re.compile(
    r"([?&](?:(?:x-amz|x-goog|x-cos|q)-[\w-]+|signature|sig|awsaccesskeyid|googleaccessid|(?:\w+_)?token|password)=)[^\s&#'\"]+",
    re.IGNORECASE,
)


class InputError(SystemExit):
    """Reports that input breaks a rule, in one line: the rule, the value and the remedy.

    It derives from SystemExit, so that a stage that does not catch it ends with that line and exit code 1, without a
    traceback, whether in a pod, in a container or as a plain process.

    Args:
        rule: what must hold, as `X must be ...`.
        value: what was given instead; printed by `format_value`.
        remedy: what to do, as a sentence.

    Example:
        ```python
        raise FieldError("batch_size must be at least 1", 0, "Set it to 32.")
        # error: batch_size must be at least 1; got 0. Set it to 32.
        ```
    """

    PREFIX = "error: "

    def __init__(self, rule: str, value: object, remedy: str):
        super().__init__(redact(f"{self.PREFIX}{rule}; got {format_value(value)}. {remedy}"))

    def __reduce__(self) -> tuple[Any, ...]:  # pickled between processes
        return type(self).from_line, (str(self),)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Returns the error whose line another process printed.

        Args:
            line: the whole line, with its `PREFIX`.
        """
        error = cls.__new__(cls)
        SystemExit.__init__(error, redact(line))
        return error


class FieldError(InputError):
    """A field or a setting of the environment has a wrong value."""


class NotFoundError(InputError):
    """A file, an object or a bucket does not exist."""


class AccessError(InputError):
    """Permission is missing, or credentials are missing or invalid."""


class UnreachableError(InputError):
    """A server does not answer, or not in time."""


class DamagedError(InputError):
    """Data is truncated, altered or corrupt."""


def format_value(value: object, limit: int = 600) -> str:
    """Formats a value for a message: on one line, truncated, and `redact`.

    Args:
        value: any object; anything but a string is shown by its `repr`.
        limit: characters after which it is truncated.

    Returns:
        The text; `""` in quotes for an empty one.
    """
    text = value if isinstance(value, str) else repr(value)
    text = redact(" ".join(text.split())) or '""'
    return text if len(text) <= limit else f"{text[:limit]}..."


def redact(text: str) -> str:
    """Removes user names, passwords and queries from web addresses; a query may hold a signature.

    The settings in a bucket URI, `s3://bucket/folder?endpoint=...`, are not secret and are kept.

    Args:
        text: any text, such as a message or a log line.

    Returns:
        The text with `?...` in place of each query.
    """
    text = WEB_ADDRESS.sub(lambda found: _shown_address(found[0]), text)
    return SIGNING_PARAMETERS.sub(r"\1...", URLLIB3_PATH.sub(r"\1...", text))


def _shown_address(address: str) -> str:
    open_part, mark, query = USER_INFO.sub("", address).partition("?")
    hidden = query.rstrip(TRAILING_PUNCTUATION)
    return f"{open_part}?...{query[len(hidden) :]}" if hidden else f"{open_part}{mark}{query}"
