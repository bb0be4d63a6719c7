"""Reading the table of images."""

from kfp_vision.dataset.table import ImageRow, read_table, write_table


def test_some_rows_of_a_table_are_read(tmp_path):
    rows = [ImageRow(f"{number}.jpg", "cat", number, f"{number:032x}", f"{number}.jpg") for number in range(10)]
    write_table(tmp_path / "t.csv", rows)
    assert list(read_table(tmp_path / "t.csv", range(1, 9, 3))) == [rows[1], rows[4], rows[7]]
    assert list(read_table(tmp_path / "t.csv", range(0))) == []
