"""Chooses and loads the engine that computes a model's answers."""

import os
from importlib.util import find_spec

from kfp_vision import __version__
from kfp_vision.core import hardware
from kfp_vision.core.advanced import ENGINES, STOCK_RUNTIME
from kfp_vision.core.errors import InputError, format_value
from kfp_vision.engines.engine import AUTO, OPENVINO, OPENVINO_FILE, OPENVINO_FLOAT32, TENSORFLOW, Engine
from kfp_vision.repository.version import VERSION_FILE, Version

ENGINE_VARIABLE = "KFP_VISION_ENGINE"  # environment variable with the engine of whoever does not choose one


def check_engine(name: str, where: str = "the engine") -> str:
    """Checks the name of an engine.

    Args:
        name: one of `ENGINES`.
        where: what holds the name, for the error message.

    Returns:
        The name.

    Raises:
        InputError: it is none of them.
    """
    if name not in ENGINES:
        remedy = f"Give one of them, or none: {AUTO} takes the fastest that the model has."
        raise InputError(f"{where} must be one of {', '.join(ENGINES)}", format_value(name, 50), remedy)
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
    hand; else TensorFlow, which also loads what any other tool has exported. OpenVINO computes in bfloat16 where the processor
    is fast at it.

    Args:
        version: the version.
        name: one of `ENGINES`; empty for the one in the environment variable `KFP_VISION_ENGINE`, or else in the settings that
            the version was trained with.

    Returns:
        `OPENVINO`, in bfloat16; `OPENVINO_FLOAT32`; or `TENSORFLOW`.

    Raises:
        InputError: a name is none of `ENGINES`, the version has no file for the engine, or TensorFlow is not installed.
    """
    wishes = (
        (name, "the engine"),
        (os.environ.get(ENGINE_VARIABLE, ""), ENGINE_VARIABLE),
        (str(version.about.get("advanced", {}).get("engine", "")), f"engine in {version.folder / VERSION_FILE}"),
    )
    chosen = next((check_engine(wish, where) for wish, where in wishes if wish), AUTO)
    has_file = (version.folder / OPENVINO_FILE).is_file()
    if chosen == AUTO:
        use_gpu = hardware.has_gpu() and find_spec("tensorflow")
        chosen = OPENVINO if has_file and find_spec("openvino") and not use_gpu else TENSORFLOW
    if chosen == TENSORFLOW:
        _check_has_tensorflow(version, has_file)
        return chosen
    if not has_file:
        remedy = f"Train or export it again with this release, or choose the engine {TENSORFLOW}."
        raise InputError(f"a model for the engine {chosen} must hold {OPENVINO_FILE}", f"none in {version.folder}", remedy)
    return chosen if hardware.cpu_flags() & hardware.FAST_BFLOAT16_FLAGS else OPENVINO_FLOAT32


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
    if chosen == TENSORFLOW:
        from kfp_vision.engines.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(version)
    from kfp_vision.engines.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(version, bfloat16=chosen == OPENVINO)
