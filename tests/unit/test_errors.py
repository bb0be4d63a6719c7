"""An error for a person ends a process with one line and exit code 1."""

import subprocess
import sys

import pytest

from kfp_vision.errors import InputError, shown


def ended(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_a_process_ends_with_the_line_alone_and_exit_code_1():
    done = ended("from kfp_vision.errors import InputError\nraise InputError('a must be b', 'c\\nd', 'Set it to b.')")
    assert done.returncode == 1
    assert done.stderr == "error: a must be b; got c d. Set it to b.\n"
    assert done.stdout == ""


def test_a_line_passed_on_from_another_process_is_the_same_line():
    done = ended("from kfp_vision.errors import InputError\nraise InputError.from_line('error: a must be b; got c. Mend it.')")
    assert (done.returncode, done.stderr) == (1, "error: a must be b; got c. Mend it.\n")


def test_an_error_is_not_swallowed_with_ordinary_exceptions():
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
def test_a_value_is_shown_on_one_line_and_not_endless(value, text):
    assert shown(value) == text
