"""A map over threads that keeps the order, and only so much in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def mapped(
    function: Callable[[Given], Made],
    items: Iterable[Given],
    *,
    workers: int,
    limit: int,
    weight: Callable[[Given], int] = lambda item: 1,
) -> Iterator[Made]:
    """What a function makes of each item, in the items' order.

    Args:
        function: called in threads; what it raises is raised here, where its result is due.
        items: taken one by one, a little ahead of what is asked for.
        workers: calls at a time.
        limit: of the weights of all items that are being worked on or wait to be taken; one item alone may weigh more.
        weight: of an item: 1, or the memory that its result will need.
    """
    waiting: deque[tuple[int, Future[Made]]] = deque()
    heavy = 0
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            heavy += weight(item)
            while waiting and heavy > limit:
                lighter, made = waiting.popleft()
                yield made.result()
                heavy -= lighter
            waiting.append((weight(item), pool.submit(function, item)))
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)
