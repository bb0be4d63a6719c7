#!/usr/bin/env bash
# openvino 2026.4.1: its import starts a thread that sends a usage event, and keeps an identifier of the machine in the home folder.
#
# The package openvino-telemetry, which pip installs with it, is asked without the dialogue that its tools have
# (openvino/tools/ovc/__init__.py): unless a file in the home folder refuses, or the variable CI is set, silence is consent. With
# that package out of reach openvino takes a stub of its own, and neither happens.
#
# Seen, with an empty home and without a network: after the import, a thread of a pool and a file intel/openvino_ga_cid with an
# identifier; with openvino_telemetry hidden, none of both. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 openvino-telemetry==2025.2.0
cat >"$folder/import.py" <<'END'
import socket
import sys
import threading
from pathlib import Path


def no_network(*_):
    raise OSError("no network")


socket.getaddrinfo = no_network  # nothing is sent from here
if sys.argv[1] == "hidden":
    sys.modules["openvino_telemetry"] = None
import openvino  # noqa: E402, F401

threads = [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
print("thread" if threads else "no thread", "identifier" if (Path.home() / "intel" / "openvino_ga_cid").is_file() else "no identifier")
END
seen=()
for way in plain hidden; do
    mkdir "$folder/$way"
    seen+=("$way: $(env -u CI HOME="$folder/$way" "$folder/venv/bin/python" "$folder/import.py" "$way")")
done
printf '%s\n' "${seen[@]}"
[ "${seen[0]}" = "plain: thread identifier" ] && [ "${seen[1]}" = "hidden: no thread no identifier" ]
