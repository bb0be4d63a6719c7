"""Maps a function over items in threads, in order and with bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Input = TypeVar("Input")
Output = TypeVar("Output")


def ordered_map(
    function: Callable[[Input], Output],
    items: Iterable[Input],
    *,
    workers: int,
    limit: int,
    weight: Callable[[Input], int] = lambda item: 1,
) -> Iterator[Output]:
    """Maps a function over items in threads and yields the results in the items' order.

    Args:
        function: called in threads; its exception is raised when its result is due.
        items: consumed lazily, slightly ahead of the results.
        workers: how many threads.
        limit: the total weight of items in progress or not yet yielded; a single item may exceed it.
        weight: returns the weight of an item, such as the bytes of its result; 1 by default.

    Yields:
        Each result.

    Example:
        ```python
        for image in ordered_map(read, uris, workers=8, limit=64):
            show(image)
        ```
    """
    pending: deque[tuple[int, Future[Output]]] = deque()
    total = 0
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            total += weight(item)
            while pending and total > limit:
                done, future = pending.popleft()
                yield future.result()
                total -= done
            pending.append((weight(item), pool.submit(function, item)))
        while pending:
            yield pending.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
