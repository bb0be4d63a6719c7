"""What a training is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How to train: the training fields of the run form, under their names there."""

    network: str
    fine_tune: bool
    checkpoint_uri: str
    train_last_layer_only: bool
    batch_size: int
    learning_rate: float
    train_steps: int
    optimizer: str
    learning_rate_schedule: str
    image_size: int
    gpu_count: int
    model_name: str
    checkpoint_dir: str = ""
    log_uri: str = ""
    trained_from: str = ""
    advanced: Mapping[str, Any] = field(default_factory=dict)
