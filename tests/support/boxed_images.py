"""Small object detection data sets for tests: rectangles on grey, with Pascal VOC annotations."""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw

COLOURS = {"red ball": "red", "gate": "green", "sea": "blue"}
Drawn = tuple[str, int, int, int, int]  # label, xmin, ymin, xmax, ymax in pixels


def xml(boxes: Sequence[Drawn], size: tuple[int, int] | None = (120, 80), more: str = "") -> str:
    """Formats an annotation as LabelImg writes it; `more` is added to each object."""
    size_xml = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    objects = "".join(
        f"<object><name>{escape(label)}</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>{more}"
        f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox></object>\n"
        for label, xmin, ymin, xmax, ymax in boxes
    )
    head = "<folder>x</folder><filename>any.jpg</filename>"
    return f"<annotation>\n{head}{size_xml}\n<segmented>0</segmented>\n{objects}</annotation>\n"


def picture(file: Path, boxes: Sequence[Drawn], size: tuple[int, int] = (120, 80), **options: object) -> None:
    """Draws an image with filled boxes; every image is different."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (128, 128, sum(map(ord, file.name)) % 256))
    pen = ImageDraw.Draw(image)
    for label, *edges in boxes:
        pen.rectangle(edges, fill=COLOURS.get(label, "white"))
    pen.text((1, 1), file.stem, fill="black")
    image.save(file, **options)


def data(folder: Path, pictures: int = 30) -> dict[str, list[Drawn]]:
    """Draws images with a ball on each, a gate on every third and a sea on every fifth; one of ten has no objects.

    Returns:
        The boxes of each image, by its path below the folder.
    """
    boxes_by_name = {}
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
        boxes_by_name[name] = boxes
    return boxes_by_name
