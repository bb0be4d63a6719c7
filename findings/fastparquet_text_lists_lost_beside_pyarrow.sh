#!/usr/bin/env bash
# fastparquet 2026.9.0 with pandas 3.1.1: once pyarrow is installed beside it, it reads lists of text as None where they are PLAIN.
#
# Its documentation has lists of simple values among what it reads, and without PyArrow it reads these files rightly. With PyArrow
# it decodes text pages into an array of Arrow's, which the code for lists has no place for (core.py, read_col, use_arrow): the rows
# of such pages stay None, without an error or a warning. PyArrow writes PLAIN pages by itself when the dictionary of a column
# exceeds 1 MB, so that the labels of a small file are read and those at the end of a larger one lost. Lists of numbers are read.
#
# Seen, of files that PyArrow 26.0.1 wrote: rightly read without PyArrow; with it, None for 14,368 of 60,000 rows of a file with
# PyArrow's own settings, the last ones, and for 2 of 2 rows of one without a dictionary. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/writer"
python3 -m venv "$folder/venv"
"$folder/writer/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fastparquet==2026.9.0 pandas==3.1.1
cat >"$folder/rows.py" <<'END'
def similar(number):
    return [f"flowers/{number + more:07}.jpg" for more in (1, 2)]


LARGE = [similar(number) for number in range(60_000)]
SMALL = [["rose", "tulip"], ["tulip"]]
END
cat >"$folder/write.py" <<'END'
import sys

import pyarrow
from pyarrow import parquet
from rows import LARGE, SMALL

for name, rows, options in (("large", LARGE, {}), ("small", SMALL, {"use_dictionary": False})):
    file = f"{sys.argv[1]}/{name}.parquet"
    parquet.write_table(pyarrow.table({"id": range(len(rows)), "texts": rows}), file, **options)
    assert parquet.read_table(file)["texts"].to_pylist() == rows
END
cat >"$folder/read.py" <<'END'
import sys

import fastparquet
from rows import LARGE, SMALL

seen = []
for name, rows in (("large", LARGE), ("small", SMALL)):
    texts = fastparquet.ParquetFile(f"{sys.argv[1]}/{name}.parquet").to_pandas()["texts"].tolist()
    right = sum(read is not None and list(read) == row for read, row in zip(texts, rows, strict=True))
    nothing = sum(read is None for read in texts)
    seen.append(f"{name} {right} right {nothing} None")
print(", ".join(seen))
END
"$folder/writer/bin/python" "$folder/write.py" "$folder"
alone=$("$folder/venv/bin/python" "$folder/read.py" "$folder")
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1
beside=$("$folder/venv/bin/python" "$folder/read.py" "$folder")
printf '%s\n' "without PyArrow: $alone" "with PyArrow: $beside"
[ "$alone" = "large 60000 right 0 None, small 2 right 0 None" ] && [ "$beside" = "large 45632 right 14368 None, small 0 right 2 None" ]
