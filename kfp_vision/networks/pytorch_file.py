"""Reads the tensors in a file that `torch.save` wrote, without PyTorch, and without running anything that the file names.

Such a file holds a pickle, and a pickle may call any function that it names. Here it may name four kinds of things, none of
which does more than keep its arguments: a dictionary, a tensor, a storage, the type of a storage. Both formats are read:
the ZIP archive (PyTorch 1.6 and later: `data.pkl`, one member per storage) and the older one (three pickles of a header, the
pickle, a list of storages, and each storage's count of elements and bytes). Source: torch/serialization.py.
"""

import math
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from kfp_vision.core.errors import DamagedError, InputError
from kfp_vision.storage import base

SUFFIXES = (".pth", ".pt")
ZIP_START = b"PK\x03\x04"
PICKLE = "data.pkl"  # of the ZIP archive
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older format
WRAPPER = "state_dict"  # key of the weights in a file that holds the state of a training too
# Storage to NumPy type; bfloat16, which NumPy lacks, is the upper half of a float32.
BFLOAT16 = "BFloat16Storage"
STORAGE_TYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    BFLOAT16: "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}

Array = npt.NDArray[Any]
ByteOrder = Literal["<", ">"]


class _StorageType(NamedTuple):
    name: str


class _Storage(NamedTuple):
    """A flat array in the file, which may hold several tensors."""

    kind: str
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: Any
    offset: Any
    shape: Any
    strides: Any


class _Dictionary(dict[Any, Any]):
    """Stands for OrderedDict; its attributes, such as the versions of modules, are dropped."""

    def __setstate__(self, state: object) -> None:
        del state


class _ForeignNameError(Exception):
    """The pickle names something that is no part of a tensor."""


class _Rebuild:
    """Keeps the arguments of a tensor; unlike a function it has no attributes, which a pickle could set."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
        return _Tensor(storage, offset, shape, strides)


NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dictionary,
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
    **{("torch", name): _StorageType(name) for name in STORAGE_TYPES},
}


class _Unpickler(pickle.Unpickler):
    """Reads a pickle of tensors; `storages` are those that it refers to."""

    def __init__(self, file: IO[bytes]):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise _ForeignNameError(f"{module}.{name}")
        return NAMES[module, name]

    def persistent_load(self, identity: Any) -> _Storage:
        _, kind, key, _, length, *view = identity
        if not isinstance(kind, _StorageType) or type(key) is not str or type(length) is not int or view not in ([], [None]):
            raise pickle.UnpicklingError("not a storage")
        return self.storages.setdefault(key, _Storage(kind.name, key, length))


def read_tensors(path: Path, uri: str) -> dict[str, Array]:
    """Reads a state dict, the tensors of a model by name.

    Args:
        path: of the file.
        uri: of the file, for messages.

    Returns:
        Arrays by name, kernels in PyTorch's order of axes; bfloat16 as float32.

    Raises:
        InputError: the file names something other than tensors, which is not run; it holds no tensors by name; or it is
            damaged, or was not written by `torch.save`.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP_START)) == ZIP_START
            file.seek(0)
            content, flat = (_read_zip if is_zip else _read_older)(file, path.stat().st_size)
            arrays = {name: _view(tensor, flat[tensor.storage.key]) for name, tensor in _named_tensors(content).items()}
    except _ForeignNameError as error:
        rule = "a .pth checkpoint must hold tensors by name, and nothing that is run"
        remedy = "Save the weights alone: torch.save(model.state_dict(), file)."
        raise InputError(rule, f"{base.redact_uri(uri)}, which names {error}", remedy) from None
    except Exception as error:  # a broken or hostile pickle raises all kinds
        rule = "a .pth checkpoint must be a whole file as torch.save writes it"
        found = f"{base.redact_uri(uri)} ({type(error).__name__})"
        raise DamagedError(rule, found, "Copy or download it again.") from None
    if not arrays:
        remedy = "Save the weights alone: torch.save(model.state_dict(), file)."
        raise InputError("a .pth checkpoint must hold tensors by name", f"none in {base.redact_uri(uri)}", remedy)
    return arrays


def _named_tensors(content: object) -> dict[str, _Tensor]:
    """Returns the tensors of a state dict, or of the one in the state of a training."""
    if isinstance(content, dict) and isinstance(content.get(WRAPPER), dict):
        content = content[WRAPPER]
    items = content.items() if isinstance(content, dict) else ()
    return {name: value for name, value in items if isinstance(name, str) and isinstance(value, _Tensor)}


def _view(tensor: _Tensor, flat: Array) -> Array:
    """Returns a tensor as a view of its storage, once its place is known to lie in it."""
    _, offset, shape, strides = tensor
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("not a tensor")
    if 0 in shape:
        return np.empty(shape, flat.dtype)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if last >= len(flat) or math.prod(shape) > len(flat):
        raise ValueError("a tensor outside its storage")
    steps = [stride * flat.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)


def _read_zip(file: IO[bytes], size: int) -> tuple[object, dict[str, Array]]:
    """Reads what the pickle holds, and the storages by key."""
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    # PyTorch compresses nothing; compressed or overlapping members may be a bomb.
    if any(member.compress_type for member in members) or sum(member.file_size for member in members) > size:
        raise zipfile.BadZipFile("members larger than the file")
    (folder,) = (member.filename.removesuffix(PICKLE) for member in members if member.filename.endswith(f"/{PICKLE}"))
    is_big = f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") == b"big"
    with archive.open(f"{folder}{PICKLE}") as pickled:
        unpickler = _Unpickler(pickled)
        content = unpickler.load()
    raw = {key: archive.read(f"{folder}data/{key}") for key in unpickler.storages}
    return content, {key: _flat(raw[key], storage, ">" if is_big else "<") for key, storage in unpickler.storages.items()}


def _read_older(file: IO[bytes], size: int) -> tuple[object, dict[str, Array]]:
    """Reads what the pickle holds, and the storages by key."""
    if [_Unpickler(file).load(), _Unpickler(file).load()] != [MAGIC, PROTOCOL]:
        raise pickle.UnpicklingError("another format")
    _Unpickler(file).load()  # about the machine that wrote it; the storages are little-endian on any
    unpickler = _Unpickler(file)
    content = unpickler.load()
    flat = {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        count = int.from_bytes(file.read(8), "little", signed=True)
        extent = count * np.dtype(STORAGE_TYPES[storage.kind]).itemsize
        if not 0 <= extent <= size - file.tell():
            raise EOFError("a storage longer than the file")
        flat[key] = _flat(file.read(extent), storage, "<")
    return content, flat


def _flat(raw: bytes, storage: _Storage, order: ByteOrder) -> Array:
    values = np.frombuffer(raw, np.dtype(STORAGE_TYPES[storage.kind]).newbyteorder(order))
    if len(values) != storage.length:
        raise ValueError("a storage of another length")
    return (values.astype("u4") << 16).view("f4") if storage.kind == BFLOAT16 else values
