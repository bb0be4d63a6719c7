"""Inception v1 in PyTorch, as fast as PyTorch computes it on a processor: `python torch_step.py JSON` prints pictures a second.

Run by the interpreter of an environment of its own (see `peers`). Its network is ours: batch norm after every convolution, no
biases, channels last, bfloat16 where asked. A step is a plain one of gradient descent: what ours does beside that, weight decay
and moving averages, it is spared.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional

WARM_UP = 3


class Unit(nn.Module):
    """A convolution that keeps the size or halves it, batch norm and a rectifier."""

    def __init__(self, taken: int, given: int, kernel: int, stride: int = 1):
        super().__init__()
        self.convolution = nn.Conv2d(taken, given, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(given, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.norm(self.convolution(x)), inplace=True)


class Block(nn.Module):
    """Four branches over the same input, side by side in the channels of the output."""

    def __init__(self, taken: int, widths: list[int]):
        super().__init__()
        one, reduce_3, three, reduce_5, five, pool = widths
        self.one = Unit(taken, one, 1)
        self.three = nn.Sequential(Unit(taken, reduce_3, 1), Unit(reduce_3, three, 3))
        self.five = nn.Sequential(Unit(taken, reduce_5, 1), Unit(reduce_5, five, 3))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), Unit(taken, pool, 1))
        self.width = one + three + five + pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), 1)


def network(stem: list[int], blocks: dict[str, list[int]], classes: int) -> nn.Module:
    """The widths of the stem's three convolutions, and of each block's six by its name: a digit for the size, and a letter."""
    first, second, width = stem
    halved = nn.MaxPool2d(3, 2, ceil_mode=True)
    parts = [Unit(3, first, 7, stride=2), halved, Unit(first, second, 1), Unit(second, width, 3), halved]
    size = "3"
    for name, widths in blocks.items():
        if name[0] != size:
            size = name[0]
            parts.append(nn.MaxPool2d(2) if size == "5" else halved)
        block = Block(width, widths)
        parts.append(block)
        width = block.width
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
    return nn.Sequential(*parts)


def main(
    *,
    train: bool,
    half: bool,
    batch: int,
    image_size: int,
    steps: int,
    stem: list[int],
    blocks: dict[str, list[int]],
    classes: int,
) -> None:
    """Trains, or infers, `steps` times on one batch, and prints pictures a second."""
    model = network(stem, blocks, classes).to(memory_format=torch.channels_last).train(train)
    pictures = torch.randn(batch, 3, image_size, image_size).to(memory_format=torch.channels_last)
    labels = torch.randint(classes, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0025)

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(pictures)
        if train:
            optimizer.zero_grad()
            functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()

    # Around all inferences too: autocast keeps the weights that it has cast until its end.
    with torch.inference_mode(not train), torch.autocast("cpu", torch.bfloat16, enabled=half and not train):
        for _ in range(WARM_UP):
            call()
        start = time.perf_counter()
        for _ in range(steps):
            call()
        print(batch * steps / (time.perf_counter() - start))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
