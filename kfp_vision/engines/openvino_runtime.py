"""OpenVINO, imported without its telemetry.

Its import (openvino 2026.4.1, openvino/tools/ovc) sends an event to Intel over Google Analytics, and keeps an identifier of the
machine in the home folder, unless a file there refuses. Without its converter of the models of other frameworks, which nothing
here uses, it does neither, and takes half the time.
"""

from pathlib import Path
from typing import Any

from kfp_vision.core import hidden_imports

__all__ = ["TELEMETRY", "openvino", "read_model"]

TELEMETRY = "openvino_telemetry"  # the package that sends events, also those of NNCF

with hidden_imports.hide({TELEMETRY, "openvino.tools.ovc"}):
    import openvino


def read_model(file: Path) -> Any:
    """Reads a model in OpenVINO's own format. `openvino.Core` would try the readers of all others on a damaged file.

    Args:
        file: the `.xml` file, with its weights beside it.

    Returns:
        The model.

    Raises:
        RuntimeError: the file or its weights are damaged.
    """
    reader = openvino.frontend.FrontEndManager().load_by_framework("ir")
    return reader.convert(reader.load(str(file)))
