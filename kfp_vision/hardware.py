"""What this machine computes fast."""

from pathlib import Path

FAST_BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16"}
FAST_BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA Ampere, the first with bfloat16 in its matrix units


def precision() -> str:
    """`bfloat16` where the hardware multiplies matrices in it, else `float32`: emulated, it is many times slower."""
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "bfloat16" if tuple(capability) >= FAST_BFLOAT16_CAPABILITY else "float32"
    return "bfloat16" if cpu_flags() & FAST_BFLOAT16_FLAGS else "float32"


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Features of the processor as Linux names them; empty where it does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
