"""Detection of the hardware: CPU flags, precision, and the cores and memory of a container."""

import os

import tensorflow as tf

from kfp_vision.core import hardware, processor


def test_cpu_flags_are_read_from_cpuinfo(tmp_path):
    cores = ["processor\t: 0\nflags\t\t: fpu avx2 amx_bf16 amx_tile\n", "processor\t: 1\nflags\t\t: fpu\n"]
    (tmp_path / "cpuinfo").write_text("\n".join(cores))
    assert processor.cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2", "amx_bf16", "amx_tile"}


def test_a_machine_without_cpuinfo_flags_has_no_flags(tmp_path):
    assert processor.cpu_flags(tmp_path / "cpuinfo") == set()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert processor.cpu_flags(tmp_path / "cpuinfo") == set()


def test_without_a_gpu_the_precision_depends_on_the_cpu_flags():
    if tf.config.get_visible_devices("GPU"):
        assert hardware.precision() in ("bfloat16", "float32")
    else:
        fast = bool(processor.cpu_flags() & {"amx_bf16", "avx512_bf16"})
        assert hardware.precision() == ("bfloat16" if fast else "float32")


def test_cores_respect_the_cgroup_limit(tmp_path):
    v2, quota, period = tmp_path / "cpu.max", tmp_path / "cpu.cfs_quota_us", tmp_path / "cpu.cfs_period_us"
    unlimited, limits = os.cpu_count(), ((v2,), (quota, period))
    assert hardware.cores(limits) == unlimited
    period.write_text("100000\n")
    for no_v2_limit, no_v1_limit in (
        ("max 100000\n", "-1\n"),
        (f"{(unlimited + 1) * 50000} 50000\n", f"{unlimited * 100000 + 1}\n"),
    ):
        v2.write_text(no_v2_limit)
        quota.write_text(no_v1_limit)
        assert hardware.cores(limits) == unlimited
    v2.write_text("25000 100000\n")
    assert hardware.cores(limits) == 1
    v2.unlink()
    quota.write_text("50000\n")
    assert hardware.cores(limits) == 1


def test_memory_respects_the_cgroup_limit(tmp_path):
    v2, v1 = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    unlimited = hardware.memory((v2, v1))
    assert unlimited > 1 << 28
    v2.write_text("max\n")
    assert hardware.memory((v2, v1)) == unlimited
    v2.write_text("134217728\n")
    assert hardware.memory((v2, v1)) == 1 << 27
    v2.unlink()
    v1.write_text(f"{1 << 26}\n")
    assert hardware.memory((v2, v1)) == 1 << 26
    v1.write_text(f"{(1 << 63) - 4096}\n")
    assert hardware.memory((v2, v1)) == unlimited
