"""Damages images at random, to show that nothing but a rejection comes out of their validation.

`python tests/support/mutate_images.py SECONDS [SEED]` runs for so long, and prints what came out, by format.
"""

import random
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support import odd_images

ORIENTATION, GPS = 0x0112, 0x8825
EXIF_START = b"Exif\0\0"


def exif_block(order: str = "<") -> bytes:
    """Returns EXIF data (TIFF 6.0) with fields of all types, of which some are broken, and a GPS directory of n/0."""
    entries = [
        (0x010F, 2, 4, b"abc\0"),
        (ORIENTATION, 3, 1, struct.pack(f"{order}H2x", 6)),
        (0x011A, 5, 1, struct.pack(f"{order}II", 72, 0)),
        (0x011B, 10, 1, struct.pack(f"{order}ii", -1, 0)),
        (0x0128, 3, 1, struct.pack(f"{order}H2x", 2)),
        (0x829A, 12, 1, struct.pack(f"{order}d", float("nan"))),
        (GPS, 4, 1, struct.pack(f"{order}I", 0)),
    ]
    beside = 8 + 2 + 12 * len(entries) + 4
    fields, values = b"", b""
    for tag, kind, count, value in entries:
        if tag == GPS:
            value = struct.pack(f"{order}I", beside + len(values))
        elif len(value) > 4:
            value, values = struct.pack(f"{order}I", beside + len(values)), values + value
        fields += struct.pack(f"{order}HHI", tag, kind, count) + value
    gps = struct.pack(f"{order}HHHII", 1, 2, 5, 3, beside + len(values) + 18) + bytes(4) + bytes(24)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(entries)) + fields + bytes(4) + values + gps


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return exif


def originals() -> dict[str, bytes]:
    """Makes the images to damage, small ones of every format and variant, by kind."""
    scene = odd_images.scene().resize((48, 32))
    colours, palette = scene.convert("RGB"), scene.convert("P")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    encode, exif = odd_images.encode, EXIF_START + exif_block()
    return {
        "JPEG": encode(noise, "JPEG"),
        "JPEG with EXIF": encode(colours, "JPEG", exif=exif),
        "JPEG with big-endian EXIF": encode(colours, "JPEG", exif=EXIF_START + exif_block(">")),
        "progressive JPEG": encode(noise, "JPEG", progressive=True),
        "CMYK JPEG": odd_images.cmyk(),
        "MPO": encode(colours, "MPO", save_all=True, append_images=[noise]),
        "PNG": encode(noise, "PNG"),
        "PNG with EXIF": encode(colours, "PNG", exif=exif_block()),
        "PNG with a transparent palette colour": odd_images.transparent("PNG", "P"),
        "PNG of 12 bits in 16": odd_images.deep("png"),
        "transparent PNG of 16 bits": odd_images.deep_transparent(),
        "GIF": encode(palette, "GIF", save_all=True, append_images=[noise.convert("P")]),
        "BMP": encode(palette, "BMP"),
        "WebP with EXIF": encode(noise, "WEBP", exif=exif),
        "transparent WebP": odd_images.transparent("WEBP", "RGBA"),
        "TIFF": encode(noise, "TIFF"),
        "TIFF with LZW and EXIF": encode(colours, "TIFF", compression="tiff_lzw", exif=_turned()),
        "TIFF with deflate, transparent": encode(noise.convert("RGBA"), "TIFF", compression="tiff_deflate"),
        "TIFF with JPEG": encode(noise, "TIFF", compression="jpeg"),
        "TIFF of 16 bits": odd_images.deep("tif", 3),
        "TIFF of floats": encode(Image.fromarray(np.asarray(scene).astype(np.float32)), "TIFF"),
        "PPM": encode(noise, "PPM"),
        "PGM of 12 bits": odd_images.netpbm(4095),
        "PPM in digits": odd_images.netpbm(255, "P3"),
        "AVIF with EXIF": encode(noise, "AVIF", exif=_turned()),
        "HEIC with EXIF": encode(noise, "HEIF", exif=exif),
    }


def _flip(encoded: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(encoded)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        damaged[chance.randrange(len(damaged))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(damaged)


def _flip_head(encoded: bytes, chance: random.Random) -> bytes:
    """Damages the first bytes, where the headers are."""
    return _flip(encoded[:300], chance) + encoded[300:]


def _cut(encoded: bytes, chance: random.Random) -> bytes:
    return encoded[: chance.randrange(len(encoded))]


def _remove(encoded: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(encoded))
    return encoded[:at] + encoded[at + chance.randrange(1, 50) :]


def _insert(encoded: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(encoded))
    return encoded[:at] + chance.choice((chance.randbytes(8), bytes(8), b"\xff" * 8)) + encoded[at:]


def _number(encoded: bytes, chance: random.Random) -> bytes:
    """Overwrites two or four bytes with a number that programs stumble over, in either order."""
    order, at = chance.choice("<>"), chance.randrange(len(encoded))
    value = chance.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(encoded), len(encoded) - at))
    raw = struct.pack(f"{order}I", value) if chance.random() < 0.5 else struct.pack(f"{order}H", value & 0xFFFF)
    return encoded[:at] + raw + encoded[at + len(raw) :]


def _exif(encoded: bytes, chance: random.Random) -> bytes:
    """Damages EXIF data, or the directory of a TIFF: the type, count or value of a field."""
    at = max(encoded.find(b"II*\0"), encoded.find(b"MM\0*"))
    if at < 0 or at + 8 > len(encoded):
        return _number(encoded, chance)
    order = "<" if encoded[at : at + 1] == b"I" else ">"
    (start,) = struct.unpack_from(f"{order}I", encoded, at + 4)
    if at + start + 2 > len(encoded):
        return _flip(encoded, chance)
    (count,) = struct.unpack_from(f"{order}H", encoded, at + start)
    place = at + start + 2 + 12 * chance.randrange(max(1, count)) + chance.choice((0, 2, 4, 8))
    size = 2 if place % 2 else 4
    kinds = (chance.randrange(20), 0xFFFF, 0, chance.randrange(1 << 16), 0x7FFFFFFF, chance.randrange(1 << 32))
    raw = (
        struct.pack(f"{order}H", chance.choice(kinds) & 0xFFFF)
        if size == 2 or chance.random() < 0.5
        else struct.pack(f"{order}I", chance.choice(kinds))
    )
    return encoded[:place] + raw + encoded[place + len(raw) :]


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _flip_head, _cut, _remove, _insert, _number, _exif, _exif,
)  # fmt: skip


def _mend_checksums(png: bytes) -> bytes:
    """Sets the checksums of a PNG's chunks right, so that damage within them is looked at."""
    at, mended = 8, png[:8]
    while at + 12 <= len(png):
        size = int.from_bytes(png[at : at + 4])
        body = png[at + 4 : at + 8 + size]
        mended += png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return mended + png[at:]


def mutations(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yields damaged images without end, with the kind of the original; the same ones for the same seed."""
    chance, undamaged = random.Random(seed), originals()
    while True:
        for kind, encoded in undamaged.items():
            damaged = encoded
            for _ in range(chance.choice((1, 1, 2, 3))):
                damaged = chance.choice(DAMAGES)(damaged, chance) or b"\0"
            yield kind, _mend_checksums(damaged) if "PNG" in kind and chance.random() < 0.8 else damaged


def main(seconds: float, seed: int = 0) -> None:
    """Damages images for some seconds, validates them, and prints the results."""
    from kfp_vision.dataset.images import Rejected, validate_and_decode, validate_image

    results: dict[str, Counter[str]] = {}
    start, slowest = time.monotonic(), (0.0, "")
    for number, (kind, damaged) in enumerate(mutations(seed)):
        if time.monotonic() - start > seconds:
            break
        begin = time.monotonic()
        try:
            validate_image(damaged) if number % 2 else validate_and_decode(damaged, 32)
            outcome = "valid"
        except Rejected as reason:
            outcome = "rejected" if str(reason).isprintable() and str(reason) else f"a reason of {str(reason)!r}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
            Path(f"escaped-{seed}-{number}").write_bytes(damaged)
        slowest = max(slowest, (time.monotonic() - begin, f"{kind} ({number})"))
        results.setdefault(kind, Counter())[outcome] += 1
    for kind, outcomes in results.items():
        print(f"{kind}: {dict(outcomes)}")
    print(f"in all {sum((outcomes for outcomes in results.values()), Counter())}, slowest {slowest}")


if __name__ == "__main__":
    main(*(float(argument) for argument in sys.argv[1:2]), *(int(argument) for argument in sys.argv[2:]))
