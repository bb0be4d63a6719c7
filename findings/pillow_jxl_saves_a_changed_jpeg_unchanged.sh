#!/usr/bin/env bash
# pillow-jxl-plugin 1.3.8 with Pillow 13.0.0: a JPEG that was changed in place, by thumbnail for one, is saved as it was before.
#
# An image opened from a JPEG file is saved as JPEG XL by packing that file, without loss, unless lossless_jpeg=False is given
# (pillow_jxl/JpegXLImagePlugin.py, _save). The plugin reads the file again by its name and does not look at the pixels. But
# Pillow's methods that work in place, such as thumbnail and paste, leave format and filename as they are. So small versions of
# images are as large as the images, and what was painted over is there again. A warning says that the JPEG is packed, not that
# changes are lost. resize and crop return a new image, which is saved rightly.
#
# Seen, of a red image of 64x32: 64x32 after thumbnail((16, 16)), with quality=50 as well, and red after it was painted blue; 16x8
# and blue with lossless_jpeg=False, 16x8 also for a PNG or with resize. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow-jxl-plugin==1.3.8 pillow==13.0.0
cat >"$folder/save.py" <<'END'
import pathlib
import sys

import pillow_jxl  # noqa: F401
from PIL import Image

FOLDER = pathlib.Path(sys.argv[1])
for kind in ("jpg", "png"):
    Image.new("RGB", (64, 32), "red").save(FOLDER / f"red.{kind}")


def shrink(image):
    image.thumbnail((16, 16))
    return image


def resize(image):
    return image.resize((16, 8))


def paint(image):
    image.paste("blue", (0, 0, *image.size))
    return image


def saved(change, kind="jpg", **options):
    """Returns the size of the image read again, and whether its corner is red or blue."""
    with Image.open(FOLDER / f"red.{kind}") as image:
        change(image).save(FOLDER / "saved.jxl", **options)
    with Image.open(FOLDER / "saved.jxl") as image:
        red, _, blue = image.getpixel((1, 1))
        return *image.size, "red" if red > blue else "blue"


seen = [
    saved(shrink),
    saved(shrink, quality=50),
    saved(shrink, lossless_jpeg=False),
    saved(shrink, "png"),
    saved(resize),
    saved(paint),
    saved(paint, lossless_jpeg=False),
]
print("thumbnail, with quality=50, with lossless_jpeg=False, of a PNG, with resize; painted, with lossless_jpeg=False:")
print(*seen)
large, small = (64, 32, "red"), (16, 8, "red")
sys.exit(seen != [large, large, small, small, small, large, (64, 32, "blue")])
END
"$folder/venv/bin/python" -W ignore "$folder/save.py" "$folder"
