"""Detects bfloat16 support, CPU cores and memory, within the limits of a container."""

import contextlib
import math
import os
from pathlib import Path

from kfp_vision.core.processor import cpu_flags

FAST_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
FAST_BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA Ampere, the first with bfloat16 in its matrix units
MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # cgroups 2 and 1
CORE_LIMITS = (
    (Path("/sys/fs/cgroup/cpu.max"),),  # quota (or `max`) and period, in microseconds
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")),
)


def precision() -> str:
    """Returns `bfloat16` if the hardware multiplies matrices in it, else `float32`: emulated bfloat16 is many times slower."""
    from kfp_vision.core.frameworks import tf

    is_fast = is_gpu_fast_at_bfloat16() if tf.config.get_visible_devices("GPU") else is_fast_at_bfloat16()
    return "bfloat16" if is_fast else "float32"


def is_gpu_fast_at_bfloat16() -> bool:
    """Returns whether the first GPU that TensorFlow sees multiplies matrices in bfloat16; false if it sees none."""
    from kfp_vision.core.frameworks import tf

    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return False
    capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
    return tuple(capability) >= FAST_BFLOAT16_CAPABILITY


def share_gpus() -> None:
    """Lets TensorFlow take the memory of GPUs as it needs it, so that a server and a training fit on one.

    By default it takes all at once. It must be told before it uses them; later, nothing changes.
    """
    from kfp_vision.core.frameworks import tf

    for gpu in tf.config.get_visible_devices("GPU"):
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)


def cores(limits: tuple[tuple[Path, ...], ...] = CORE_LIMITS) -> int:
    """Returns how many cores this process may use: the machine's, or the container's quota rounded up.

    A pod's CPU quota is spread over all cores of its node; one thread per core would exhaust it early in each period.

    Args:
        limits: the files of the cgroup CPU limit, versions 2 and 1.
    """
    available = [os.cpu_count() or 1]
    for files in limits:
        with contextlib.suppress(OSError, ValueError):
            quota, period = (int(word) for file in files for word in file.read_text().split())
            if quota > 0:
                available.append(math.ceil(quota / period))
    return min(available)


def memory(limits: tuple[Path, ...] = MEMORY_LIMITS) -> int:
    """Returns how many bytes of memory this process may use: the machine's, or the container's limit.

    Args:
        limits: the files of the cgroup memory limit, versions 2 and 1.
    """
    available = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in limits:
        with contextlib.suppress(OSError, ValueError):  # no such file, or `max`
            available.append(int(file.read_text()))
    return min(available)


def is_fast_at_bfloat16() -> bool:
    """Returns whether the processor multiplies matrices in bfloat16."""
    return bool(cpu_flags() & FAST_BFLOAT16_FLAGS)


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Returns whether an NVIDIA GPU is at hand, without a framework to ask.

    Args:
        devices: the folder of device files.
    """
    return count_gpus(devices) > 0


def count_gpus(devices: Path = Path("/dev")) -> int:
    """Returns the number of NVIDIA GPUs at hand, without a framework to ask.

    Args:
        devices: the folder of device files.
    """
    return len(list(devices.glob("nvidia[0-9]*")))
