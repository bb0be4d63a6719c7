"""The formats that a model can be exported to, what they need, and what stands in every file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from kfp_vision.core.crop_shapes import SQUARE, STRETCHED, WHOLE
from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.core.values import SEVERAL, suggest_name

LITERT, ONNX, OPENVINO = "litert", "onnx", "openvino"  # converters and runtimes
FILE_NAMES = {LITERT: "classifier.tflite", ONNX: "classifier.onnx", OPENVINO: "classifier.xml"}
SUFFIXES = {LITERT: ".tflite", ONNX: ".onnx", OPENVINO: ".xml"}
INPUT, OUTPUT = "images", "probabilities"  # names in every file
METADATA_FILE = "model.json"
PREPROCESSING = {
    crop: f"set the image upright by its EXIF orientation, take {part}, resize it bilinearly to image_size, round to uint8 RGB"
    for crop, part in (
        (STRETCHED, "the central 87.5 % of each side"),
        (SQUARE, "the central square of 87.5 % of the shorter side"),
        (WHOLE, "all of it"),
    )
}
ALL_PACKAGES = "kfp-vision[exports]"


@dataclass(frozen=True)
class Format:
    """A format that a model can be exported to.

    Attributes:
        name: as in the field `formats`.
        runtime: `litert`, `onnx` or `openvino`.
        precision: of weights and arithmetic, in words.
        converter: name of the Python package that converts to it, as it is imported.
        calibrated: whether the conversion needs training images, to choose the ranges of the activations.
    """

    name: str
    runtime: str
    precision: str
    converter: str
    calibrated: bool = False

    @property
    def file_name(self) -> str:
        """Name of the file that its runtime loads."""
        return FILE_NAMES[self.runtime]

    @property
    def packages(self) -> tuple[str, ...]:
        """The Python packages that converting to it and running it need, as they are imported."""
        return (self.converter, RUNTIME_PACKAGES[self.runtime])


RUNTIME_PACKAGES = {LITERT: "ai_edge_litert", ONNX: "onnxruntime", OPENVINO: "openvino"}
FORMATS = {
    form.name: form
    for form in (
        Format("litert", LITERT, "float32", "tensorflow"),
        Format("litert_float16", LITERT, "weights in float16, computed in float32", "tensorflow"),
        Format("litert_int8_weights", LITERT, "weights in int8, activations quantized as they come", "tensorflow"),
        Format("litert_int8", LITERT, "int8 throughout", "tensorflow", calibrated=True),
        Format("onnx", ONNX, "float32", "tf2onnx"),
        Format("openvino", OPENVINO, "float32", "openvino"),
        Format("openvino_int8", OPENVINO, "int8, float32 where that has no kernel", "nncf", calibrated=True),
    )
}


def parse_formats(text: Any) -> list[Format]:
    """Parses the field `formats`.

    Args:
        text: names of formats, comma-separated; empty for none.

    Returns:
        The formats, in the order given.

    Raises:
        FieldError: it is no text, or a name is unknown or given twice.
    """
    rule = f"formats must be names among {', '.join(FORMATS)}, comma-separated, or empty"
    if not isinstance(text, str):
        raise FieldError(rule, text, "Write it as text, such as litert,openvino.")
    names = [name.strip() for name in text.split(",")] if text else []
    for place, name in enumerate(names):
        if name not in FORMATS:
            raise FieldError(rule, name, suggest_name(name, FORMATS))
        if name in names[:place]:
            raise FieldError("formats must name each format once", name, "Leave it out the second time.")
    return [FORMATS[name] for name in names]


def check_packages(formats: Iterable[Format]) -> None:
    """Checks that the packages that some formats need are installed, without importing them.

    Args:
        formats: to convert to.

    Raises:
        InputError: a package is missing.
    """
    for form in formats:
        check_installed(form.packages, f"format {form.name}")


def check_installed(packages: Iterable[str], purpose: str) -> None:
    """Checks that packages are installed, without importing them.

    Args:
        packages: as they are imported.
        purpose: what they are for, for the message.

    Raises:
        InputError: one is missing.
    """
    for package in packages:
        if find_spec(package) is None:
            rule = f"{purpose} must have its packages"
            raise InputError(rule, f"no {package}", f"Install {ALL_PACKAGES}, also in the container image of the stages.")


def is_exported_file(path: str) -> bool:
    """Returns whether a path has the suffix of an exported file.

    Args:
        path: of a file, or anything else.
    """
    return path.lower().endswith(tuple(SUFFIXES.values()))


def metadata(
    name: str, labels: list[str], image_size: int, crop: str, form: Format, thresholds: Sequence[float] = ()
) -> dict[str, Any]:
    """Returns what stands in every exported file, and beside it.

    Args:
        name: of the model.
        labels: class names, in the order of their numbers.
        image_size: height and width of the input in pixels.
        crop: what the model sees of an image, see `crop_shapes`.
        form: of the file.
        thresholds: the probability from which on an image has each label; empty for a model of one label.
    """
    several = {"labels_per_image": SEVERAL, "thresholds": list(thresholds)} if thresholds else {}
    return {
        "model_name": name,
        "format": form.name,
        "labels": labels,
        **several,
        "image_size": image_size,
        "crop": crop,
        "input": f"{INPUT}: uint8 (batch, {image_size}, {image_size}, 3), RGB from 0 to 255",
        "output": f"{OUTPUT}: float32 (batch, {len(labels)}), in the order of the labels",
        "preprocessing": PREPROCESSING[crop],
    }
