#!/usr/bin/env bash
# tfrecord 1.14.6 (the reader without TensorFlow): of several byte strings in one feature, each loses the zeros at its end.
#
# A bytes_list with one value is returned as bytes, one with several as an array of NumPy's type for bytes (tfrecord/reader.py,
# process_feature), which fills short values up with zeros and takes all zeros at the end for such. So raw masks with a dark end,
# serialized floats or ids come back too short, without a word. The file itself is right, and so is what is read of a feature with
# one value: images with one object are right, those with several are not.
#
# Seen, of masks of four bytes: one mask as written; of two masks 01 00 00 00 and 00 02 03 00 only 01 and 00 02 03. Ends with 1 if
# that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tfrecord==1.14.6
cat >"$folder/masks.py" <<'END'
import sys

from tfrecord import example_pb2
from tfrecord.reader import tfrecord_iterator, tfrecord_loader
from tfrecord.writer import TFRecordWriter

NAME = sys.argv[1]
MASKS = [b"\x01\x00\x00\x00", b"\x00\x02\x03\x00"]
writer = TFRecordWriter(NAME)
writer.write({"masks": (MASKS[:1], "byte")})
writer.write({"masks": (MASKS, "byte")})
writer.close()
in_file = []
for record in tfrecord_iterator(NAME):
    example = example_pb2.Example()
    example.ParseFromString(bytes(record))
    in_file.append(list(example.features.feature["masks"].bytes_list.value))
assert in_file == [MASKS[:1], MASKS]
one, two = (record["masks"] for record in tfrecord_loader(NAME, None, {"masks": "byte"}))
print("one:", one, "- two:", list(two))
sys.exit((one, list(two)) != (MASKS[0], [b"\x01", b"\x00\x02\x03"]))
END
"$folder/venv/bin/python" "$folder/masks.py" "$folder/masks.tfrecord"
