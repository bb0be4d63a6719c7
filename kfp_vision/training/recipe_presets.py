"""The presets of the form field `recipe`: what each one sets, and which fields of the form win over it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from kfp_vision.core.advanced import ADVANCED_DEFAULTS
from kfp_vision.core.errors import InputError
from kfp_vision.core.values import check_choices, check_type
from kfp_vision.networks import AUTO_NETWORK, IMAGENET, TF_SLIM_INCEPTION_V1

TUTORIAL = "tutorial"  # the value of `recipe` that sets nothing
# The defaults of the form's fields of a training.
DEFAULTS: dict[str, Any] = {
    "network": "inception_v1",
    "fine_tune": True,
    "checkpoint_uri": TF_SLIM_INCEPTION_V1,
    "train_last_layer_only": False,
    "batch_size": 16,
    "learning_rate": 0.0025,
    "train_steps": 6000,
    "optimizer": "sgd",
    "learning_rate_schedule": "exponential",
    "image_size": 0,
}
# What each recipe sets: fields of the form, and under `advanced` fields of advanced.
PRESETS: dict[str, dict[str, Any]] = {
    TUTORIAL: {},
    # The head alone, and then the last blocks, on features that are computed once: two minutes on a processor at most, and
    # enough for a few hundred images. benchmarks/README.md has what the choices are worth.
    "quick": {
        "network": AUTO_NETWORK,
        "checkpoint_uri": IMAGENET,
        "batch_size": 32,
        "train_steps": 225,
        "optimizer": "momentum",
        "learning_rate": 0.001,
        "learning_rate_schedule": "cosine",
        "advanced": {
            "train_last_blocks_only": True,
            "weight_decay": 0.0001,
            "head_steps": 1000,
            "freeze_batch_norm": True,
        },
    },
    # All layers, from the best weights at hand: the head alone first, batch norm as published, and a low rate, since an
    # EfficientNet-Lite unlearns what it knows at 0.01, or with statistics of a few images.
    "best": {
        "network": AUTO_NETWORK,
        "checkpoint_uri": IMAGENET,
        "batch_size": 32,
        "train_steps": 3000,
        "optimizer": "momentum",
        "learning_rate": 0.003,
        "learning_rate_schedule": "cosine",
        "advanced": {
            "label_smoothing": 0.1,
            "weight_decay": 0.0001,
            "warmup_steps": 100,
            "head_steps": 500,
            "freeze_batch_norm": True,
        },
    },
}
RECIPES = tuple(PRESETS)


@dataclass(frozen=True)
class Preset:
    """What a recipe sets in a form, without what the form's own fields overrule.

    Attributes:
        recipe: one of `RECIPES`.
        fields: value by field of the form.
        advanced: value by field of `advanced`.
        why: the reason for the network, if `network=auto` chose it.
    """

    recipe: str = TUTORIAL
    fields: Mapping[str, Any] = field(default_factory=dict)
    advanced: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""

    @classmethod
    def of_form(cls, form: Mapping[str, Any]) -> Self:
        """Reads the field `recipe` of a form.

        A field that differs from its default wins over the recipe, and so does every field that `advanced` gives.

        Args:
            form: values by field name; a form without `recipe` has that of the tutorial.

        Returns:
            What is left for the recipe to set.

        Raises:
            InputError: the recipe is unknown, or has no weights to start from.
        """
        recipe = form.get("recipe", TUTORIAL)
        check_choices({"recipe": recipe}, {"recipe": RECIPES})
        if recipe == TUTORIAL:
            return cls()
        check_type("advanced", form["advanced"], dict, '{"momentum": 0.9}')
        if form["fine_tune"] is False:
            rule = f"recipe={recipe} must start from published weights"
            raise InputError(rule, "fine_tune=false", f"Set fine_tune to true, or recipe to {TUTORIAL}.")
        preset = PRESETS[recipe]
        fields = {name: preset[name] for name in DEFAULTS if name in preset and form[name] == DEFAULTS[name]}
        advanced = {name: value for name, value in preset.get("advanced", {}).items() if name not in form["advanced"]}
        return cls(recipe, fields, advanced)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Reads what `to_json` returned; programs that have one type of number may have written 32 as 32.0.

        Args:
            given: the dictionary; empty for a preset that sets nothing.
        """
        fields = {name: type(DEFAULTS[name])(value) for name, value in given.get("fields", {}).items()}
        advanced = {name: type(ADVANCED_DEFAULTS[name])(value) for name, value in given.get("advanced", {}).items()}
        return cls(**{**given, "fields": fields, "advanced": advanced})

    def to_json(self) -> dict[str, Any]:
        """Returns the preset as a dictionary, to pass it from stage to stage; empty if it sets nothing."""
        return asdict(self) if self.fields or self.advanced else {}

    def apply(self, form: Mapping[str, Any]) -> dict[str, Any]:
        """Fills a form in.

        Args:
            form: values by field name.

        Returns:
            The form with what the preset sets.
        """
        filled = {**form, **self.fields}
        return filled | ({"advanced": {**self.advanced, **form["advanced"]}} if self.advanced else {})

    def describe(self) -> list[str]:
        """Describes what is set, and why the network, in a line each; none if nothing is set."""
        # In the order of the form: a preset that went from stage to stage has lost its own.
        settings = {name: self.fields[name] for name in DEFAULTS if name in self.fields}
        settings |= {f"{name} of advanced": self.advanced[name] for name in sorted(self.advanced)}
        written = ", ".join(f"{name}={_write(value)}" for name, value in settings.items())
        lines = [f"recipe={self.recipe} sets {written}"] if settings and self.recipe != TUTORIAL else []
        if self.why:
            start = f" from {self.fields['checkpoint_uri']}" if self.fields["checkpoint_uri"] else ""
            lines.append(f"network={AUTO_NETWORK} takes {self.fields['network']}{start}: {self.why}")
        return lines


def _write(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
