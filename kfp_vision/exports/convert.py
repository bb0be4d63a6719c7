"""Converts a model to a format, in child processes: `python -m kfp_vision.exports.litert`, `.onnx` or `.openvino`."""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kfp_vision.core import children, json_text
from kfp_vision.dataset import label_map
from kfp_vision.exports.formats import FORMATS, METADATA_FILE, Format, metadata
from kfp_vision.repository.version import Version

CONVERTER_MODULES = {name: f"kfp_vision.exports.{name}" for name in ("litert", "onnx", "openvino")}
CONVERSION_SECONDS = 3600.0  # GoogLeNet takes half a minute of two cores


@dataclass(frozen=True)
class Conversion:
    """What a converter is to do.

    Attributes:
        version: the exported model.
        form: the format to convert to.
        file: to write; its folder exists.
        crops: an `.npy` file of training images, uint8 (images, size, size, 3), for a format that is calibrated.
    """

    version: Version
    form: Format
    file: Path
    crops: Path

    @property
    def metadata(self) -> dict[str, object]:
        """What is to stand in the file."""
        version, image_size = self.version, self.version.about["image_size"]
        return metadata(version.name, version.labels, image_size, version.crop, self.form, version.thresholds)


def convert(version: Version, form: Format, folder: Path, crops: Path, seconds: float = CONVERSION_SECONDS) -> Path:
    """Converts a model in a child process, and writes the labels and the metadata beside it.

    Args:
        version: the exported model.
        form: the format to convert to.
        folder: to create.
        crops: an `.npy` file of training images, uint8 (images, size, size, 3); read only if the format is calibrated.
        seconds: after which the conversion is given up.

    Returns:
        The file that the runtime loads, in `folder`.

    Raises:
        ChildFailed: the model does not convert; says why in one line.
    """
    folder.mkdir(parents=True)
    conversion = Conversion(version, form, folder / form.file_name, crops)
    arguments = [str(version.folder), form.name, str(conversion.file), str(crops)]
    children.run_child(CONVERTER_MODULES[form.runtime], arguments, seconds)
    label_map.write_labels(folder, version.labels)
    text = json_text.write(conversion.metadata, indent=1) + "\n"
    (folder / METADATA_FILE).write_text(text, encoding="utf-8")
    return conversion.file


def run_converter(work: Callable[[Conversion], None], arguments: Sequence[str] | None = None) -> None:
    """Does what a converter's command line asks for: the child's side of `convert`.

    Args:
        work: converts.
        arguments: the command line; by default that of the process.
    """
    parser = argparse.ArgumentParser(description="Converts an exported model.")
    parser.add_argument("version", type=Path, help="folder of the exported version")
    parser.add_argument("form", choices=FORMATS, help="format to convert to")
    parser.add_argument("file", type=Path, help="file to write")
    parser.add_argument("crops", type=Path, help="training images, .npy")
    options = children.parse_arguments(parser, arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    work(Conversion(Version(options.version), FORMATS[options.form], options.file, options.crops))
