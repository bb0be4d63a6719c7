"""Dynamic batching: requests that arrive while a batch runs form the next one."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

MAX_BATCH_SIZE = 32


class DynamicBatcher:
    """Computes single items in batches, in threads beside the event loop.

    A free thread starts at once, with a batch of one if need be; it never waits for more items. Everything except `compute`
    runs on the event loop of the callers.

    Args:
        compute: takes up to `limit` items in order of arrival and returns one result for each.
        limit: maximum number of items in a batch.
        concurrency: maximum number of batches computed at a time.
        threads: the pool that computes; by default a new one. Batchers that share a thread take turns.

    Example:
        batcher = DynamicBatcher(lambda numbers: [2 * number for number in numbers])
        assert await batcher.submit(21) == 42
    """

    def __init__(
        self,
        compute: Callable[[list[Any]], Sequence[Any]],
        *,
        limit: int = MAX_BATCH_SIZE,
        concurrency: int = 1,
        threads: ThreadPoolExecutor | None = None,
    ):
        self._compute, self._limit, self._free = compute, limit, concurrency
        self._threads = threads or ThreadPoolExecutor(concurrency, "batches")
        self._waiting: deque[tuple[Any, asyncio.Future[Any]]] = deque()

    async def submit(self, item: Any) -> Any:
        """Queues an item and returns its result; an exception raised by `compute` reaches every item of the batch.

        Args:
            item: passed to `compute` in a list.

        Returns:
            The item's element of what `compute` returned.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._start_batches()
        return await future

    def _start_batches(self) -> None:
        while self._free and self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
            self._free -= 1
            loop = asyncio.get_running_loop()
            computed = loop.run_in_executor(self._threads, self._compute, [item for item, _ in batch])
            computed.add_done_callback(partial(self._finish_batch, [future for _, future in batch]))

    def _finish_batch(self, futures: list[asyncio.Future[Any]], computed: asyncio.Future[Sequence[Any]]) -> None:
        self._free += 1
        self._start_batches()  # before the results are handed out, so that the processor never idles
        error = computed.exception()
        for number, future in enumerate(futures):
            if future.cancelled():
                continue
            if error:
                future.set_exception(error)
            else:
                future.set_result(computed.result()[number])
