"""What waits is computed together, and everybody gets the result of what was handed in."""

import asyncio
import threading

import pytest
from support import coroutines

from kfp_vision.serving.batching import DynamicBatcher

SECONDS = 300


class Doubling:
    """Doubles numbers, and refuses 13; the first batch goes on when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = threading.Event()

    def __call__(self, batch: list[int]) -> list[int]:
        self.batches.append(batch)
        assert self.go_on.wait(SECONDS)
        if 13 in batch:
            raise ArithmeticError("13")
        return [2 * number for number in batch]


@pytest.fixture
def doubling() -> Doubling:
    return Doubling()


async def handed_in(batcher: DynamicBatcher, *numbers: int) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(batcher.submit(number)) for number in numbers]
    await asyncio.sleep(0)  # each has begun to wait
    return tasks


def test_what_arrives_while_a_batch_is_computed_goes_together(doubling):
    async def run() -> list[int]:
        batcher = DynamicBatcher(doubling, limit=4)
        tasks = await handed_in(batcher, *range(8))
        doubling.go_on.set()
        return await asyncio.gather(*tasks)

    assert coroutines.result(run()) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert doubling.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_as_many_batches_are_computed_at_once_as_was_said(doubling):
    async def run() -> list[int]:
        batcher = DynamicBatcher(doubling, concurrency=2)
        tasks = await handed_in(batcher, *range(4))
        doubling.go_on.set()
        return await asyncio.gather(*tasks)

    assert coroutines.result(run()) == [0, 2, 4, 6]
    assert sorted(doubling.batches) == [[0], [1], [2, 3]]


def test_a_batch_that_fails_is_the_only_one_that_does(doubling):
    async def run() -> list[int | BaseException]:
        batcher = DynamicBatcher(doubling, limit=2)
        tasks = await handed_in(batcher, 0, 13, 1, 2)
        doubling.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, failed, too, last = coroutines.result(run())
    assert (first, last) == (0, 4)
    assert isinstance(failed, ArithmeticError) and isinstance(too, ArithmeticError)


def test_who_has_gone_harms_nobody(doubling):
    async def run() -> list[int]:
        batcher = DynamicBatcher(doubling)
        first, gone, last = await handed_in(batcher, 1, 2, 3)
        gone.cancel()
        doubling.go_on.set()
        return [await first, await last]

    assert coroutines.result(run()) == [2, 6]
