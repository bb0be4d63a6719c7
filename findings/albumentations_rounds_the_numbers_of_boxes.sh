#!/usr/bin/env bash
# albumentations 2.0.8: numbers that go along with boxes, such as their ids in COCO, come back rounded to 24 bits.
#
# Fields named in label_fields are to be returned with the boxes that remain, unchanged. Texts are numbered and looked up, but
# numbers are put into the array of the boxes, as float32 (core/label_manager.py, _encode_data). Whole numbers above 16,777,216
# become others, two ids may become one, and no transform needs to touch a box for that. The ids of the crowds of COCO have twelve
# digits. An array of int64 comes back as int64, which hides it; a list comes back as floats. As texts, ids are safe.
#
# Seen, after a transform that does nothing: 16777217 as 16777216, and 900100000001 and 900100000002 both as 900099997696; the
# same ids as texts unchanged. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check albumentations==2.0.8
cat >"$folder/ids.py" <<'END'
import sys

import albumentations
import numpy as np

IDS = [7, 16_777_217, 900_100_000_001, 900_100_000_002]
BOXES = [[10 * number, 10, 8, 8] for number in range(4)]


def returned(ids):
    boxes = albumentations.BboxParams(format="coco", label_fields=["ids"])
    compose = albumentations.Compose([albumentations.NoOp()], bbox_params=boxes)
    after = compose(image=np.zeros((64, 64, 3), np.uint8), bboxes=BOXES, ids=ids)["ids"]
    return [int(number) for number in after], str(getattr(after, "dtype", type(after[0]).__name__))


seen = [returned(IDS), returned(np.array(IDS)), returned([str(number) for number in IDS])]
for kind, (numbers, name) in zip(("list", "array", "texts"), seen, strict=True):
    print(f"{kind}: {numbers} as {name}")
rounded = [7, 16_777_216, 900_099_997_696, 900_099_997_696]
sys.exit(seen != [(rounded, "float"), (rounded, "int64"), (IDS, "str")])
END
NO_ALBUMENTATIONS_UPDATE=1 "$folder/venv/bin/python" "$folder/ids.py"
