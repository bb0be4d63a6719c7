import json
import os
import subprocess
import sys
import zipfile

import pytest

from kfp_vision.core.advanced import Advanced
from kfp_vision.training import xla


@pytest.mark.parametrize(
    ("setting", "gpus", "steps", "batch", "tuned", "compiles"),
    [
        ("auto", 0, 10**6, 128, False, False),
        ("auto", 2, 10**6, 128, False, False),
        ("auto", 1, 6000, 16, False, False),  # the default command: 17 seconds to the first step instead of 78
        ("auto", 1, 1500, 64, False, False),
        ("auto", 1, 6000, 128, False, True),
        ("auto", 1, 1500, 128, False, False),
        ("auto", 1, 1500, 128, True, True),
        ("on", 0, 1, 1, False, True),
        ("on", 2, 1, 1, False, True),
        ("off", 1, 10**6, 128, True, False),
    ],
)
def test_compiles_where_it_saves_more_time_than_it_takes(setting, gpus, steps, batch, tuned, compiles):
    assert xla.uses_xla(setting, gpus, steps * batch, tuned=tuned) == compiles


@pytest.mark.parametrize(
    ("setting", "gpus", "compiles"), [("auto", 1, False), ("on", 1, True), ("on", 0, False), ("off", 1, False)]
)
def test_several_workers_compile_on_gpus_where_asked(setting, gpus, compiles):
    assert xla.uses_xla(setting, gpus, 10**6, workers=2) == compiles
    assert bool(xla.describe_first_step(setting, gpus, 10**6, workers=2)) == compiles


@pytest.mark.parametrize(("images", "setting"), [(6000 * 128, "off"), (6000 * 16, "on")])
def test_the_log_says_what_the_first_step_waits_for_and_how_to_have_it_otherwise(images, setting):
    line = xla.describe_first_step("auto", 1, images)
    assert ("the first step takes one to three minutes" in line) == (setting == "off")
    assert Advanced.parse(json.loads(line[line.index("{") : line.index("}") + 1])).xla == setting
    assert "half a minute or more" in xla.describe_first_step("auto", 1, 6000 * 128, tuned=True)


def test_the_log_says_nothing_of_xla_on_a_processor_or_where_it_is_off():
    assert not xla.describe_first_step("on", 0, 10**6)
    assert not xla.describe_first_step("off", 1, 10**6)
    assert not xla.describe_first_step("auto", 2, 10**6)


def kept_choices(tmp_path, machine: str, **environment: str) -> tuple[xla.KeptChoices, dict[str, str]]:
    variables = {"XDG_CACHE_HOME": str(tmp_path / machine), **environment}
    return xla.KeptChoices(str(tmp_path / "checkpoints"), variables), variables


def test_another_pod_starts_with_what_xla_has_chosen(tmp_path):
    first, variables = kept_choices(tmp_path, "first")
    assert not first.prepare()
    assert f"--xla_gpu_per_fusion_autotune_cache_dir={first.folder}" in variables["XLA_FLAGS"].split()
    assert first.folder.is_dir()  # XLA does not make it
    (first.folder / "fusion.textproto").write_text("triton { }")
    first.keep()
    second, _ = kept_choices(tmp_path, "second")
    assert second.prepare()
    assert (second.folder / "fusion.textproto").read_text() == "triton { }"
    written = (tmp_path / "checkpoints" / xla.CHOICES_FILE).stat().st_mtime_ns
    second.keep()  # nothing is new
    assert (tmp_path / "checkpoints" / xla.CHOICES_FILE).stat().st_mtime_ns == written


def test_damaged_choices_are_left_alone(tmp_path, capsys):
    first, _ = kept_choices(tmp_path, "first")
    first.prepare()
    (first.folder / "fusion.textproto").write_text("triton { }" * 100)
    first.keep()
    file = tmp_path / "checkpoints" / xla.CHOICES_FILE
    packed = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        content = archive.infolist()[0].header_offset + 30 + len("fusion.textproto")
    packed[content + 3] ^= 0xFF
    file.write_bytes(packed)
    second, _ = kept_choices(tmp_path, "second")
    assert not second.prepare()
    assert f"skips the damaged {xla.CHOICES_FILE}" in capsys.readouterr().out


def test_flags_of_the_user_stay(tmp_path):
    own = f"--xla_gpu_enable_triton_gemm=true --xla_gpu_per_fusion_autotune_cache_dir={tmp_path / 'own'}"
    choices, variables = kept_choices(tmp_path, "first", XLA_FLAGS=own)
    choices.prepare()
    assert variables["XLA_FLAGS"] == own
    assert choices.folder == tmp_path / "own"


def test_a_cache_that_cannot_be_written_is_a_line_in_the_log(tmp_path, capsys):
    (tmp_path / "first").write_text("a file")
    choices, variables = kept_choices(tmp_path, "first")
    assert not choices.prepare()
    choices.keep()
    assert variables["XLA_FLAGS"] == "--xla_gpu_enable_triton_gemm=false"
    assert "XLA keeps nothing for the next run" in capsys.readouterr().out


@pytest.mark.slow
def test_the_installed_tensorflow_knows_the_flags(tmp_path):
    """XLA ends the process for a flag that it does not know."""
    choices, variables = kept_choices(tmp_path, "first")
    choices.prepare()
    program = "import tensorflow as tf; print(tf.function(lambda: tf.constant(2.0) + 3, jit_compile=True)().numpy())"
    command = [sys.executable, "-c", program]
    printed = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["5.0"]
