"""Bearer token authentication: the token that clients send and the server requires, from KFP_VISION_TOKEN."""

import os
import re

from kfp_vision.core.errors import InputError

TOKEN_VARIABLE = "KFP_VISION_TOKEN"
TOKEN_PATTERN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
BEARER_SCHEME = "Bearer"


def read_token() -> str:
    """Returns the token from the environment, without surrounding white space; empty if the variable is not set.

    Raises:
        InputError: The variable is empty or holds characters that a header cannot carry. The message does not show the token.
    """
    if TOKEN_VARIABLE not in os.environ:
        return ""
    found = os.environ[TOKEN_VARIABLE].strip()  # a file that a secret is mounted from usually ends with a newline
    if not TOKEN_PATTERN.fullmatch(found):
        rule = f"{TOKEN_VARIABLE} must consist of letters, digits and - . _ ~ + /, with = only at its end"
        kind = f"{len(found)} characters, with others among them" if found else "an empty value"
        raise InputError(rule, kind, "Make one with openssl rand -hex 32, or unset the variable.")
    return found


def authorization_header(value: str) -> str:
    """Returns the value of the `Authorization` header for a token.

    Args:
        value: The token.
    """
    return f"{BEARER_SCHEME} {value}"
