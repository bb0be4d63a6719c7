"""An object's bytes from a store to here and back: tried again, resumed where they broke off, and compared by checksum."""

import base64
import hashlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

import google_crc32c

from kfp_vision import stores
from kfp_vision.errors import DamagedError
from kfp_vision.stores import Changed, Found, Interrupted, patience

REPEATS = 3  # of a whole transfer whose bytes are not what the store says

Made = TypeVar("Made")
_unbelieved: set[str] = set()  # where ETags were seen that are no MD5
_lock = threading.Lock()


def patiently(call: Callable[[], Made], uri: str, progress: Callable[[], int] = lambda: 0) -> Made:
    """Calls until it is not interrupted, as `patience.patiently` does, at the server of a URI."""
    return patience.patiently(call, uri, stores.store(uri).server(uri), progress)


def received(uri: str) -> bytes:
    """The bytes of an object, whole and compared.

    Raises:
        NotThere: there is no such object.
        InputError: the store refuses or does not answer, or the bytes never agree with what it says.
    """
    sink = io.BytesIO()
    receive(uri, sink)
    return sink.getvalue()


def download(uri: str, path: Path) -> None:
    """Writes an object to a file, as `received` gives it."""
    with path.open("w+b") as file:
        receive(uri, file)


def receive(uri: str, sink: IO[bytes]) -> Found:
    """Writes an object to an empty sink that can be read back, and gives what the store said of it.

    Raises:
        NotThere, InputError: as `received` does.
    """
    lies_in = stores.store(uri)
    seen: set[tuple[int, str]] = set()
    for _ in range(REPEATS):
        sink.seek(0)
        sink.truncate()
        try:
            found = _to_the_end(lies_in, uri, sink)
        except Changed:
            continue
        size, md5, crc32c = sink.tell(), *_hashes(sink, found)
        if size == found.size or found.size < 0:
            if crc32c == found.crc32c and (md5 == found.md5 or _no_md5(uri)):
                return found
            if (size, md5) in seen and crc32c == found.crc32c:
                # A broken line does not break the same way twice: what the store calls an MD5 is none.
                _believe_no_more(uri)
                return found
        seen.add((size, md5))
    found_here = f"other bytes or another number of them from {stores.shown(uri)}"
    raise DamagedError("an object must arrive as its store describes it", found_here, "Try again.")


def upload(uri: str, source: BinaryIO) -> None:
    """Makes an object of all that is in a source that can be read again, or replaces the object that is there.

    Raises:
        NotThere, InputError: as `received` does.
    """
    lies_in, size = stores.store(uri), source.seek(0, io.SEEK_END)

    def onward() -> None:
        source.seek(0)
        lies_in.put(uri, source, size)

    patiently(onward, uri)


def _to_the_end(lies_in: stores.Store, uri: str, sink: IO[bytes]) -> Found:
    """Asks again from where it broke off, and for the version that the first answer was of."""
    version = ""

    def onward() -> Found:
        nonlocal version
        try:
            return lies_in.send(uri, sink, version)
        except Broken as broken:
            version = version or broken.version
            raise Interrupted(str(broken)) from None

    return patiently(onward, uri, sink.tell)


class Broken(Interrupted):
    """A transfer that stopped after its answer had begun.

    Attributes:
        version: of the object, as the answer said.
    """

    def __init__(self, reason: object, version: str):
        super().__init__(str(reason))
        self.version = version


def _hashes(sink: IO[bytes], found: Found) -> tuple[str, str]:
    """MD5 and CRC-32C of what has arrived, each where the store said one."""
    if not found.md5 and not found.crc32c:
        return "", ""
    md5, crc32c, end = hashlib.md5(usedforsecurity=False), google_crc32c.Checksum(), sink.tell()
    sink.seek(0)
    while chunk := sink.read(stores.CHUNK):
        md5.update(chunk)
        crc32c.update(chunk)
    sink.seek(end)
    return found.md5 and md5.hexdigest(), found.crc32c and base64.b64encode(crc32c.digest()).decode()


def _place(uri: str) -> str:
    """The bucket or host that a URI lies in."""
    return "/".join(uri.split("/", 3)[:3])


def _no_md5(uri: str) -> bool:
    return _place(uri) in _unbelieved


def _believe_no_more(uri: str) -> None:
    with _lock:
        _unbelieved.add(_place(uri))
