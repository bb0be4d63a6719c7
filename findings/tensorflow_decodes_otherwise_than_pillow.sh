#!/usr/bin/env bash
# TensorFlow 2.21.0 and Pillow 13.0.0 show the same file differently: three kinds that a person's folder may hold.
#
# - BMP with a palette: decode_image gives the number of the palette's entry as grey, Pillow the colour at that number.
# - GIF with transparent pixels: decode_gif gives black, Pillow the colour of the palette, and that it is transparent.
# - CMYK JPEG without Adobe's marker: Pillow inverts the stored values as with the marker, TensorFlow does not.
#
# Seen: 255 0 0 and 7 7 7; 0 255 0 0 and 0 0 0; 255 55 55 and 0 0 0, with the marker 255 55 55 twice. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 pillow==13.0.0
cat >"$folder/decode.py" <<'END'
import io
import sys

import tensorflow as tf
from PIL import Image


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def by_pillow(content, mode="RGB"):
    with Image.open(io.BytesIO(content)) as image:
        return image.convert(mode).getpixel((4, 4))


def with_palette(number, colour):
    image = Image.new("P", (8, 8), number)
    image.putpalette([0, 0, 0] * number + colour + [0, 0, 0] * (255 - number))
    return image


bmp = encoded(with_palette(7, [255, 0, 0]), "BMP")
green = with_palette(1, [0, 255, 0])
green.putpixel((0, 0), 0)  # opaque
gif = encoded(green, "GIF", transparency=1)
marked = encoded(Image.new("CMYK", (16, 16), (0, 200, 200, 0)), "JPEG", quality=95)
at = marked.find(b"\xff\xee")  # APP14, in which Adobe says how the colours are stored
unmarked = marked[:at] + marked[at + 2 + int.from_bytes(marked[at + 2 : at + 4], "big") :]
seen = [
    (by_pillow(bmp), tuple(tf.io.decode_image(bmp, channels=3).numpy()[4, 4].tolist())),
    (by_pillow(gif, "RGBA"), tuple(tf.io.decode_gif(gif).numpy()[0, 4, 4].tolist())),
    (by_pillow(unmarked), tuple(tf.io.decode_jpeg(unmarked, channels=3).numpy()[4, 4].tolist())),
    (by_pillow(marked), tuple(tf.io.decode_jpeg(marked, channels=3).numpy()[4, 4].tolist())),
]
print("seen, Pillow and TensorFlow:", *seen, sep="\n  ")
expected = [((255, 0, 0), (7, 7, 7)), ((0, 255, 0, 0), (0, 0, 0)), ((255, 55, 55), (0, 0, 0)), ((255, 55, 55), (255, 55, 55))]
sys.exit(seen != expected)
END
TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/decode.py"
