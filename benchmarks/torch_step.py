"""Measures a network in PyTorch at its fastest: `python torch_step.py JSON` prints images per second.

Runs in its own environment (see `peers`). The networks are the same as ours: Inception v1 and EfficientNet-Lite with batch norm
after every convolution and no biases, GoogLeNet with biases and local response norm. Channels last, optionally bfloat16. A step
is plain gradient descent, without the weight decay and the moving averages of weights that our step includes.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

WARM_UP = 3


class Unit(nn.Module):
    """A convolution that keeps or halves the size, batch norm or else a bias, and a ReLU.

    Args:
        taken: number of input channels.
        given: number of output channels.
        kernel: kernel size.
        stride: 1 or 2.
        normalized: whether there is batch norm.
    """

    def __init__(self, taken: int, given: int, kernel: int, stride: int = 1, *, normalized: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(taken, given, kernel, stride, padding=kernel // 2, bias=not normalized)
        self.norm = nn.BatchNorm2d(given, eps=0.001) if normalized else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the unit on activations, (batch, channels, height, width)."""
        return functional.relu(self.norm(self.convolution(x)), inplace=True)


class Block(nn.Module):
    """Inception block: four branches over the same input, concatenated along the channels.

    Args:
        taken: number of input channels.
        widths: output channels of the six convolutions.
        unit: makes a convolution.
        wide: kernel size of the second wide branch: 3 as in TF-Slim, 5 as in the paper.
    """

    def __init__(self, taken: int, widths: list[int], unit: Callable[..., nn.Module], wide: int) -> None:
        super().__init__()
        one, reduce_3, three, reduce_5, five, pool = widths
        self.one = unit(taken, one, 1)
        self.three = nn.Sequential(unit(taken, reduce_3, 1), unit(reduce_3, three, 3))
        self.five = nn.Sequential(unit(taken, reduce_5, 1), unit(reduce_5, five, wide))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), unit(taken, pool, 1))
        self.width = one + three + five + pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the block on activations, (batch, channels, height, width)."""
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), 1)


class InvertedResidual(nn.Module):
    """Block of EfficientNet-Lite: a wide depthwise convolution between two pointwise ones, and a shortcut where sizes allow.

    Args:
        taken: number of input channels.
        given: number of output channels.
        kernel: kernel size of the depthwise convolution.
        stride: 1 or 2.
        expansion: factor of the input channels in between.
    """

    def __init__(self, taken: int, given: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = expansion * taken
        parts = [*_norm_relu6(nn.Conv2d(taken, width, 1, bias=False))] if expansion > 1 else []
        parts += _norm_relu6(nn.Conv2d(width, width, kernel, stride, kernel // 2, groups=width, bias=False))
        self.parts = nn.Sequential(*parts, nn.Conv2d(width, given, 1, bias=False), nn.BatchNorm2d(given, eps=0.001))
        self.is_residual = stride == 1 and taken == given

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the block on activations, (batch, channels, height, width)."""
        return x + self.parts(x) if self.is_residual else self.parts(x)


def _norm_relu6(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels, eps=0.001), nn.ReLU6(inplace=True)]


def build_efficientnet_lite(stem: int, stages: list[list[int]], head: int, classes: int) -> nn.Module:
    """Builds an EfficientNet-Lite.

    Args:
        stem: output channels of the first convolution.
        stages: of each stage the number of blocks, kernel, stride of the first block, expansion and width.
        head: output channels of the last convolution.
        classes: number of classes.

    Returns:
        The network.
    """
    parts = _norm_relu6(nn.Conv2d(3, stem, 3, 2, 1, bias=False))
    width = stem
    for repeats, kernel, first_stride, expansion, channels in stages:
        for repeat in range(repeats):
            parts.append(InvertedResidual(width, channels, kernel, 1 if repeat else first_stride, expansion))
            width = channels
    parts += _norm_relu6(nn.Conv2d(width, head, 1, bias=False))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(head, classes))


def build_inception_v1(stem: list[int], blocks: dict[str, list[int]], classes: int) -> nn.Module:
    """Builds Inception v1 as in TF-Slim.

    Args:
        stem: output channels of the stem's three convolutions.
        blocks: output channels of each block's six convolutions by name of the block, a digit for the stage and a letter.
        classes: number of classes.

    Returns:
        The network.
    """
    return _build_inception(stem, blocks, classes, Unit, 3, nn.Identity)


def build_googlenet(stem: list[int], blocks: dict[str, list[int]], classes: int) -> nn.Module:
    """Builds GoogLeNet as in Caffe, without the auxiliary classifiers.

    Args:
        stem: as for `build_inception_v1`.
        blocks: as for `build_inception_v1`.
        classes: number of classes.

    Returns:
        The network.
    """
    normalization = partial(nn.LocalResponseNorm, 5)
    return _build_inception(stem, blocks, classes, partial(Unit, normalized=False), 5, normalization)


def _build_inception(
    stem: list[int],
    blocks: dict[str, list[int]],
    classes: int,
    unit: Callable[..., nn.Module],
    wide: int,
    normalization: Callable[[], nn.Module],
) -> nn.Module:
    first, second, width = stem
    halved = nn.MaxPool2d(3, 2, ceil_mode=True)
    parts = [unit(3, first, 7, stride=2), halved, normalization(), unit(first, second, 1), unit(second, width, 3)]
    parts += [normalization(), halved]
    size = "3"
    for name, widths in blocks.items():
        if name[0] != size:
            size = name[0]
            parts.append(nn.MaxPool2d(2) if size == "5" and wide == 3 else halved)
        block = Block(width, widths, unit, wide)
        parts.append(block)
        width = block.width
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
    return nn.Sequential(*parts)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "inception_v1": build_inception_v1,
    "googlenet": build_googlenet,
    "efficientnet_lite0": build_efficientnet_lite,
}


def main(
    *,
    train: bool,
    half: bool,
    batch: int,
    image_size: int,
    steps: int,
    classes: int,
    network: str,
    device: str = "cpu",
    compiled: bool = False,
    **settings: Any,
) -> None:
    """Trains or infers on one batch and prints images per second.

    Args:
        train: whether to train instead of infer.
        half: whether to compute in bfloat16.
        batch: images per step.
        image_size: height and width in pixels.
        steps: number of measured steps.
        classes: number of classes.
        network: a name in `NETWORKS`.
        device: `cpu` or `cuda`.
        compiled: whether to compile the network with torch.compile.
        **settings: sizes of the network, arguments of its function there.
    """
    torch.backends.cudnn.benchmark = True
    model = NETWORKS[network](**settings, classes=classes).to(device, memory_format=torch.channels_last).train(train)
    pictures = torch.randn(batch, 3, image_size, image_size).to(device, memory_format=torch.channels_last)
    labels = torch.randint(classes, (batch,)).to(device)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0025)

    def call() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits = forward(pictures)
        if train:
            optimizer.zero_grad()
            functional.cross_entropy(logits.float(), labels).backward()
            optimizer.step()

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    # Also around all inferences, because autocast caches cast weights until it ends.
    with torch.inference_mode(not train), torch.autocast(device, torch.bfloat16, enabled=half and not train):
        for _ in range(WARM_UP):
            call()
        wait()
        start = time.perf_counter()
        for _ in range(steps):
            call()
        wait()
        print(batch * steps / (time.perf_counter() - start))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
