"""What a process writes to stderr while it loads TensorFlow, or another native library."""

import os
import subprocess
import sys

PROGRAM = """
import os, sys
from kfp_vision.core import native_messages
os.write(2, b"before\\n")
try:
    with native_messages.dropped():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
        os.write(2, b"I0000 00:00:1796087806.219508    9124 port.cc:153] oneDNN custom operations are on.\\n")
        print("of Python", file=sys.stderr)
        os.write(2, b"of a library\\n")
        raise ImportError("no such library")
except ImportError as error:
    print(error, file=sys.stderr)
"""


def stderr_of(program: str) -> str:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE, text=True, check=True)
    return done.stderr


def test_all_but_the_noise_is_written():
    assert stderr_of(PROGRAM).splitlines() == ["before", "of Python", "of a library", "no such library"]


def test_a_closed_stderr_is_no_failure(tmp_path):
    program = "import os; os.close(2)\nfrom kfp_vision.core import native_messages\nwith native_messages.dropped(): pass\n"
    assert stderr_of(f"{program}open({str(tmp_path / 'done')!r}, 'w')") == "" and (tmp_path / "done").exists()


def test_tensorflow_is_imported_without_a_word():
    assert stderr_of("import kfp_vision.core.frameworks") == ""


def test_what_tensorflow_says_before_it_ends_a_process_is_not_held_back():
    """Its import does so on a processor without AVX; here it only says less."""
    program = (
        "from kfp_vision.core import processor\nprocessor.cpu_flags = lambda: {'sse4_2'}\nimport kfp_vision.core.frameworks\n"
    )
    assert "port.cc" in stderr_of(program)
