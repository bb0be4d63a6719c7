"""Versions of a model repository with dummy contents, for tests that do not load the model."""

import json
from pathlib import Path

from kfp_vision.repository.version import Version


def break_version(folder: Path) -> None:
    """Damages a version so that no engine loads it."""
    for name in ("saved_model.pb", "openvino/model.xml"):
        if (folder / name).exists():
            (folder / name).write_bytes(b"no model")


def version(folder: Path, name: str = "flowers", weights: bytes = b"weights", **about: object) -> Version:
    """Writes a version with additional metadata `about`, and returns it."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(weights)
    (folder / "assets.extra").mkdir()
    about = {"model_name": name, "labels": ["daisy", "tulip"], "image_size": 224, **about}
    (folder / "assets.extra" / "model.json").write_text(json.dumps(about))
    return Version(folder)
