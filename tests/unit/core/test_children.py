"""Runs a module in a child process, and says in one line what went wrong there."""

import signal
import subprocess
import sys
import tempfile

import pytest

from kfp_vision.core import children

NOISY = """
import os, signal, sys, time
print("I0000 not the result")
print("WARNING: noise", file=sys.stderr)
what = sys.argv[1]
if what == "error":
    print("error: the rule must hold; got 3. Mend it.\\nmore noise", file=sys.stderr)
    sys.exit(1)
if what == "raise": raise ValueError("no kernel for LRN")
if what == "sleep": time.sleep(600)
if what == "signal": os.kill(os.getpid(), int(sys.argv[2]))
if what == "environment": print(os.environ["TF_CPP_MIN_LOG_LEVEL"], sys.argv[-2:] == ["--parent", str(os.getppid())])
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Returns the name of a module that a child can run."""
    (tmp_path / "noisy_converter.py").write_text(NOISY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "noisy_converter"


def test_the_last_line_is_the_result_and_the_child_knows_its_parent(module):
    assert children.run_child(module, ["environment"], 600) == "3 True"


@pytest.mark.parametrize(
    ("arguments", "seconds", "line"),
    [
        (["error"], 600, "the rule must hold; got 3. Mend it."),
        (["raise"], 600, "ValueError: no kernel for LRN"),
        (["sleep"], 0.5, "took more than 0.5 s"),
        (["signal", str(int(signal.SIGKILL))], 600, "was killed, for lack of memory perhaps"),
        (["signal", str(int(signal.SIGSEGV))], 600, "crashed with SIGSEGV"),
    ],
)
def test_a_failure_is_one_line(module, arguments, seconds, line):
    with pytest.raises(children.ChildFailed) as failure:
        children.run_child(module, arguments, seconds)
    assert str(failure.value) == line


def test_a_module_that_is_missing_is_one_line():
    with pytest.raises(children.ChildFailed, match=f"^{sys.executable}: No module named no_such_converter$"):
        children.run_child("no_such_converter", [], 600)


def test_a_process_that_says_nothing_has_its_exit_code_told():
    assert children.describe_failure(3, []) == "ended with exit code 3"


def test_reading_what_a_child_prints_does_not_make_it_write_over_its_lines():
    program = "for number in range(5_000): print(number, 'open http://127.0.0.1:8080', flush=True)"
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=output)
        while process.poll() is None:
            children.read_lines(output)
        numbers = [int(line.split()[0]) for line in children.read_lines(output)]
    assert numbers == list(range(numbers[0], 5_000))  # the end of them
    assert len(numbers) > 1_000
