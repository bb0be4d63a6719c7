"""The colour model as a model folder with a verdict, and records of its three colours, for tests of the exports."""

import json
from pathlib import Path

from support import colour_model

from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.records import convert
from kfp_vision.repository.version import Version

LABELS = list(colour_model.RGB)


def write_model(model: Path, **changes) -> Version:
    """Writes a model folder, and returns its version."""
    return Version(colour_model.write_version(model / "serving" / "1", **changes))


def write_verdict(file: Path, version: Version, reasons: tuple[str, ...] = (), accepted: bool = True) -> Path:
    """Writes a verdict on a model, as the evaluation does."""
    verdict = {"model_fingerprint": version.fingerprint, "verdict": {"accepted": accepted, "reasons": list(reasons)}}
    file.write_text(json.dumps(verdict))
    return file


def write_records(root: Path, images: int = 12) -> Path:
    """Writes records of `images` images for train, as many for validation, and none for test."""
    for split, count in (("train", images), ("validation", images), ("test", 0)):
        examples = (
            (ImageRow("", label, 0, "", f"{split}/{number}.jpg"), validate_image(colour_model.picture(label)))
            for number, label in enumerate((LABELS * images)[:count])
        )
        convert.write_shards(root / split, split, examples, LABELS, 100)
    return root
