"""Fine-tunes GoogLeNet in PyTorch: `python torch_finetune.py JSON` prints the accuracy and the seconds.

Runs in its own environment (see `peers`). Written as an engineer would by hand: all images are decoded once and kept at 256 x
256, augmented with NumPy and Pillow between steps, and trained on in channels last and optionally bfloat16, with Nesterov
momentum or none. The weights are Caffe's, an .npz file.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

MEAN = (123.0, 117.0, 104.0)  # red, green, blue
KEPT, SHOWN = 256, 224  # side in pixels of stored images and of the network's input
DROPOUT, INFERENCE = 0.4, 64


class ChannelNorm(nn.Module):
    """Local response norm over five channels, summed with a 1x1 convolution because PyTorch's own is slow on a CPU.

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        near = torch.ones(channels, channels).triu(-2).tril(2)
        self.register_buffer("near", near[..., None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalizes activations, (batch, channels, height, width)."""
        inverse = (1 + 2e-5 * functional.conv2d(x.square(), self.near.to(x.dtype))).rsqrt()
        return x * inverse * inverse.sqrt()


class Block(nn.Module):
    """Inception block: four branches over the same input, concatenated along the channels.

    Args:
        taken: number of input channels.
        widths: output channels of the six convolutions.
        name: name of the block in Caffe's weights.
        unit: creates a convolution with its activation from name, input channels, output channels and kernel size.
    """

    def __init__(self, taken: int, widths: list[int], name: str, unit: Callable[[str, int, int, int], nn.Module]) -> None:
        super().__init__()
        one, reduce_3, three, reduce_5, five, pool = widths
        self.one = unit(f"{name}/1x1", taken, one, 1)
        self.three = nn.Sequential(unit(f"{name}/3x3_reduce", taken, reduce_3, 1), unit(f"{name}/3x3", reduce_3, three, 3))
        self.five = nn.Sequential(unit(f"{name}/5x5_reduce", taken, reduce_5, 1), unit(f"{name}/5x5", reduce_5, five, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), unit(f"{name}/pool_proj", taken, pool, 1))
        self.width = one + three + five + pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the block on activations, (batch, channels, height, width)."""
        return torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), 1)


def build_network(
    weights: Mapping[str, npt.NDArray[np.floating[Any]]], stem: list[int], blocks: dict[str, list[int]], classes: int
) -> nn.Module:
    """Builds GoogLeNet with Caffe's weights and a new classification head.

    Args:
        weights: Caffe's weights by name.
        stem: output channels of the stem's three convolutions.
        blocks: output channels of each block's six convolutions by name of the block, a digit for the stage and a letter.
        classes: number of classes.

    Returns:
        The network.
    """

    def unit(name: str, taken: int, given: int, kernel: int, stride: int = 1) -> nn.Module:
        convolution = nn.Conv2d(taken, given, kernel, stride, padding=kernel // 2)
        with torch.no_grad():
            convolution.weight.copy_(torch.from_numpy(weights[f"{name}/weights"].astype("float32").transpose(3, 2, 0, 1)))
            convolution.bias.copy_(torch.from_numpy(weights[f"{name}/biases"].astype("float32")))
        return nn.Sequential(convolution, nn.ReLU(inplace=True))

    first, second, width = stem
    halved = nn.MaxPool2d(3, 2, ceil_mode=True)
    parts = [unit("conv1/7x7_s2", 3, first, 7, stride=2), halved, ChannelNorm(first)]
    parts += [unit("conv2/3x3_reduce", first, second, 1), unit("conv2/3x3", second, width, 3), ChannelNorm(width), halved]
    size = "3"
    for name, widths in blocks.items():
        if name[0] != size:
            size = name[0]
            parts.append(halved)
        parts.append(Block(width, widths, f"inception_{name}", unit))
        width = parts[-1].width
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(DROPOUT), nn.Linear(width, classes)]
    return nn.Sequential(*parts).to(memory_format=torch.channels_last)


def decode_images(folder: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Decodes all images of a folder of class folders.

    Args:
        folder: folder of class folders.

    Returns:
        Pixels, uint8 (n, 256, 256, 3), and class numbers, int64 (n,), in alphabetical order of the classes.
    """
    labels = {label.name: number for number, label in enumerate(sorted(folder.iterdir()))}
    files = sorted(folder.glob("*/*"))
    pixels = [np.asarray(Image.open(file).convert("RGB").resize((KEPT, KEPT), Image.Resampling.BILINEAR)) for file in files]
    return np.stack(pixels), np.array([labels[file.parent.name] for file in files])


def augment(picture: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Crops an image at random to at least 30 % of its area, and mirrors it with probability one half.

    Args:
        picture: uint8 (256, 256, 3).
        rng: source of randomness.

    Returns:
        The augmented image, uint8 (224, 224, 3).
    """
    area, aspect = rng.uniform(0.3, 1), rng.uniform(0.75, 1.33)
    height, width = (min(KEPT, int(KEPT * math.sqrt(share))) for share in (area / aspect, area * aspect))
    top, left = (int(rng.integers(0, KEPT + 1 - side)) for side in (height, width))
    crop = Image.fromarray(picture[top : top + height, left : left + width])
    shown = np.asarray(crop.resize((SHOWN, SHOWN), Image.Resampling.BILINEAR))
    return shown[:, ::-1] if rng.random() < 0.5 else shown


def to_batch(shown: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Converts images to the network's input: BGR less the mean.

    Args:
        shown: uint8 (n, 224, 224, 3), RGB.

    Returns:
        float32 (n, 3, 224, 224).
    """
    centred = (shown.astype("float32") - np.array(MEAN, "float32"))[..., ::-1]
    return torch.from_numpy(centred.copy()).permute(0, 3, 1, 2)


def draw_batches(
    pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[npt.NDArray[np.uint8], torch.Tensor]]:
    """Yields endless batches of augmented images and their labels, in a new random order in each epoch.

    Args:
        pixels: uint8 (n, 256, 256, 3).
        labels: int64 (n,), class numbers.
        batch_size: images per batch.
        rng: source of randomness.

    Yields:
        uint8 (batch, 224, 224, 3) and int64 (batch,).
    """
    order: list[int] = []
    while True:
        if len(order) < batch_size:
            order = list(rng.permutation(len(labels)))
        chosen, order = order[:batch_size], order[batch_size:]
        yield np.stack([augment(pixels[number], rng) for number in chosen]), torch.from_numpy(labels[chosen])


def take_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, labels: torch.Tensor, half: bool
) -> None:
    """Takes a step of the training.

    Args:
        model: from `inputs` to logits.
        optimizer: of its weights.
        inputs: of a batch.
        labels: int64 (batch,), class numbers.
        half: whether to compute in bfloat16.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model(inputs)
    optimizer.zero_grad()
    functional.cross_entropy(logits.float(), labels).backward()
    optimizer.step()


def measure_accuracy(
    model: nn.Module,
    to_input: Callable[[npt.NDArray[np.uint8]], torch.Tensor],
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    half: bool,
) -> float:
    """Classifies the middle of images.

    Args:
        model: from the network's input to logits; is set to inference.
        to_input: converts images, uint8 (n, 224, 224, 3), to the network's input.
        pixels: uint8 (n, 256, 256, 3).
        labels: int64 (n,), class numbers.
        half: whether to compute in bfloat16.

    Returns:
        The share of the images that are classified correctly.
    """
    edge = (KEPT - SHOWN) // 2
    middle, right = pixels[:, edge : edge + SHOWN, edge : edge + SHOWN], 0
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        for at in range(0, len(labels), INFERENCE):
            predicted = model(to_input(middle[at : at + INFERENCE])).argmax(1).numpy()
            right += int((predicted == labels[at : at + INFERENCE]).sum())
    return right / len(labels)


def main(
    *,
    train: str,
    test: str,
    weights: str,
    stem: list[int],
    blocks: dict[str, list[int]],
    rates: list[float],
    batch_size: int,
    momentum: float,
    weight_decay: float,
    half: bool,
) -> None:
    """Trains on one folder, evaluates on another, and prints the accuracy and the total seconds.

    Args:
        train: folder of class folders to train on.
        test: folder of class folders to evaluate on.
        weights: Caffe's weights, an .npz file.
        stem: output channels of the stem's three convolutions.
        blocks: output channels of each block's six convolutions by name of the block.
        rates: learning rate of each step.
        batch_size: images per step.
        momentum: Nesterov's; 0 for none.
        weight_decay: L2 penalty of all weights: this times a weight is added to its gradient.
        half: whether to compute in bfloat16.
    """
    start = time.perf_counter()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    (pixels, labels), (unseen, truth) = decode_images(Path(train)), decode_images(Path(test))
    model = build_network(np.load(weights), stem, blocks, int(labels.max()) + 1)
    optimizer = torch.optim.SGD(
        model.parameters(), rates[0], momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay
    )
    batches = draw_batches(pixels, labels, batch_size, rng)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        shown, named = next(batches)
        take_step(model, optimizer, to_batch(shown), named, half)
    accuracy = measure_accuracy(model, to_batch, unseen, truth, half)
    print(json.dumps({"accuracy": accuracy, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
