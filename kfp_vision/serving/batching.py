"""Batches of what waits: while one is computed, what arrives is gathered, and then goes together."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

MAX_BATCH = 32


class Batcher:
    """Computes what is handed in one by one in batches, in other threads than those who hand in.

    Nothing waits for others to come: where a thread is free, a batch of one begins at once. All but `compute` runs on the
    event loop of those who hand in.

    Args:
        compute: takes up to `limit` things in the order in which they came, and gives a result for each.
        limit: the most things in a batch.
        at_once: how many batches are computed at a time.
        threads: where they are computed; by default in threads of its own. Several that share a thread take turns.
    """

    def __init__(
        self,
        compute: Callable[[list[Any]], Sequence[Any]],
        *,
        limit: int = MAX_BATCH,
        at_once: int = 1,
        threads: ThreadPoolExecutor | None = None,
    ):
        self._compute, self._limit, self._free = compute, limit, at_once
        self._threads = threads or ThreadPoolExecutor(at_once, "batches")
        self._waiting: deque[tuple[Any, asyncio.Future]] = deque()

    async def result(self, thing: Any) -> Any:
        """What `compute` gives for a thing; what it raises, all things of the batch raise."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((thing, future))
        self._begin()
        return await future

    def _begin(self) -> None:
        while self._free and self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
            self._free -= 1
            loop = asyncio.get_running_loop()
            computing = loop.run_in_executor(self._threads, self._compute, [thing for thing, _ in batch])
            computing.add_done_callback(partial(self._end, [future for _, future in batch]))

    def _end(self, futures: list[asyncio.Future], computed: asyncio.Future) -> None:
        self._free += 1
        self._begin()  # the next batch before the answers to this one, so that the processor does not wait
        error = computed.exception()
        for number, future in enumerate(futures):
            if future.cancelled():
                continue
            if error:
                future.set_exception(error)
            else:
                future.set_result(computed.result()[number])
