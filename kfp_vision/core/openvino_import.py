"""Imports OpenVINO without its usage statistics."""

import sys
from typing import Any


def import_openvino() -> Any:
    """Imports OpenVINO, whose import sends a usage event to its makers unless the user has opted out.

    The event is sent from a thread, with an identifier that is kept in the home folder. OpenVINO and NNCF do without the
    package that sends it, which is made to look missing here (OpenVINO 2026.4, openvino/tools/ovc/telemetry_utils.py).

    Returns:
        The package `openvino`.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes an import of it fail
    import openvino

    return openvino
