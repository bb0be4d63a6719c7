"""Chooses and loads the engine that computes a model's answers."""

import os
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from kfp_vision import __version__
from kfp_vision.core import hardware, json_text
from kfp_vision.core.advanced import ENGINES, SERVING_ENGINES, STOCK_RUNTIME
from kfp_vision.core.errors import DamagedError, InputError, format_value
from kfp_vision.engines.engine import (
    AUTO,
    OPENVINO,
    OPENVINO_FILE,
    OPENVINO_FLOAT32,
    OPENVINO_INT8,
    TENSORFLOW,
    TENSORFLOW_BFLOAT16,
    Engine,
)
from kfp_vision.repository.version import EXPORTS_FILE, EXPORTS_FOLDER, VERSION_FILE, Version

INT8_EXPORT = "openvino_int8"  # the format of `export_model` that the engine of int8 computes with
ENGINE_VARIABLE = "KFP_VISION_ENGINE"  # environment variable with the engine of whoever does not choose one


def check_engine(name: str, where: str, engines: Collection[str] = SERVING_ENGINES) -> str:
    """Checks the name of an engine.

    Args:
        name: of the engine.
        where: what holds the name, for the error message.
        engines: the names that may stand there.

    Returns:
        The name.

    Raises:
        InputError: it is none of them.
    """
    if name not in engines:
        remedy = f"Give one of them, or none: {AUTO} takes the fastest that the model has."
        raise InputError(f"{where} must be one of {', '.join(engines)}", format_value(name, 50), remedy)
    return name


def choose_serving_engine(version: Version) -> str:
    """Chooses the engine that computes like the serving runtime that the version was trained for.

    Args:
        version: the version; KServe's stock runtime, which is TensorFlow, is in its settings.

    Returns:
        `TENSORFLOW` for the stock runtime, else empty, for what `choose_engine` takes without a wish.
    """
    return TENSORFLOW if version.about.get("advanced", {}).get("service_runtime") == STOCK_RUNTIME else ""


def choose_engine(version: Version, name: str = "") -> str:
    """Chooses what computes a version's answers on this machine.

    Without a wish this is OpenVINO where the version has a file for it, as exports of this release have, and no GPU is at
    hand; else TensorFlow, which also loads what any other tool has exported. Both compute in bfloat16 where the processor, or
    the GPU, is fast at it.

    Args:
        version: the version.
        name: one of `SERVING_ENGINES`; empty for the one in the environment variable `KFP_VISION_ENGINE`, or else in the
            settings that the version was trained with.

    Returns:
        `OPENVINO`, in bfloat16; `OPENVINO_FLOAT32`; `OPENVINO_INT8`; `TENSORFLOW`; or `TENSORFLOW_BFLOAT16`.

    Raises:
        InputError: a name is none of these, the version has no file for the engine, or TensorFlow is not installed.
    """
    wishes = (
        (name, "the engine", SERVING_ENGINES),
        (os.environ.get(ENGINE_VARIABLE, ""), ENGINE_VARIABLE, SERVING_ENGINES),
        (str(version.about.get("advanced", {}).get("engine", "")), f"engine in {version.folder / VERSION_FILE}", ENGINES),
    )
    chosen = next((check_engine(wish, where, engines) for wish, where, engines in wishes if wish), AUTO)
    has_file = (version.folder / OPENVINO_FILE).is_file()
    if chosen == AUTO:
        use_gpu = hardware.has_gpu() and find_spec("tensorflow")
        chosen = OPENVINO if has_file and find_spec("openvino") and not use_gpu else TENSORFLOW
        if use_gpu and hardware.is_gpu_fast_at_bfloat16():
            chosen = TENSORFLOW_BFLOAT16
    if chosen in (TENSORFLOW, TENSORFLOW_BFLOAT16):
        _check_has_tensorflow(version, has_file)
        return chosen
    if not has_file:
        remedy = f"Train or export it again with this release, or choose the engine {TENSORFLOW}."
        raise InputError(f"a model for the engine {chosen} must hold {OPENVINO_FILE}", f"none in {version.folder}", remedy)
    if chosen == OPENVINO_INT8:
        find_int8(version)
        return chosen
    return OPENVINO if chosen == OPENVINO and hardware.is_fast_at_bfloat16() else OPENVINO_FLOAT32


def exports_needed(name: str = "") -> tuple[str, ...]:
    """Lists the exports that the engine asked for needs beside the version.

    Args:
        name: as for `choose_engine`.

    Returns:
        Names of formats.
    """
    return (INT8_EXPORT,) if (name or os.environ.get(ENGINE_VARIABLE)) == OPENVINO_INT8 else ()


def find_int8(version: Version) -> Path:
    """Finds the file in which `export_model` has quantized a version, and which has passed the gate.

    Args:
        version: in a repository.

    Returns:
        The `.xml` file.

    Raises:
        InputError: there is none, it was made of another version, or the table of the exports is damaged.
    """
    exports = version.folder.parent / EXPORTS_FOLDER
    rule = f"a model for the engine {OPENVINO_INT8} must have an export of its own as {INT8_EXPORT}"
    remedy = f"Train it with formats={INT8_EXPORT} into this repository, or choose another engine."
    try:
        table = json_text.parse((exports / EXPORTS_FILE).read_text(encoding="utf-8"))
    except OSError:
        raise InputError(rule, f"none in {exports}", remedy) from None
    except ValueError:
        table = None
    if not isinstance(table, dict) or not isinstance(table.get("model_fingerprint"), str):
        raise DamagedError(rule, f"a damaged {exports / EXPORTS_FILE}", remedy)
    if table["model_fingerprint"] != version.fingerprint:
        raise InputError(rule, f"one of another model in {exports}", remedy)
    file = exports / INT8_EXPORT / "classifier.xml"
    if not file.is_file():
        raise InputError(rule, f"none in {exports}", remedy)
    return file


def _check_has_tensorflow(version: Version, has_file: bool) -> None:
    if find_spec("tensorflow"):
        return
    rule = "a model that TensorFlow computes must be served where TensorFlow is installed"
    reason = f"the engine {TENSORFLOW} is chosen for" if has_file else f"there is no {OPENVINO_FILE} in"
    again = f"Train it again with this release{' for another engine' if has_file else ''}"
    remedy = f"{again}, or serve it with the container image kfp-vision:{__version__} (service_image of advanced)."
    raise InputError(rule, f"{reason} {version.folder}", remedy)


def load_engine(version: Version, name: str = "") -> Engine:
    """Loads a version into an engine.

    Args:
        version: the version.
        name: as for `choose_engine`.

    Returns:
        The engine.

    Raises:
        InputError: as `choose_engine` does; the version does not load, or the engine is not installed.
    """
    chosen = choose_engine(version, name)
    if chosen in (TENSORFLOW, TENSORFLOW_BFLOAT16):
        from kfp_vision.engines.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(version, bfloat16=chosen == TENSORFLOW_BFLOAT16)
    from kfp_vision.engines.openvino_engine import OpenVinoEngine

    if chosen == OPENVINO_INT8:
        return OpenVinoEngine(version, bfloat16=hardware.is_fast_at_bfloat16(), quantized=find_int8(version))
    return OpenVinoEngine(version, bfloat16=chosen == OPENVINO)
