"""Exclusion lists, as the audit and spreadsheets write them; invalid lines are named."""

import pytest

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import exclusions


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


AUDIT = "path,leave_out,finding,label,instead,other,score\n"


@pytest.mark.parametrize(
    ("content", "paths"),
    [
        ("path\ndaisy/2.jpg\ndaisy/1.jpg\ndaisy/2.jpg\n", ["daisy/2.jpg", "daisy/1.jpg"]),
        (AUDIT + 'daisy/1.jpg,yes,label,daisy,tulip,"",0.9\ntulip/2.jpg,,copy,tulip,,tulip/1.jpg,1\n', ["daisy/1.jpg"]),
        ("path,leave_out\na,yes\nb,TRUE\nc,1\nd, X \ne,no\nf,False\ng,0\nh,\n,no\n", ["a", "b", "c", "d"]),
        ("Leave_Out,PATH\nyes,daisy/1.jpg\n", ["daisy/1.jpg"]),
        (b"\xef\xbb\xbfpath;leave_out\r\n\r\n\xc3\xa9t\xc3\xa9/1, 2.jpg;yes\r\n;\r\n", ["été/1, 2.jpg"]),
        ('path\n"a, ""b"".jpg"\ns3://bucket/photos.tgz#daisy/1.jpg', ['a, "b".jpg', "s3://bucket/photos.tgz#daisy/1.jpg"]),
        ("path,leave_out\ndaisy/1.jpg,no\n", []),
        ("path\n", []),
    ],
)
def test_exclusions_are_read(tmp_path, content, paths):
    assert exclusions.read_exclusions(written(tmp_path, "list", content)) == paths


NAMED = "every line of leave_out_uri must name an image"
COLUMN = "leave_out_uri must have a column path"
WRITE = "Write path,leave_out in the first line and lines such as daisy/1.jpg,yes below it, in UTF-8."


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", f"{COLUMN}; got nothing in {{uri}}, line 1. {WRITE}"),
        ("daisy/1.jpg\ndaisy/2.jpg\n", f"{COLUMN}; got daisy/1.jpg in {{uri}}, line 1. {WRITE}"),
        ("uri,label\n1.jpg,daisy\n", f"{COLUMN}; got uri, label in {{uri}}, line 1. {WRITE}"),
        ("path\ndaisy/1,2.jpg\n", f"{NAMED}; got 2 fields under a header of 1 in {{uri}}, line 2. {WRITE}"),
        ("path,leave_out\n\ndaisy/1.jpg\n", f"{NAMED}; got 1 fields under a header of 2 in {{uri}}, line 3. {WRITE}"),
        ("path,leave_out\n,yes\n", f"{NAMED}; got no path in {{uri}}, line 2. {WRITE}"),
        ('path\n1.jpg\n"2.jpg\n', f"{NAMED}; got unexpected end of data in {{uri}}, line 3. {WRITE}"),
        (b"path\nL\xf6wenzahn/1.jpg\n", f"{NAMED}; got bytes that are not UTF-8 in {{uri}}, line 2. {WRITE}"),
        (
            "path,leave_out\n1.jpg,yes\n2.jpg,maybe\n",
            "column leave_out of leave_out_uri must be yes or no; got maybe in {uri}, line 3. "
            "Write yes to exclude the image, no or nothing to keep it.",
        ),
    ],
)
def test_an_invalid_exclusion_list_is_rejected(tmp_path, content, line):
    uri = written(tmp_path, "list.csv", content)
    with pytest.raises(InputError) as refusal:
        exclusions.read_exclusions(uri)
    assert str(refusal.value) == f"error: {line.format(uri=uri)}"


def test_a_folder_is_rejected_as_exclusion_list(tmp_path):
    with pytest.raises(InputError) as refusal:
        exclusions.read_exclusions(str(tmp_path))
    rule = "leave_out_uri must be a readable file"
    assert str(refusal.value) == f"error: {rule}; got {tmp_path} (Is a directory). Give a CSV with a column path."
