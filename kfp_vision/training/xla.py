"""XLA on a GPU: when it pays to compile the training step, with which flags, and where its choices are kept for the next run.

XLA spends most of the time of a compilation on trying kernels out. It writes what it has chosen into a folder, one file for
each computation and card, and does not try again what it finds there (https://openxla.org/xla/persisted_autotuning).
"""

import io
import os
import zipfile
from collections.abc import MutableMapping
from pathlib import Path

from kfp_vision.core.errors import InputError
from kfp_vision.core.frameworks import tf
from kfp_vision.storage import reading, retry, uris, writing

# Measured on an H200 with Inception v1 in bfloat16, batch size 128: 6,470 images a second with XLA and 3,585 without; the first
# step after 78 seconds and after 17; 16 seconds for another compilation in the same process, most of whose kernels were chosen.
SECONDS_SAVED_PER_IMAGE = 1 / 3585 - 1 / 6470
SECONDS_TO_COMPILE, SECONDS_TO_COMPILE_AGAIN = 61.0, 16.0
FLAGS_VARIABLE = "XLA_FLAGS"
# Trying Triton's matrix products out took half of the 143 seconds of a first step, which was no faster with them.
NO_TRITON, CHOICES_FOLDER = "--xla_gpu_enable_triton_gemm", "--xla_gpu_per_fusion_autotune_cache_dir"
CHOICES_FILE = "xla-choices.zip"  # in a checkpoint_dir


def uses_xla(setting: str, gpus: int, images: int, *, workers: int = 1, tuned: bool = False) -> bool:
    """Returns whether training steps are compiled with XLA: by `auto`, where they save more time than the compilation takes.

    On a processor and on several GPUs or workers, `auto` never does: for processors XLA has no sums over machines, and for
    GPUs that was not tried.

    Args:
        setting: `xla` of `advanced`.
        gpus: GPUs that this worker uses.
        images: that will be trained on: steps times batch size.
        workers: of the training.
        tuned: whether choices of an earlier compilation are at hand.
    """
    if workers > 1:
        return setting == "on" and gpus > 0
    seconds = SECONDS_TO_COMPILE_AGAIN if tuned else SECONDS_TO_COMPILE
    return setting == "on" or (setting == "auto" and gpus == 1 and images * SECONDS_SAVED_PER_IMAGE > seconds)


def describe_first_step(setting: str, gpus: int, images: int, *, workers: int = 1, tuned: bool = False) -> str:
    """Says what the first step of a network waits for on a GPU, or why it is not compiled; empty on a processor.

    Args:
        setting: as for `uses_xla`, like the rest.
        gpus: GPUs that this worker uses.
        images: that will be trained on.
        workers: of the training.
        tuned: whether choices of an earlier compilation are at hand.
    """
    if not gpus:
        return ""
    if not uses_xla(setting, gpus, images, workers=workers, tuned=tuned):
        wins = setting == "auto" and gpus == 1 and workers == 1
        return 'does not compile with XLA, which would take longer than it saves (advanced={"xla": "on"})' if wins else ""
    wait = "half a minute or more, with what an earlier run has chosen" if tuned else "one to three minutes"
    return (
        f"compiles the training step with XLA: the first step takes {wait}; "
        'advanced={"xla": "off"} starts within half a minute, and trains at half the speed'
    )


class KeptChoices:
    """The kernels that XLA has chosen on this machine, kept for the next run.

    They are in `$XDG_CACHE_HOME`, by default `~/.cache`, and where the training has a `checkpoint_dir`, also in one file there:
    a pod keeps nothing else.

    Args:
        checkpoint_dir: of the training, a path or bucket folder; empty for none.
        environment: environment variables of the process, of which `XLA_FLAGS` is changed.

    Attributes:
        folder: that XLA reads and writes.
    """

    def __init__(self, checkpoint_dir: str, environment: MutableMapping[str, str] = os.environ):
        caches = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.folder = caches / "kfp-vision" / f"xla-{tf.__version__}"
        self._flags = environment.get(FLAGS_VARIABLE, "").split()
        for flag in self._flags:
            if flag.startswith(f"{CHOICES_FOLDER}="):
                self.folder = Path(flag.partition("=")[2])
        self._uri = uris.join_uri(checkpoint_dir, CHOICES_FILE) if checkpoint_dir else ""
        self._kept = frozenset[str]()
        self._environment = environment

    def prepare(self) -> bool:
        """Makes XLA use the choices; must be called before anything is compiled, since XLA reads its flags once.

        Flags that the user has set stay. A folder that cannot be written is a line in the log: XLA then chooses again.

        Returns:
            Whether there are choices of an earlier run.
        """
        wanted = {NO_TRITON: f"{NO_TRITON}=false"}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._fetch()
            wanted[CHOICES_FOLDER] = f"{CHOICES_FOLDER}={self.folder}"
        except OSError as error:
            print(f"XLA keeps nothing for the next run: {self.folder} cannot be written ({error.strerror})", flush=True)
        given = {flag.partition("=")[0] for flag in self._flags}
        self._environment[FLAGS_VARIABLE] = " ".join(self._flags + [wanted[name] for name in wanted if name not in given])
        return bool(self._names())

    def keep(self) -> None:
        """Writes the choices into `checkpoint_dir`, if there is one and any are new; a failure is a line in the log."""
        names = self._names()
        if not self._uri or names == self._kept:
            return
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(names):
                archive.write(self.folder / name, name)
        try:
            with retry.in_background():
                writing.write_file(packed.getvalue(), self._uri)
        except (InputError, OSError) as error:
            print(f"XLA's choices are not kept ({str(error).removeprefix(InputError.PREFIX)})", flush=True)
        self._kept = names

    def _fetch(self) -> None:
        """Unpacks the choices in `checkpoint_dir`; a damaged file, which its checksums tell, is left alone."""
        packed = reading.read_if_exists(self._uri) if self._uri else None
        if packed is None:
            return
        try:
            with zipfile.ZipFile(io.BytesIO(packed)) as archive:
                content = {name: archive.read(name) for name in archive.namelist() if Path(name).name == name}
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            print(f"skips the damaged {CHOICES_FILE} of checkpoint_dir ({type(error).__name__})", flush=True)
            return
        for name, text in content.items():
            if not (self.folder / name).exists():
                (self.folder / name).write_bytes(text)
        self._kept = frozenset(content)

    def _names(self) -> frozenset[str]:
        return frozenset(file.name for file in self.folder.glob("*") if file.is_file()) if self.folder.is_dir() else frozenset()
