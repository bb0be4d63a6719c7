"""What the machine is found to compute fast."""

import os

import tensorflow as tf

from kfp_vision.core import hardware


def test_flags_are_read_as_linux_writes_them(tmp_path):
    cores = ["processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 amx_tile\n", "processor\t: 1\nflags\t\t: fpu\n"]
    (tmp_path / "cpuinfo").write_text("\n".join(cores))
    assert hardware.cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "amx_bf16", "amx_tile"}


def test_a_machine_that_says_nothing_has_no_flags(tmp_path):
    assert hardware.cpu_flags(tmp_path / "cpuinfo") == set()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert hardware.cpu_flags(tmp_path / "cpuinfo") == set()


def test_without_a_gpu_bfloat16_is_chosen_by_the_flags():
    if tf.config.get_visible_devices("GPU"):
        assert hardware.precision() in ("bfloat16", "float32")
    else:
        fast = bool(hardware.cpu_flags() & {"amx_bf16", "avx512_bf16"})
        assert hardware.precision() == ("bfloat16" if fast else "float32")


def test_cores_are_what_a_container_is_allowed(tmp_path):
    two, quota, period = tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us", tmp_path / "cpu.cfs_period_us"
    whole, limits = os.cpu_count(), ((two,), (quota, period))
    assert hardware.cores(limits) == whole
    period.write_text("100000\n")
    for none_of_two, none_of_one in (("max 100000\n", "-1\n"), (f"{(whole + 1) * 50000} 50000\n", f"{whole * 100000 + 1}\n")):
        two.write_text(none_of_two)
        quota.write_text(none_of_one)
        assert hardware.cores(limits) == whole
    two.write_text("25000 100000\n")
    assert hardware.cores(limits) == 1
    two.unlink()
    quota.write_text("50000\n")
    assert hardware.cores(limits) == 1


def test_memory_is_what_a_container_is_allowed(tmp_path):
    two, one = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    whole = hardware.memory((two, one))
    assert whole > 1 << 28
    two.write_text("max\n")
    assert hardware.memory((two, one)) == whole
    two.write_text("134217728\n")
    assert hardware.memory((two, one)) == 1 << 27
    two.unlink()
    one.write_text(f"{1 << 26}\n")
    assert hardware.memory((two, one)) == 1 << 26
    one.write_text(f"{(1 << 63) - 4096}\n")
    assert hardware.memory((two, one)) == whole
