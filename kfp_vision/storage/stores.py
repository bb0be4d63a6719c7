"""Chooses the store that serves a URI."""

import logging
import os
from collections.abc import Callable
from functools import cache
from urllib.parse import urlsplit

from kfp_vision.core.errors import FieldError
from kfp_vision.storage import base

# urllib3 logs every retry with the address, which may contain a signature.
logging.getLogger("urllib3").setLevel(logging.ERROR)


def store(uri: str) -> base.Store:
    """Returns the store of a URI.

    Args:
        uri: with one of `SCHEMES`.

    Raises:
        FieldError: the scheme is another one, or a setting of the store is missing or wrong.
        AccessError: the credentials are invalid.

    Example:
        ```python
        for found in store("s3://bucket/photos").below("s3://bucket/photos"):
            print(found.name, found.size)
        ```
    """
    scheme = urlsplit(uri).scheme
    if scheme in base.S3_SCHEMES:
        from kfp_vision.storage import s3

        return s3.store(uri)
    if scheme == "gs":
        from kfp_vision.storage import gcs

        return gcs.store()
    if scheme in ("http", "https"):
        from kfp_vision.storage import http

        return _web_store(http.Web)
    raise FieldError(
        f"an address must begin with one of {', '.join(f'{known}://' for known in base.SCHEMES)}", uri, "Check it."
    )


@cache
def _web_store(kind: Callable[[], base.Store]) -> base.Store:
    return kind()


os.register_at_fork(after_in_child=_web_store.cache_clear)  # processes must not share connections
