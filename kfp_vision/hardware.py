"""What this machine computes fast, and how many cores and how much memory it has."""

import contextlib
import math
import os
from pathlib import Path

FAST_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
FAST_BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA Ampere, the first with bfloat16 in its matrix units
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # cgroups 2 and 1
CORE_LIMITS = (
    (Path("/sys/fs/cgroup/cpu.max"),),  # microseconds, or a word where there is no limit, in each so many microseconds
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
)


def precision() -> str:
    """`bfloat16` where the hardware multiplies matrices in it, else `float32`: emulated, it is many times slower."""
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "bfloat16" if tuple(capability) >= FAST_BFLOAT16_CAPABILITY else "float32"
    return "bfloat16" if cpu_flags() & FAST_BFLOAT16_FLAGS else "float32"


def cores(limits: tuple[tuple[Path, ...], ...] = CORE_LIMITS) -> int:
    """Cores that this process may use: the machine's, or what a container is allowed of them, a part of one as a whole one.

    A pod is allowed time on all cores of its node: as many threads as those are would have used it up early in each period.
    """
    allowed = [os.cpu_count() or 1]
    for files in limits:
        with contextlib.suppress(OSError, ValueError):
            quota, period = (int(word) for file in files for word in file.read_text().split())
            if quota > 0:
                allowed.append(math.ceil(quota / period))
    return min(allowed)


def memory(limits: tuple[Path, ...] = MEMORY_LIMITS) -> int:
    """Bytes of memory that this process may use: the machine's, or what a container is allowed of them."""
    allowed = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in limits:
        with contextlib.suppress(OSError, ValueError):  # no such file, or a word where there is no limit
            allowed.append(int(file.read_text()))
    return min(allowed)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Features of the processor as Linux names them; empty where it does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
