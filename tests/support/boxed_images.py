"""Small data sets with boxes for tests: drawn rectangles on grey, and Pascal VOC's XML beside them."""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw

COLOURS = {"red ball": "red", "gate": "green", "sea": "blue"}
Drawn = tuple[str, int, int, int, int]  # label, xmin, ymin, xmax, ymax in pixels


def xml(boxes: Sequence[Drawn], size: tuple[int, int] | None = (120, 80), more: str = "") -> str:
    """An annotation as LabelImg writes it; `more` stands in each object."""
    about = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    objects = "".join(
        f"<object><name>{escape(label)}</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>{more}"
        f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>\n"
        for label, xmin, ymin, xmax, ymax in boxes
    )
    head = "<folder>x</folder><filename>any.jpg</filename>"
    return f"<annotation>\n{head}{about}\n<segmented>0</segmented>\n{objects}</annotation>\n"


def picture(file: Path, boxes: Sequence[Drawn], size: tuple[int, int] = (120, 80), **how: object) -> None:
    """Draws a picture with its boxes filled in, no two of which are the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (128, 128, sum(map(ord, file.name)) % 256))
    pen = ImageDraw.Draw(image)
    for label, *edges in boxes:
        pen.rectangle(edges, fill=COLOURS.get(label, "white"))
    pen.text((1, 1), file.stem, fill="black")
    image.save(file, **how)


def data(folder: Path, pictures: int = 30) -> dict[str, list[Drawn]]:
    """Draws pictures with a ball on each, a gate on every third, a sea on every fifth, and none of all that on every tenth.

    Returns:
        Path below the folder to its boxes.
    """
    made = {}
    for number in range(pictures):
        boxes: list[Drawn] = [("red ball", 5 + number, 10, 25 + number, 30)]
        if number % 3 == 0:
            boxes.append(("gate", 60, 20, 118, 70))
        if number % 5 == 0:
            boxes.append(("sea", 0, 60, 120, 80))
        if number % 10 == 7:
            boxes = []
        name = f"some/{number:03}.{'png' if number % 4 == 0 else 'jpg'}"
        picture(folder / name, boxes)
        (folder / name).with_suffix(".xml").write_text(xml(boxes))
        made[name] = boxes
    return made
