"""Parquet files as KServe's logger writes them, by PyArrow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# `logRecord` of KServe's pkg/logger/marshaller_record.go, whose fields are texts without nulls, and a boolean.
TEXTS = ("url", "bytes", "contentType", "reqType", "id", "sourceUri", "inferenceService", "namespace", "component", "endpoint")
TEXTS += ("metadata", "annotations", "certName")
FLAG = "tlsSkipVerify"
SCHEMA = pa.schema(
    [*(pa.field(name, pa.string(), nullable=False) for name in TEXTS), pa.field(FLAG, pa.bool_(), nullable=False)]
)
# What parquet-go 0.27, which KServe writes with, does by default: `encodingOf` in its node.go, and its config.go.
OF_THE_LOGGER = {
    "use_dictionary": False,
    "compression": "none",
    "data_page_version": "2.0",
    "column_encoding": dict.fromkeys(TEXTS, "DELTA_LENGTH_BYTE_ARRAY"),
}


def write_log(file: Path, events: Sequence[Mapping[str, Any]], **options: Any) -> None:
    """Writes events, whose fields have the names of Go's; by other options than the logger's if asked to."""
    rows = [{name[:1].lower() + name[1:]: value for name, value in event.items()} for event in events]
    flags = {FLAG: [bool(row[FLAG]) for row in rows]}
    texts = {name: [str(row[name]) if row[name] else "" for row in rows] for name in TEXTS}
    pq.write_table(pa.table(texts | flags, SCHEMA), file, **OF_THE_LOGGER | options)
