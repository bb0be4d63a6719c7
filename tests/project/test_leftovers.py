"""A test that leaves a process or a thread behind fails, and the leftover is ended before the next test."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import sigkill

TESTS = Path(__file__).resolve().parents[1]
PRELUDE = """
import os, pathlib, subprocess, sys, threading, time
import pytest
from support import leftovers

leftovers.SECONDS_TO_END = 0.5
SLEEP = [sys.executable, "-c", "import time; time.sleep(1000)"]
noted = pathlib.Path(__file__).with_name("noted")

def sleeping():
    process = subprocess.Popen(SLEEP)
    noted.write_text(str(process.pid))
    return process

"""
NEXT_TEST = """
def test_next():
    pass
"""
# Kind of leftover: the tests that leave it, and the expected message with the test's name.
LEFTOVERS = {
    "a running process": (
        "def test_one():\n    sleeping()\n",
        r"::test_one has left behind: process \d+ \(.*time\.sleep\(1000\), of PYTEST_CURRENT_TEST=.*::test_one \(call\)\)",
    ),
    "a process that was not reaped": (
        "def test_one():\n    sleeping().kill()\n",
        r"::test_one has left behind: process \d+ \(ended, and not waited for\)",
    ),
    "a process that outlives its fixture": (
        "@pytest.fixture\ndef server():\n    yield sleeping()\n\ndef test_one(server):\n    pass\n",
        r"::test_one has left behind: process \d+ \(.*of PYTEST_CURRENT_TEST=.*::test_one \(setup\)\)",
    ),
    "a process that outlives its module's fixture": (
        "@pytest.fixture(scope='module')\ndef server():\n    yield sleeping()\n\ndef test_one(server):\n    pass\n",
        r"test_it\.py has left behind: process \d+ \(.*of PYTEST_CURRENT_TEST=.*::test_one \(setup\)\)",
    ),
    "an orphan": (
        "def test_one():\n"
        '    program = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:], stdout=-3, stderr=-3).pid)"\n'
        '    done = subprocess.run([sys.executable, "-c", program, *SLEEP], capture_output=True, text=True)\n'
        "    noted.write_text(done.stdout)\n",
        r"test_it\.py has left behind: process \d+ \(.*of PYTEST_CURRENT_TEST=.*::test_one \(call\)\)",
    ),
    "a thread": (
        "def test_one():\n    threading.Thread(target=time.sleep, args=[4], name='mine').start()\n",
        r"::test_one has left behind: the thread mine\n",
    ),
    "a daemon thread": (
        "def test_one():\n    threading.Thread(target=time.sleep, args=[1000], name='mine', daemon=True).start()\n",
        r"::test_one has left behind: the thread mine\n",
    ),
    "a pool": (
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1, 'mine')\n"
        "def test_one():\n    pool.submit(print).result()\n",
        r"test_it\.py has left behind: the thread mine_0, of test_it\.py::test_one\n",
    ),
}
CLEAN = {
    "a module's server": (
        "@pytest.fixture(scope='module')\ndef server():\n"
        "    process = sleeping()\n    yield process\n    process.kill()\n    process.wait()\n\n"
        "def test_one(server):\n    pass\n"
    ),
    "a thread that ends soon": (
        "def test_one():\n    leftovers.SECONDS_TO_END = 300\n    threading.Thread(target=time.sleep, args=[1]).start()\n"
    ),
    "a pool without references": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def test_one():\n    pool = [ThreadPoolExecutor(1)]\n    pool.append(pool)\n    pool[0].submit(print).result()\n"
    ),
    "a pool of a module's fixture, also of the last test": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "@pytest.fixture(scope='module', autouse=True)\ndef pool():\n    return ThreadPoolExecutor(1)\n\n"
        "def test_one(pool):\n    pool.submit(print).result()\n"
    ),
}


CLEAN["a daemon thread of a third-party package"] = (
    "def test_one():\n"
    "    code = compile('def looking(): time.sleep(1000)', '/usr/lib/site-packages/client.py', 'exec')\n"
    "    exec(code, globals())\n"
    "    threading.Thread(target=looking, daemon=True).start()\n"
)


def run_pytest(folder: Path, tests: str) -> str:
    """Returns the output of pytest for a file of tests, run in its own process with only the plugin."""
    (folder / "test_it.py").write_text(PRELUDE + tests + NEXT_TEST)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "support.leftovers",
        "-p",
        "no:cacheprovider",
        "-rA",
        "--color=no",
        "test_it.py",
    ]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("kind", LEFTOVERS)
def test_reports_and_ends_a_leftover_with_the_test_that_left_it(tmp_path, kind):
    tests, expected = LEFTOVERS[kind]
    printed = run_pytest(tmp_path, tests)
    assert re.search(expected, printed), printed
    assert "PASSED test_it.py::test_next" in printed and " 1 error in" in printed
    if (tmp_path / "noted").exists():
        assert not sigkill.lives(int((tmp_path / "noted").read_text()))


@pytest.mark.parametrize("kind", CLEAN)
def test_accepts_processes_and_threads_that_end_in_time(tmp_path, kind):
    assert "2 passed in" in run_pytest(tmp_path, CLEAN[kind])


def test_a_failing_test_with_a_leftover_does_not_affect_the_next_test(tmp_path):
    printed = run_pytest(tmp_path, "def test_one():\n    server = sleeping()\n    assert not server\n")
    assert "1 failed, 1 passed, 1 error in" in printed
    assert "FAILED test_it.py::test_one" in printed and "ERROR test_it.py::test_one" in printed
