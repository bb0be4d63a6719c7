"""Dynamic batching: waiting requests are computed together, and each gets its own result."""

import asyncio
import threading

import pytest
from support import coroutines

from kfp_vision.serving.batching import DynamicBatcher

SECONDS = 300


class Doubling:
    """Doubles numbers and fails on 13; no batch is computed before `go_on` is set."""

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


async def submit(batcher: DynamicBatcher, *numbers: int) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(batcher.submit(number)) for number in numbers]
    await asyncio.sleep(0)  # lets each task start waiting
    return tasks


def test_requests_that_arrive_during_a_batch_form_the_next_batch(doubling):
    async def run() -> list[int]:
        batcher = DynamicBatcher(doubling, limit=4)
        tasks = await submit(batcher, *range(8))
        doubling.go_on.set()
        return await asyncio.gather(*tasks)

    assert coroutines.result(run()) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert doubling.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_computes_at_most_the_given_number_of_batches_concurrently(doubling):
    async def run() -> list[int]:
        batcher = DynamicBatcher(doubling, concurrency=2)
        tasks = await submit(batcher, *range(4))
        doubling.go_on.set()
        return await asyncio.gather(*tasks)

    assert coroutines.result(run()) == [0, 2, 4, 6]
    assert sorted(doubling.batches) == [[0], [1], [2, 3]]


def test_a_failed_batch_does_not_affect_other_batches(doubling):
    async def run() -> list[int | BaseException]:
        batcher = DynamicBatcher(doubling, limit=2)
        tasks = await submit(batcher, 0, 13, 1, 2)
        doubling.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, failed, also_failed, last = coroutines.result(run())
    assert (first, last) == (0, 4)
    assert isinstance(failed, ArithmeticError) and isinstance(also_failed, ArithmeticError)


def test_a_cancelled_request_does_not_affect_the_others(doubling):
    async def run() -> list[int]:
        batcher = DynamicBatcher(doubling)
        first, cancelled, last = await submit(batcher, 1, 2, 3)
        cancelled.cancel()
        doubling.go_on.set()
        return [await first, await last]

    assert coroutines.result(run()) == [2, 6]
