"""Coroutines in tests that are none themselves."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def result(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine gives, on a loop of its own in a thread of its own: in this one a browser's may be running."""
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(asyncio.run, coroutine).result()
