#!/usr/bin/env bash
# datumaro 1.13.12: a merge by "union" leaves the second dataset with wrong labels, and a second merge spoils the first one too.
#
# Datasets whose classes differ are to be merged by the names of their labels, and the merged one is right. But union_merge.py,
# merge, puts the new numbers into the annotations of the sources, which it does not copy, while these keep their own lists of
# classes. So the source, once merged, has its images under other names, without a word, in whatever is done with it next. As the
# merged dataset shares the annotations, a further merge of the source changes that as well. With "intersect" all stay right.
#
# Seen, of folders with rose and tulip and with lily, rose and tulip: the merged dataset is right; then the second has tulip, lily
# and rose for lily, rose and tulip; and after another merge both results have labels other than the folders. With "intersect" every
# label is right. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datumaro==1.13.12
cat >"$folder/merge.py" <<'END'
import pathlib
import sys

from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from datumaro.components.hl_ops import HLOps
from PIL import Image

FOLDER = pathlib.Path(sys.argv[1])


def dataset(name, labels):
    for label in labels:
        (FOLDER / name / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(FOLDER / name / label / f"{name}.png")
    return Dataset.import_from(str(FOLDER / name), "imagenet")


def labels(of):
    """Returns the label of each image by its name, which begins with the name of its folder."""
    names = [label.name for label in of.categories()[AnnotationType.label]]
    return {item.id: names[item.annotations[0].label] for item in of}


def is_right(of):
    return all(name.startswith(f"{label}:") for name, label in labels(of).items())


def seen(policy):
    first, second = dataset("a", ["rose", "tulip"]), dataset("b", ["lily", "rose", "tulip"])
    assert is_right(first) and is_right(second)
    merged = HLOps.merge(first, second, merge_policy=policy)
    once = [is_right(merged), is_right(first), is_right(second)]
    print(policy, "- the second dataset after its merge:", labels(second))
    again = HLOps.merge(first, second, merge_policy=policy)
    print(policy, "- merged once more:", labels(again))
    return [*once, is_right(again), is_right(merged)]


union, intersect = seen("union"), seen("intersect")
print("right: merged, first, second, merged again, merged before")
print("union:", *union)
print("intersect:", *intersect)
sys.exit((union, intersect) != ([True, True, False, False, False], [True] * 5))
END
"$folder/venv/bin/python" "$folder/merge.py" "$folder"
