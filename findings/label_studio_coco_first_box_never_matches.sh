#!/usr/bin/env bash
# label-studio-sdk 2.1.2 with pycocotools 2.0.11: the first box of an export to COCO is a miss, however well it was detected.
#
# Label Studio's converter numbers annotations from 0 (converter/converter.py, convert_to_coco: their number so far is the id).
# COCO's evaluation writes the id of the annotation that a detection matches into a matrix whose zeros mean no match
# (pycocotools/cocoeval.py, evaluateImg and accumulate). So the detection that matches the box 0 counts as a false alarm, and the
# box as missed. It costs the class of the first box, the more the fewer boxes it has. With ids from 1 all is right.
#
# Seen, of one daisy and two roses that are detected exactly: average precision 0 for daisy and 1 for roses; 1 and 1 with the same
# file after 1 was added to its annotations' ids. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check label-studio-sdk==2.1.2 pycocotools==2.0.11
cat >"$folder/evaluate.py" <<'END'
import json
import sys
from pathlib import Path

from label_studio_sdk.converter import Converter
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

FOLDER = Path(sys.argv[1])
CONFIG = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image"><Label value="daisy"/><Label value="rose"/></RectangleLabels>
</View>"""


def task(number, label):
    """Returns a task of Label Studio: an image of 100 x 100 with one box."""
    box = {"x": 10, "y": 10, "width": 40, "height": 40, "rotation": 0, "rectanglelabels": [label]}
    of = {"from_name": "label", "to_name": "image", "type": "rectanglelabels", "original_width": 100, "original_height": 100}
    return {
        "id": number,
        "data": {"image": f"{number}.jpg"},
        "annotations": [{"id": number, "was_cancelled": False, "result": [{**of, "image_rotation": 0, "value": box}]}],
    }


def precision(truth):
    """Returns the average precision of each class, of detections that are the boxes themselves."""
    (FOLDER / "truth.json").write_text(json.dumps(truth))
    detected = [{name: box[name] for name in ("image_id", "category_id", "bbox")} | {"score": 0.9} for box in truth["annotations"]]
    coco = COCO(FOLDER / "truth.json")
    evaluation = COCOeval(coco, coco.loadRes(detected), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    by_class = evaluation.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    return {one["name"]: round(float(value), 3) for one, value in zip(truth["categories"], by_class, strict=True)}


tasks = FOLDER / "tasks.json"
tasks.write_text(json.dumps([task(1, "daisy"), task(2, "rose"), task(3, "rose")]))
Converter(CONFIG, str(FOLDER), download_resources=False).convert_to_coco(str(tasks), str(FOLDER / "coco"), is_dir=False)
exported = json.loads((FOLDER / "coco" / "result.json").read_text())
first = [box["id"] for box in exported["annotations"]]
as_exported = precision(exported)
for box in exported["annotations"]:
    box["id"] += 1
from_one = precision(exported)
print("ids:", first, "- average precision:", as_exported, "- with ids from 1:", from_one)
sys.exit((first, as_exported, from_one) != ([0, 1, 2], {"daisy": 0.0, "rose": 1.0}, {"daisy": 1.0, "rose": 1.0}))
END
"$folder/venv/bin/python" "$folder/evaluate.py" "$folder"
