"""Measures Inception v1 in PyTorch at its fastest on a CPU: `python torch_step.py JSON` prints images per second.

Runs in its own environment (see `peers`). The network is the same as ours: batch norm after every convolution, no biases,
channels last, optionally bfloat16. A step is plain gradient descent, without the weight decay and the moving averages of
weights that our step includes.
"""

import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional

WARM_UP = 3


class Unit(nn.Module):
    """A convolution that keeps or halves the size, batch norm and a ReLU.

    Args:
        taken: number of input channels.
        given: number of output channels.
        kernel: kernel size.
        stride: 1 or 2.
    """

    def __init__(self, taken: int, given: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(taken, given, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(given, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the unit on activations, (batch, channels, height, width)."""
        return functional.relu(self.norm(self.convolution(x)), inplace=True)


class Block(nn.Module):
    """Inception block: four branches over the same input, concatenated along the channels.

    Args:
        taken: number of input channels.
        widths: output channels of the six convolutions.
    """

    def __init__(self, taken: int, widths: list[int]) -> None:
        super().__init__()
        one, reduce_3, three, reduce_5, five, pool = widths
        self.one = Unit(taken, one, 1)
        self.three = nn.Sequential(Unit(taken, reduce_3, 1), Unit(reduce_3, three, 3))
        self.five = nn.Sequential(Unit(taken, reduce_5, 1), Unit(reduce_5, five, 3))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), Unit(taken, pool, 1))
        self.width = one + three + five + pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the block on activations, (batch, channels, height, width)."""
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), 1)


def build_network(stem: list[int], blocks: dict[str, list[int]], classes: int) -> nn.Module:
    """Builds Inception v1.

    Args:
        stem: output channels of the stem's three convolutions.
        blocks: output channels of each block's six convolutions by name of the block, a digit for the stage and a letter.
        classes: number of classes.

    Returns:
        The network.
    """
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
    """Trains or infers on one batch and prints images per second.

    Args:
        train: whether to train instead of infer.
        half: whether to compute in bfloat16.
        batch: images per step.
        image_size: height and width in pixels.
        steps: number of measured steps.
        stem: output channels of the stem's three convolutions.
        blocks: output channels of each block's six convolutions by name of the block.
        classes: number of classes.
    """
    model = build_network(stem, blocks, classes).to(memory_format=torch.channels_last).train(train)
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

    # Also around all inferences, because autocast caches cast weights until it ends.
    with torch.inference_mode(not train), torch.autocast("cpu", torch.bfloat16, enabled=half and not train):
        for _ in range(WARM_UP):
            call()
        start = time.perf_counter()
        for _ in range(steps):
            call()
        print(batch * steps / (time.perf_counter() - start))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
