"""Columns of Parquet files, which PyArrow has written, are read as PyArrow reads them; all else is rejected."""

import contextlib
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.parquet_files import OF_THE_LOGGER

from kfp_vision.storage.parquet import read_columns

TEXT = pa.field("text", pa.string(), nullable=False)


def written(values: list[str], field: pa.Field = TEXT, **options: object) -> bytes:
    """A file with one column of texts, as KServe's logger writes it unless options say otherwise."""
    sink = pa.BufferOutputStream()
    settings = OF_THE_LOGGER | {"column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}}
    pq.write_table(pa.table({field.name: values}, pa.schema([field])), sink, **settings | options)
    return sink.getvalue().to_pybytes()


def read(content: bytes) -> list[str]:
    return [value.decode() for value in read_columns(content, ["text"])["text"]]


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.text(max_size=300), max_size=200),
    st.sampled_from(["1.0", "2.0"]),
    st.sampled_from(["DELTA_LENGTH_BYTE_ARRAY", "PLAIN"]),
)
def test_what_pyarrow_writes_is_read(values, version, encoding):
    assert read(written(values, data_page_version=version, column_encoding={"text": encoding})) == values


def test_many_pages_and_groups_are_read():
    values = [random.Random(number).randbytes(number % 70).hex() for number in range(5000)]
    assert read(written(values, data_page_size=1000, row_group_size=700)) == values
    assert read(written(["x" * 3_000_000, ""])) == ["x" * 3_000_000, ""]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compression": "snappy"}, "text is compressed, has nulls or is no text"),
        ({"field": pa.field("text", pa.string())}, "text is compressed, has nulls or is no text"),
        ({"field": pa.field("other", pa.string(), nullable=False), "column_encoding": None}, "lacks values of text"),
        ({"use_dictionary": True, "column_encoding": None}, "a page has encoding 8, which is not read"),
        ({"column_encoding": {"text": "DELTA_BYTE_ARRAY"}}, "a page has encoding 7, which is not read"),
    ],
)
def test_what_the_logger_does_not_write_is_rejected(options, reason):
    field = options.get("field", TEXT)
    content = written(["a", "b"], field, **{name: value for name, value in options.items() if name != "field"})
    with pytest.raises(ValueError, match=reason):
        read(content)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"PAR1" + bytes(4) + b"PAR1", b"PAR1\xff\xff\xff\x7fPAR1"])
def test_what_is_no_such_file_is_rejected(content):
    with pytest.raises(ValueError):
        read(content)


def test_a_damaged_file_is_read_or_rejected_and_never_more():
    whole = written([f"value {number}" * (number % 9) for number in range(300)])
    chance = random.Random(0)
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(4, len(damaged) - 8)] = chance.randrange(256)
        with contextlib.suppress(ValueError):
            assert sum(map(len, read_columns(bytes(damaged), ["text"])["text"])) <= len(damaged)
