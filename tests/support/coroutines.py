"""Runs coroutines in tests that are not coroutines."""

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def result(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Returns the result of a coroutine, run in a new thread with its own loop: this thread may run that of a browser."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, coroutine).result()  # noqa: TID251
