"""OpenVINO, imported without its telemetry.

Its import (openvino 2026.4.1, openvino/tools/ovc) sends an event to Intel over Google Analytics, and keeps an identifier of the
machine in the home folder, unless a file there refuses. Without its converter of the models of other frameworks, which nothing
here uses, it does neither, and takes half the time.
"""

from kfp_vision.core import hidden_imports

__all__ = ["openvino"]

with hidden_imports.hide({"openvino_telemetry", "openvino.tools.ovc"}):
    import openvino
