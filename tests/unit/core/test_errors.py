"""Errors for users: one line, exit code 1, and no credentials."""

import pickle
import subprocess
import sys

import pytest

from kfp_vision.core.errors import (
    AccessError,
    DamagedError,
    FieldError,
    InputError,
    NotFoundError,
    UnreachableError,
    format_value,
    redact,
)


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_an_error_ends_a_process_with_one_line_and_exit_code_1():
    process = run_program(
        "from kfp_vision.core.errors import InputError\nraise InputError('a must be b', 'c\\nd', 'Set it to b.')"
    )
    assert process.returncode == 1
    assert process.stderr == "error: a must be b; got c d. Set it to b.\n"
    assert process.stdout == ""


def test_an_error_line_of_another_process_is_passed_on_unchanged():
    process = run_program(
        "from kfp_vision.core.errors import InputError\nraise InputError.from_line('error: a must be b; got c. Mend it.')"
    )
    assert (process.returncode, process.stderr) == (1, "error: a must be b; got c. Mend it.\n")


@pytest.mark.parametrize("kind", [FieldError, NotFoundError, AccessError, UnreachableError, DamagedError])
def test_each_kind_of_error_ends_a_process_and_can_be_pickled(kind):
    error = pickle.loads(pickle.dumps(kind("a must be b", "c", "Set it to b.")))
    assert type(error) is kind and str(error) == "error: a must be b; got c. Set it to b."
    process = run_program(
        f"from kfp_vision.core import errors\nraise errors.{kind.__name__}('a must be b', 'c', 'Set it to b.')"
    )
    assert (process.returncode, process.stderr, process.stdout) == (1, f"{error}\n", "")


def test_an_error_is_not_caught_by_except_exception():
    with pytest.raises(InputError):
        try:
            raise InputError("a must be b", "c", "Set it to b.")
        except Exception:
            pytest.fail("it was taken for an ordinary exception")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", '""'),
        (" \n ", '""'),
        ("a\n\tb", "a b"),
        (0.5, "0.5"),
        (None, "None"),
        (["a", 1], "['a', 1]"),
        ("x" * 700, "x" * 600 + "..."),
    ],
)
def test_a_value_is_formatted_on_one_line_and_truncated(value, text):
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://host/x?X-Amz-Signature=a/b+c=", "https://host/x?..."),
        ("404 at HTTPS://host/x?a=1, waited for 5 s", "404 at HTTPS://host/x?..., waited for 5 s"),
        ("['https://a/x?sig=1', 'https://b/y?sig=2']", "['https://a/x?...', 'https://b/y?...']"),
        ("(https://host/x.zip?sig=1): no", "(https://host/x.zip?...): no"),
        ("https://host/x.tgz?sig=1#of roses/1.jpg, line 3", "https://host/x.tgz?...#of roses/1.jpg, line 3"),
        ("https://host/x.tgz#a?b.jpg", "https://host/x.tgz#a?b.jpg"),
        ("https://ada:pass@word@host/x and http://bo@host", "https://host/x and http://host"),
        ("https://host/a@b.jpg", "https://host/a@b.jpg"),
        ("Max retries exceeded with url: /x?a=1 (Caused by it)", "Max retries exceeded with url: /x?... (Caused by it)"),
        ("https://host/x?name=a b&X-Amz-Credential=me/1", "https://host/x?... b&X-Amz-Credential=..."),
        ("/x?X-Goog-Signature=1f&b=2", "/x?X-Goog-Signature=...&b=2"),
        ("Is it https://host/x?", "Is it https://host/x?"),
        ("s3://bucket/x?endpoint=https://minio:9000&region=eu", "s3://bucket/x?endpoint=https://minio:9000&region=eu"),
        ("s3://bucket/x?endpoint=https://ada:password@minio", "s3://bucket/x?endpoint=https://minio"),
        ("/data/what?.jpg", "/data/what?.jpg"),
    ],
)
def test_redacts_signatures_and_credentials_of_addresses(text, redacted):
    assert redact(text) == redacted
    assert redact(redacted) == redacted


def test_no_part_of_an_error_contains_a_signature():
    address = f"https://host/{'x' * 580}?sig=a-secret"
    lines = [
        str(InputError(address, "c", "Mend it.")),
        str(InputError("a must be b", address, "Mend it.")),
        str(InputError("a must be b", [address], "Mend it.")),
        str(InputError("a must be b", "c", f"See {address}.")),
        str(InputError.from_line(f"error: OSError: {address}")),
    ]
    assert [line for line in lines if "a-secret" in line] == []


def test_redaction_takes_linear_time():
    assert redact("https://" * 100_000 + "?sig=1").endswith("https://?...")
