"""Who may ask a server: whoever knows the token in the environment of both, KFP_VISION_TOKEN."""

import os
import re

from kfp_vision.errors import InputError

VARIABLE = "KFP_VISION_TOKEN"
FITS_A_HEADER = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
SCHEME = "Bearer"


def token() -> str:
    """The token in the environment, without white space around it; empty where the variable is not set.

    Raises:
        InputError: it is set to nothing, or to what cannot be sent. The token is not part of the message.
    """
    if VARIABLE not in os.environ:
        return ""
    found = os.environ[VARIABLE].strip()  # a file that a secret is made of mostly ends with a new line
    if not FITS_A_HEADER.fullmatch(found):
        rule = f"{VARIABLE} must be of letters, digits and - . _ ~ + /, with = at most at its end"
        kind = f"one of {len(found)} characters, with others" if found else "an empty one"
        raise InputError(rule, kind, "Make one with openssl rand -hex 32, or do not set it.")
    return found


def header(token: str) -> str:
    """The value of `Authorization` that shows a token."""
    return f"{SCHEME} {token}"
