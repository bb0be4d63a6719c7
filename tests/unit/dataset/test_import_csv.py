"""The delimiter and the header of CSV files, of which nothing says what they are."""

import csv

import pytest

from kfp_vision.dataset import import_csv
from kfp_vision.dataset.import_lines import Line


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a.jpg,cat;dog\nb.jpg,cat\n", ","),
        ("a.jpg;cat, big\nb.jpg;cat, small\n", ";"),
        ("a b.jpg\tcat, big\n", "\t"),
        ("id|breed\n000bec|corgi\n", "|"),
        ("000bec;corgi\n", ";"),
        ("a.jpg cat\nb.jpg dog\n", " "),
        ("my a.jpg,cat\n", ","),
        ("uri\na.jpg\n", ","),
        ("", ","),
    ],
)
def test_the_delimiter_is_found(text, delimiter):
    assert import_csv.find_delimiter(text) == delimiter


@pytest.mark.parametrize(
    ("first", "second", "is_header"),
    [
        (["id", "breed"], ["000bec", "corgi"], True),
        (["foto", "soort"], ["a.jpg", "cat"], True),
        (["Filename", "Width", "Roi.X1", "ClassId"], ["a.ppm", "30", "5", "1"], True),
        (["", "filename", "animal"], ["0", "a.jpg", "cat"], True),
        (["filename"], None, True),
        (["a.jpg", "cat"], ["b.jpg", "cat"], False),
        (["a.jpg", "image"], ["b.jpg", "image"], False),
        (["cats/000bec", "tag"], ["cats/000bed", "tag"], False),
        (["000bec", "corgi"], ["000bed", "corgi"], False),
        (["", "cat"], ["b.jpg", "cat"], False),
        (["UNASSIGNED", "gs://bucket/a.jpg"], None, False),
    ],
)
def test_a_header_names_no_file(first, second, is_header):
    assert import_csv.is_header(first, second) is is_header


def read_lines(text):
    parsed = import_csv.parse_csv(text, lambda word: word.lower() in ("", "test", "unassigned"))
    return parsed.lines, parsed.wrong


def test_names_with_spaces_are_whole_where_a_space_is_the_delimiter():
    lines, wrong = read_lines("my cats/a 1.jpg 0\nmy cats/b.JPG 1 test\nc.png 1\nd e.jpg\n000bec 1\n")
    assert wrong == []
    assert [(line.name, line.label, line.ml_use) for line in lines] == [
        ("my cats/a 1.jpg", "0", ""),
        ("my cats/b.JPG", "1", "test"),
        ("c.png", "1", ""),
        ("d", "e.jpg", ""),
        ("000bec", "1", ""),
    ]


@pytest.mark.parametrize("text", ["cat,a.jpg\ndog,dogs/b.png\n", "1 a.jpg\n2 b.jpg\n2 c.jpg\n"])
def test_labels_may_come_first_in_all_lines_which_a_note_says(text):
    parsed = import_csv.parse_csv(text, lambda word: word == "test")
    expected = [tuple(line.replace(",", " ").split()) for line in text.splitlines()]
    assert [(line.label, line.name) for line in parsed.lines] == expected
    assert parsed.notes == ["Columns of the import file: the label from the first, the image from the second."]


def test_numbers_of_the_lines_are_no_labels():
    parsed = import_csv.parse_csv("1 kinds/a.jpg\n2 kinds/b.jpg\n3 kinds/c.jpg\n", lambda word: word == "test")
    assert [(line.name, line.label) for line in parsed.lines] == [("kinds/a.jpg", ""), ("kinds/b.jpg", ""), ("kinds/c.jpg", "")]
    assert parsed.notes == ["The first column of the import file numbers its lines, and is ignored."]


@pytest.mark.parametrize("text", ["a.jpg,cat\ncat,b.jpg\n", "test,a.jpg\ntest,b.jpg\n", "000bec,v1.0\n000bed,v1.2\n"])
def test_labels_come_first_only_if_they_do_in_all_lines(text):
    assert import_csv.parse_csv(text, lambda word: word == "test").notes == []


def test_true_and_false_are_taken_as_1_and_0_in_columns_of_classes():
    lines, wrong = read_lines("file,cat,dog\na.jpg,True,False\nb.jpg,FALSE,true\n")
    assert ([(line.name, line.label) for line in lines], wrong) == ([("a.jpg", "cat"), ("b.jpg", "dog")], [])


def test_lines_without_a_label_are_read():
    lines, wrong = read_lines("a.jpg,cat\nb.jpg\nc.jpg,\nUNASSIGNED,d.jpg\n,e.jpg\ntest,f.jpg,\n")
    assert wrong == []
    assert lines == [
        Line(1, "a.jpg", "cat"),
        Line(2, "b.jpg"),
        Line(3, "c.jpg"),
        Line(4, "d.jpg", "", "UNASSIGNED"),
        Line(5, "e.jpg"),
        Line(6, "f.jpg", "", "test"),
    ]


def test_the_cells_of_a_short_line_are_empty_and_those_beyond_the_header_wrong():
    lines, wrong = read_lines("image,label,split\na.jpg,cat\nb.jpg,cat,test,,\nc.jpg,cat,test,more\nd.jpg\n")
    assert lines == [Line(2, "a.jpg", "cat"), Line(3, "b.jpg", "cat", "test"), Line(5, "d.jpg")]
    assert wrong == [(4, "4 fields under a header of 3")]


def test_all_wrong_lines_are_found_up_to_an_open_quote():
    lines, wrong = read_lines('a.jpg,cat\nb,c,d,e\n5\n"f.jpg,dog\n')
    assert lines == [Line(1, "a.jpg", "cat")]
    assert wrong == [(2, "4 fields"), (3, "only one field, 5"), (4, "unexpected end of data")]


def test_spaces_around_quotes_are_dropped():
    lines, wrong = read_lines('"a, b.jpg" , "cat"\n"c.jpg", "a ""dog""" \n')
    assert wrong == []
    assert lines == [Line(1, "a, b.jpg", "cat"), Line(2, "c.jpg", 'a "dog"')]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_on_any_system(end):
    assert read_lines(f"a.jpg;cat{end}b.jpg;dog{end}") == ([Line(1, "a.jpg", "cat"), Line(2, "b.jpg", "dog")], [])


def test_the_delimiter_that_excel_writes_is_followed():
    assert read_lines("sep=|\r\na, b.jpg|cat\r\n") == ([Line(2, "a, b.jpg", "cat")], [])


def test_a_column_for_each_class_must_hold_a_single_1():
    lines, wrong = read_lines("image,cat,dog\na.jpg,1,0\nb.jpg,0.0,1.0\nc.jpg,1,1\nd.jpg,0,0\ne.jpg,,\n")
    assert lines == [Line(2, "a.jpg", "cat"), Line(3, "b.jpg", "dog"), Line(6, "e.jpg")]
    assert wrong == [(4, "several classes with a 1 (cat, dog)"), (5, "no class with a 1")]


def test_numbers_that_pandas_wrote_as_floats_are_whole():
    lines, _ = read_lines(",filename,label\n0,a.jpg,3.0\n1,b.jpg,\n2,c.jpg,10.0\n")
    assert [line.label for line in lines] == ["3", "", "10"]
    lines, _ = read_lines("filename,label\na.jpg,3.0\nb.jpg,3.1\n")
    assert [line.label for line in lines] == ["3.0", "3.1"]


def test_a_cell_may_be_longer_than_the_limit_of_csv():
    csv.field_size_limit(131_072)  # Python's
    assert list(import_csv.read_rows(f"a.jpg,{'x' * 200_000}\n")) == [(1, ["a.jpg", "x" * 200_000])]
