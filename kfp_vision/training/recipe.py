"""The settings of a training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from kfp_vision.core.advanced import Advanced
from kfp_vision.storage import uris
from kfp_vision.training.recipe_presets import Preset

URI_FIELDS = ("checkpoint_uri", "checkpoint_dir", "log_uri")


@dataclass(frozen=True)
class Recipe:
    """How to train: the training fields of the run form, under the same names.

    Attributes:
        network: one of `networks.NETWORKS`.
        fine_tune: start from `checkpoint_uri` instead of random weights.
        checkpoint_uri: weights to start from: a file, a folder, an archive, or `imagenet`.
        train_last_layer_only: train the classification head only.
        batch_size: images per step, over all devices of all workers.
        learning_rate: of the first step after the warm-up.
        train_steps: number of steps.
        optimizer: one of `rules.OPTIMIZERS`.
        learning_rate_schedule: one of `schedules.SCHEDULES`.
        image_size: height and width of the images in pixels; 0 for the network's own.
        gpu_count: GPUs per worker; 0 for the CPU.
        model_name: name of the model.
        checkpoint_dir: folder or bucket folder for checkpoints to resume from; empty for none.
        workers: machines, or processes on this one, that train together.
        log_uri: folder or bucket folder to which TensorBoard events are uploaded; empty for none.
        preset: what the form's field `recipe` set of all this.
        rungs_uri: folder through which the trials of a sweep are compared, see `successive_halving`; empty for no comparison.
        trial_number: of the trial in its sweep; 0 outside of one.
        trained_from: fingerprint of the images and fields; written to `model.json`.
        advanced: settings that rarely change.
    """

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
    workers: int = 1
    log_uri: str = ""
    rungs_uri: str = ""
    trial_number: int = 0
    trained_from: str = ""
    preset: Preset = field(default_factory=Preset)
    advanced: Advanced = field(default_factory=Advanced)

    @classmethod
    def from_form(cls, form: Mapping[str, Any]) -> Self:
        """Picks the fields of a training from a run form.

        Args:
            form: values by field name, `advanced` as a dictionary, and `preset`, what the recipe sets, as one. Other fields are
                ignored; fields with defaults are optional.

        Returns:
            The recipe, with `advanced` parsed.

        Raises:
            InputError: see `Advanced.parse`.
        """
        preset = Preset.from_json(form.get("preset", {}))
        form = preset.apply(form)
        known = {name: form[name] for name in (one.name for one in fields(cls)) if name in form}
        known |= {name: uris.from_field(known[name]) for name in URI_FIELDS if name in known}
        return cls(**known | {"preset": preset, "advanced": Advanced.parse(form.get("advanced", {}))})

    def to_form(self) -> dict[str, Any]:
        """Returns the fields as JSON values, from which `from_form` makes the same recipe."""
        return asdict(self) | {"preset": self.preset.to_json()}
