#!/usr/bin/env bash
# label-studio-sdk 2.1.2: JSON-MIN writes an entry for each annotation of a task, older ones too, and a single choice as a bare text.
#
# A list with one entry a task, as its tasks have one image, was expected; the JSON export marks the annotations of a task by nesting
# them. Whoever reads "image" and "choice" of JSON-MIN gets an image twice with two labels, the newest first. One choice is a text and
# several are {"choices": [...]}, even where the question allows several; a task submitted without a choice has no key for the
# question. label_studio_sdk/converter/converter.py, convert_to_json_min and iter_from_json_file.
#
# Seen: the entries below. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check label-studio-sdk==2.1.2
cat >"$folder/export.py" <<'END'
import json
import pathlib
import sys

from label_studio_sdk.converter import Converter

FOLDER = pathlib.Path(sys.argv[1])
QUESTION = """<View><Image name="image" value="$image"/><Choices name="flowers" toName="image" choice="multiple">
<Choice value="rose"/><Choice value="tulip"/></Choices></View>"""


def annotation(number, month, *choices):
    result = [{"from_name": "flowers", "to_name": "image", "type": "choices", "value": {"choices": choices}}] if choices else []
    at = f"2026-{month:02}-01T00:00:00Z"
    return {"id": number, "completed_by": 1, "created_at": at, "updated_at": at, "was_cancelled": False, "result": result}


tasks = [
    {"id": 1, "data": {"image": "a.jpg"}, "annotations": [annotation(1, 1, "rose"), annotation(2, 2, "tulip", "rose")]},
    {"id": 2, "data": {"image": "b.jpg"}, "annotations": [annotation(3, 1)]},
]
(FOLDER / "tasks.json").write_text(json.dumps(tasks))
Converter(QUESTION, project_dir=None).convert_to_json_min(str(FOLDER / "tasks.json"), str(FOLDER / "min"), is_dir=False)
entries = json.loads((FOLDER / "min" / "result.json").read_text())
seen = [(entry["image"], entry.get("flowers", "no key"), entry["annotation_id"]) for entry in entries]
print("seen:", seen)
sys.exit(seen != [("a.jpg", {"choices": ["tulip", "rose"]}, 2), ("a.jpg", "rose", 1), ("b.jpg", "no key", 3)])
END
"$folder/venv/bin/python" "$folder/export.py" "$folder"
