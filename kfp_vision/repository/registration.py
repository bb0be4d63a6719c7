"""What a model registry is told of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FINGERPRINT_KEY = "kfp_vision.fingerprint"  # tag or property of a version; one model is registered once


@dataclass(frozen=True)
class Registration:
    """A model to register.

    Attributes:
        name: Name of the model.
        fingerprint: Hash of its files.
        uri: URI that others load it from: its version in a repository, or the artifact of the run.
        card: Model card, Markdown.
        parameters: Fields of its recipe, by name; those of advanced as `advanced.NAME`.
        figures: Figures of the evaluation, by name.
        curves: Rows of the learning curves, each with its step.
        files: Files to attach, by their names, such as the report.
        tags: Further facts, by name.
        run_name: Name of the run; empty if unknown.
        run_id: KFP's id of the run; empty if unknown.
    """

    name: str
    fingerprint: str
    uri: str
    card: str
    parameters: Mapping[str, str]
    figures: Mapping[str, float]
    curves: Sequence[Mapping[str, Any]]
    files: Mapping[str, Path]
    tags: Mapping[str, str]
    run_name: str = ""
    run_id: str = ""


@dataclass(frozen=True)
class Registered:
    """A version in a registry.

    Attributes:
        version: Its number or name there.
        is_new: False if the same model had been registered before.
        place: Address of the registry.
    """

    version: str
    is_new: bool
    place: str
