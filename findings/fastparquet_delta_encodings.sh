#!/usr/bin/env bash
# fastparquet 2026.9.0: reads no text column in a delta encoding, and for pages of version 2 says nothing but NotImplementedError.
#
# DELTA_LENGTH_BYTE_ARRAY and DELTA_BYTE_ARRAY are encodings of the format, and parquet-go writes the former by default, so
# that what KServe's logger stores as Parquet is not read. The error of pages of version 1 at least has the encoding's number; that
# of pages of version 2 has no text (core.py, read_data_page and read_data_page_v2).
#
# Seen: the lines below, of files that PyArrow 26.0.1 wrote. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fastparquet==2026.9.0 pyarrow==26.0.1
cat >"$folder/read.py" <<'END'
import sys

import fastparquet
import pyarrow
from pyarrow import parquet

NAME = sys.argv[1]
seen = []
for encoding in ("PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"):
    for version in ("1.0", "2.0"):
        how = {"use_dictionary": False, "column_encoding": {"id": encoding}, "data_page_version": version}
        parquet.write_table(pyarrow.table({"id": ["one", "two"]}), NAME, **how)
        assert parquet.read_table(NAME)["id"].to_pylist() == ["one", "two"]
        try:
            seen.append(str(list(fastparquet.ParquetFile(NAME).to_pandas()["id"])))
        except NotImplementedError as error:
            seen.append(f"NotImplementedError({error})")
        print(encoding, version, seen[-1])
read, nothing = "['one', 'two']", "NotImplementedError()"
sys.exit(seen != [read, read, "NotImplementedError(Encoding 6)", nothing, "NotImplementedError(Encoding 7)", nothing])
END
"$folder/venv/bin/python" "$folder/read.py" "$folder/file.parquet"
