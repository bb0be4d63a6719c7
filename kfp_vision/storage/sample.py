"""Draws the embedded sample data set: images of five invented flowers, for a first training without a network connection.

The classes differ only in shape: all take their colours, backgrounds, sizes and greenery from the same ranges, so that the
mean colour does not give a class away. An image is a pure function of its name: nothing is stored or downloaded.
"""

import colorsys
import hashlib
import io
import math
import pathlib
from dataclasses import dataclass
from random import Random

import PIL
from PIL import Image, ImageChops, ImageDraw, ImageFilter

CLASSES: tuple[str, ...] = ("bellcup", "globelet", "raybloom", "starpetal", "whorlrose")
IMAGES_PER_CLASS = 120

VERSION = 1  # of the drawing: increase it when the bytes of any image change

LONGER_SIDES = (320, 500)  # longer side of an image in pixels; with ASPECTS, no side is below 240
ASPECTS = (0.75, 1.0)  # shorter side divided by longer side, portrait or landscape
PNG_EVERY = 20  # every 20th image is a PNG, so that pipelines meet both formats
JPEG_QUALITY = 85
OVERSAMPLING = 2  # Pillow does not antialias polygons; drawing larger and averaging does
BACKDROP_SHRINK = 8  # backdrops are blurred, which is cheap at a low resolution

FLOWER_SIZES = (0.6, 0.86)  # diameter of the main flower as a share of the shorter side
COMPANION_SIZES = (0.28, 0.45)  # diameter of its companions as a share of its own
COMPANIONS = (0, 0, 0, 0, 0, 0, 1, 1, 1, 2)  # how many; each entry is equally likely
PETAL_HUES = (0.48, 1.19)  # from turquoise through violet and red to yellow; green would blend with the leaves
LEAST_CONTRAST = 65  # between a petal and the backdrop, in levels of luma (0 to 255)
STEM_TOPS = {"bellcup": 0.85}  # where the stem begins, in radii below the flower's centre; 0 if not listed
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))  # Vogel's model of a sunflower head, Mathematical Biosciences 44, 1979

Colour = tuple[int, int, int]
Point = tuple[float, float]


def image_names() -> list[str]:
    """Returns the names of all images, sorted: `CLASS/NNNN.jpg`, every 20th one `.png`."""
    return [
        f"{label}/{number:04d}.{'png' if number % PNG_EVERY == 0 else 'jpg'}"
        for label in CLASSES
        for number in range(1, IMAGES_PER_CLASS + 1)
    ]


def draw(name: str) -> bytes:
    """Draws an image: RGB, 240 to 500 pixels a side, encoded as its suffix says.

    The same name gives the same bytes wherever `fingerprint()` is the same.

    Args:
        name: one of `image_names()`.

    Returns:
        The bytes of a JPEG or a PNG.

    Raises:
        ValueError: no image of the sample has that name.

    Example:
        ```python
        Path("flower.jpg").write_bytes(draw("bellcup/0001.jpg"))
        ```
    """
    known = image_names()
    if name not in known:
        raise ValueError(f"sample images are CLASS/NNNN.jpg, got {name!r}: take one of names(), {known[0]} to {known[-1]}")
    label, file_name = name.split("/")
    return encode_image(compose_image(label, random_of(name)), "PNG" if file_name.endswith(".png") else "JPEG")


def random_of(name: str) -> Random:
    """Returns the source of all randomness of an image: Python's, as numpy may change its stream between versions.

    Args:
        name: of the image.
    """
    return Random(int.from_bytes(hashlib.sha256(f"{VERSION}/{name}".encode()).digest(), "big"))


def fingerprint() -> str:
    """Returns the SHA-256, in hexadecimal, of everything that determines the names and bytes of the images."""
    return hashlib.sha256(repr((VERSION, CLASSES, IMAGES_PER_CLASS, PIL.__version__)).encode()).hexdigest()


def write_images(folder: pathlib.Path) -> int:
    """Writes every image as `folder/CLASS/NNNN.jpg` (or `.png`).

    Args:
        folder: to write to; created if necessary.

    Returns:
        The number of images.
    """
    for label in CLASSES:
        (folder / label).mkdir(parents=True, exist_ok=True)
    for name in image_names():
        (folder / name).write_bytes(draw(name))
    return len(image_names())


def encode_image(image: Image.Image, image_format: str) -> bytes:
    """Encodes an image.

    Args:
        image: RGB.
        image_format: `JPEG` or `PNG`.

    Returns:
        The bytes of the file.
    """
    buffer = io.BytesIO()
    options = {"quality": JPEG_QUALITY} if image_format == "JPEG" else {"compress_level": 6}
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Palette:
    """The colours of one image.

    Attributes:
        petal: of the petals.
        edge: of their edges, darker.
        light: of their lit parts.
        centre: of the flower's centre.
        leaf: of stems and leaves.
        sky: one end of the backdrop's gradient.
        ground: its other end.
    """

    petal: Colour
    edge: Colour
    light: Colour
    centre: Colour
    leaf: Colour
    sky: Colour
    ground: Colour


@dataclass(frozen=True)
class Flower:
    """Where and how large a flower is.

    Attributes:
        x: of its centre in pixels.
        y: of its centre in pixels.
        radius: in pixels.
        angle: in radians, clockwise from upright.
    """

    x: float
    y: float
    radius: float
    angle: float


def compose_image(label: str, rng: Random) -> Image.Image:
    """Draws an image of a class.

    Args:
        label: one of `CLASSES`.
        rng: source of all randomness.

    Returns:
        The image, RGB.
    """
    canvas = choose_canvas(rng)
    colours = choose_palette(rng)
    flowers = place_flowers(canvas, rng)
    image = draw_backdrop(canvas, flowers, colours, rng)
    pen = ImageDraw.Draw(image)
    draw_grass(pen, canvas, colours, rng)
    for flower in flowers:
        draw_flower(pen, label, flower, canvas[1], colours, rng)
    return add_camera_effects(image.reduce(OVERSAMPLING), rng)


def choose_canvas(rng: Random) -> tuple[int, int]:
    """Chooses width and height of an image in pixels, before it is reduced.

    Args:
        rng: source of all randomness.
    """
    longer = random_integer(rng, *LONGER_SIDES) * OVERSAMPLING
    shorter = round(longer * rng.uniform(*ASPECTS) / OVERSAMPLING) * OVERSAMPLING
    return (longer, shorter) if rng.random() < 0.5 else (shorter, longer)


def choose_palette(rng: Random) -> Palette:
    """Chooses the colours of an image, with enough contrast between petals, backdrop and centre.

    Args:
        rng: source of all randomness.

    Returns:
        The colours.
    """
    return choose_flower_colours(*choose_backdrop_colours(rng), rng)


def choose_backdrop_colours(rng: Random) -> tuple[Colour, Colour]:
    """Chooses the colours of the two ends of the backdrop's gradient.

    Args:
        rng: source of all randomness.
    """
    hue, saturation = rng.random(), rng.uniform(0.1, 0.55)
    lightness = rng.uniform(0.12, 0.3) if rng.random() < 0.5 else rng.uniform(0.72, 0.9)
    sky = to_rgb(hue, saturation, lightness)
    ground = to_rgb(hue + rng.uniform(-0.12, 0.12), saturation, lightness + rng.uniform(-0.12, 0.12))
    return sky, ground


def choose_flower_colours(sky: Colour, ground: Colour, rng: Random) -> Palette:
    """Chooses the colours of a flower before a backdrop.

    Args:
        sky: one end of the backdrop's gradient.
        ground: its other end.
        rng: source of all randomness.

    Returns:
        The colours of both.
    """
    while True:
        main = to_rgb(rng.uniform(*PETAL_HUES), rng.uniform(0.4, 1.0), rng.uniform(0.35, 0.88))
        if min(abs(luma(main) - luma(sky)), abs(luma(main) - luma(ground))) > LEAST_CONTRAST:
            break
    while True:
        centre = to_rgb(rng.random(), rng.uniform(0.4, 0.9), rng.uniform(0.12, 0.75))
        if abs(luma(centre) - luma(main)) > LEAST_CONTRAST:
            break
    return Palette(
        petal=main,
        edge=mix_colours(main, to_rgb(rng.random(), 0.7, 0.12), rng.uniform(0.4, 0.6)),
        light=mix_colours(main, (255, 255, 255), rng.uniform(0.3, 0.6)),
        centre=centre,
        leaf=to_rgb(rng.uniform(0.2, 0.45), rng.uniform(0.3, 0.65), rng.uniform(0.22, 0.45)),
        sky=sky,
        ground=ground,
    )


def place_flowers(canvas: tuple[int, int], rng: Random) -> list[Flower]:
    """Places the flowers.

    Args:
        canvas: width and height in pixels.
        rng: source of all randomness.

    Returns:
        The flowers from back to front: companions, if any, then the main one.
    """
    width, height = canvas
    radius = min(canvas) * rng.uniform(*FLOWER_SIZES) / 2
    x, y = (rng.triangular(0.92 * radius, side - 0.92 * radius) for side in canvas)
    flowers = []
    for _ in range(random_choice(COMPANIONS, rng)):
        # Next to the main flower, on the side with more room.
        small = radius * rng.uniform(*COMPANION_SIZES)
        direction = math.atan2(height / 2 - y, width / 2 - x) + rng.uniform(-1.2, 1.2)
        away = (radius + small) * rng.uniform(0.95, 1.15)
        flowers.append(Flower(x + away * math.cos(direction), y + away * math.sin(direction), small, random_angle(rng)))
    return [*flowers, Flower(x, y, radius, random_angle(rng))]


def draw_backdrop(canvas: tuple[int, int], flowers: list[Flower], colours: Palette, rng: Random) -> Image.Image:
    """Draws a gradient with blurred lights and a shadow under each flower.

    Args:
        canvas: width and height in pixels.
        flowers: which cast shadows.
        colours: of the image.
        rng: source of all randomness.

    Returns:
        The backdrop, of the canvas' size.
    """
    width, height = (math.ceil(side / BACKDROP_SHRINK) for side in canvas)
    longest = max(width, height)
    sky, ground = (Image.new("RGB", (width, height), shade) for shade in (colours.sky, colours.ground))
    image = Image.composite(ground, sky, random_gradient((width, height), rng))
    pen = ImageDraw.Draw(image)
    for _ in range(random_integer(rng, 4, 14)):
        x, y, size = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.04, 0.16) * longest
        base = mix_colours(colours.sky, colours.leaf, rng.uniform(0, 0.6))
        pen.ellipse(bounding_box(x, y, size), mix_colours(base, (255, 255, 255), rng.uniform(0, 0.25)))
    image = image.filter(ImageFilter.GaussianBlur(longest * rng.uniform(0.02, 0.06)))
    shadow = Image.new("L", (width, height), 255)
    pen = ImageDraw.Draw(shadow)
    for flower in flowers:
        x, y, size = (value / BACKDROP_SHRINK for value in (flower.x, flower.y, flower.radius))
        pen.ellipse(bounding_box(x + 0.08 * size, y + 0.14 * size, 0.85 * size), 150)
    shadow = shadow.filter(ImageFilter.GaussianBlur(longest * 0.04))
    image = ImageChops.multiply(image, Image.merge("RGB", (shadow,) * 3))
    # Interpolated to the final size only, as this is the most expensive step; nearest-neighbour doubling is undone at the end.
    image = image.resize((canvas[0] // OVERSAMPLING, canvas[1] // OVERSAMPLING), Image.Resampling.BILINEAR)
    return image.resize(canvas, Image.Resampling.NEAREST)


def random_gradient(size: tuple[int, int], rng: Random) -> Image.Image:
    """Draws a linear grey gradient in a random direction.

    Args:
        size: width and height in pixels.
        rng: source of all randomness.

    Returns:
        The gradient, greyscale.
    """
    ramp = Image.linear_gradient("L").reduce(8).rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR)
    # From the middle: the corners of a rotated square are empty.
    return ramp.crop((5, 5, 27, 27)).resize(size, Image.Resampling.BILINEAR)


def draw_grass(pen: ImageDraw.ImageDraw, canvas: tuple[int, int], colours: Palette, rng: Random) -> None:
    """Draws blades of grass along the lower edge.

    Args:
        pen: to draw with.
        canvas: width and height in pixels.
        colours: of the image.
        rng: source of all randomness.
    """
    width, height = canvas
    for _ in range(random_choice((0, 6, 12, 20), rng)):
        x, lean, tall = rng.uniform(0, width), rng.uniform(-0.5, 0.5), rng.uniform(0.08, 0.3) * height
        shade = mix_colours(mix_colours(colours.leaf, colours.ground, rng.uniform(0.3, 0.7)), (0, 0, 0), rng.uniform(0, 0.2))
        pen.polygon(petal_outline(x, height + 4, math.atan2(lean, 1), tall, 0.045 * tall + 3, rise=0.3, fall=1.1), shade)


def draw_flower(pen: ImageDraw.ImageDraw, label: str, flower: Flower, ground: int, colours: Palette, rng: Random) -> None:
    """Draws a flower on its stem.

    Args:
        pen: to draw with.
        label: one of `CLASSES`.
        flower: its place, radius and angle.
        ground: the lower edge of the canvas in pixels.
        colours: of the flower.
        rng: source of all randomness.
    """
    top = flower.x, flower.y + STEM_TOPS.get(label, 0.0) * flower.radius
    draw_stem(pen, top, ground, flower.radius, colours, rng)
    DRAW_FLOWER[label](pen, flower, colours, rng)


def draw_stem(pen: ImageDraw.ImageDraw, top: Point, ground: int, radius: float, colours: Palette, rng: Random) -> None:
    """Draws a bent stem with up to two leaves.

    Args:
        pen: to draw with.
        top: where it meets the flower.
        ground: the lower edge of the canvas in pixels.
        radius: of the flower in pixels.
        colours: of the image.
        rng: source of all randomness.
    """
    foot = (top[0] + rng.uniform(-0.8, 0.8) * radius, ground + 0.3 * radius)
    bend = (top[0] + rng.uniform(-0.3, 0.3) * radius, (top[1] + foot[1]) / 2)
    line = [bezier_point(top, bend, foot, step / 10) for step in range(11)]
    thick = max(3, round(radius * rng.uniform(0.06, 0.09)))
    dark, light = mix_colours(colours.leaf, (0, 0, 0), 0.35), mix_colours(colours.leaf, (255, 255, 255), 0.2)
    pen.line(line, dark, thick + 4, joint="curve")
    pen.line(line, colours.leaf, thick, joint="curve")
    pen.line([(x - thick / 5, y) for x, y in line], light, max(1, thick // 4))
    for side in (-1, 1)[: random_integer(rng, 0, 2)]:
        x, y = bezier_point(top, bend, foot, rng.uniform(0.65, 0.9))
        angle, long = side * rng.uniform(0.6, 1.3), radius * rng.uniform(0.5, 0.9)
        draw_petal(pen, (x, y), angle, long, 0.17 * long, (dark, colours.leaf, light), rise=0.6, fall=1.0)
        pen.line([(x, y), move_point(x, y, angle, 0.9 * long)], dark, 2)


def draw_bellcup(pen: ImageDraw.ImageDraw, flower: Flower, colours: Palette, rng: Random) -> None:
    """Draws a cup of five upright petals seen from the side; it leans but never hangs.

    Args:
        pen: to draw with.
        flower: its place, radius and angle.
        colours: of the image.
        rng: source of all randomness.
    """
    angle = rng.uniform(-0.35, 0.35)
    long = 1.75 * flower.radius
    base = (flower.x, flower.y + STEM_TOPS["bellcup"] * flower.radius)
    shades = (colours.edge, colours.petal, colours.light)
    inner = (
        mix_colours(colours.edge, (0, 0, 0), 0.2),
        mix_colours(colours.petal, colours.edge, 0.6),
        mix_colours(colours.petal, colours.edge, 0.35),
    )
    spread = rng.uniform(0.9, 1.1)
    for lean in (-0.2, 0.2):
        draw_petal(pen, base, angle + lean * spread, 0.93 * long, 0.26 * long, inner, rise=0.5, fall=0.6)
    for lean in (-0.1, 0.0, 0.1):
        tip = move_point(*base, angle + lean, 0.9 * long)
        pen.line([base, tip], colours.centre, max(2, round(0.03 * flower.radius)))
        pen.ellipse(bounding_box(*tip, 0.06 * flower.radius), colours.centre)
    for lean in (-0.4, 0.4):
        draw_petal(pen, base, angle + lean * spread, 0.95 * long, 0.24 * long, shades, rise=0.45, fall=0.75)
    draw_petal(pen, base, angle, 0.78 * long, 0.27 * long, shades, rise=0.45, fall=0.6)
    for lean in (-0.6, 0.6):
        pen.polygon(petal_outline(*base, angle + lean, 0.3 * long, 0.05 * long, rise=0.5, fall=1.0), colours.leaf)


def draw_globelet(pen: ImageDraw.ImageDraw, flower: Flower, colours: Palette, rng: Random) -> None:
    """Draws a ball of tiny florets, lit from the upper left.

    Args:
        pen: to draw with.
        flower: its place, radius and angle.
        colours: of the image.
        rng: source of all randomness.
    """
    count = random_integer(rng, 70, 110)
    size = 1.75 * flower.radius / math.sqrt(count)
    pen.ellipse(bounding_box(flower.x, flower.y, 0.93 * flower.radius), mix_colours(colours.edge, (0, 0, 0), 0.3))
    for number in reversed(range(count)):
        # Equal areas of a hemisphere, from the rim inwards so that nearer florets cover farther ones.
        depth = 1 - (number + 0.5) / count
        across, around = math.sqrt(1 - depth * depth), number * GOLDEN_ANGLE + flower.angle
        dx, dy = across * math.cos(around), across * math.sin(around)
        lit = min(1.0, max(0.0, 0.35 + 0.5 * depth - 0.35 * (dx + dy)))
        shade = (
            mix_colours(colours.edge, colours.petal, 2 * lit)
            if lit < 0.5
            else mix_colours(colours.petal, colours.light, 2 * lit - 1)
        )
        x, y, small = flower.x + 0.92 * flower.radius * dx, flower.y + 0.92 * flower.radius * dy, size * (0.6 + 0.4 * depth)
        pen.ellipse(bounding_box(x, y, 0.86 * small), mix_colours(colours.edge, (0, 0, 0), 0.15))
        for lobe in range(4):
            pen.ellipse(bounding_box(*move_point(x, y, around + lobe * math.pi / 2, 0.42 * small), 0.4 * small), shade)
        pen.ellipse(bounding_box(x, y, 0.24 * small), colours.centre)


def draw_raybloom(pen: ImageDraw.ImageDraw, flower: Flower, colours: Palette, rng: Random) -> None:
    """Draws many thin rays around a large dark disc of seeds.

    Args:
        pen: to draw with.
        flower: its place, radius and angle.
        colours: of the image.
        rng: source of all randomness.
    """
    count = random_integer(rng, 18, 28)
    disc = flower.radius * rng.uniform(0.34, 0.42)
    shades = (colours.edge, colours.petal, colours.light)
    wide = 2.2 * flower.radius / count * rng.uniform(0.8, 1.0)
    for ring, reach in ((0.5, 0.93), (0.0, 1.0)):
        for number in range(count):
            angle = flower.angle + (number + ring) * math.tau / count + rng.uniform(-0.03, 0.03)
            long = flower.radius * reach * rng.uniform(0.94, 1.0)
            draw_petal(pen, (flower.x, flower.y), angle, long, wide, shades, rise=0.9, fall=0.4, levels=3)
    dark = mix_colours(colours.centre, (0, 0, 0), 0.62)
    pen.ellipse(bounding_box(flower.x, flower.y, 1.06 * disc), mix_colours(dark, (0, 0, 0), 0.5))
    pen.ellipse(bounding_box(flower.x, flower.y, disc), dark)
    for number in range(70):
        x, y = move_point(flower.x, flower.y, number * GOLDEN_ANGLE, disc * math.sqrt((number + 0.5) / 72))
        pen.ellipse(bounding_box(x, y, 0.05 * disc), mix_colours(dark, colours.centre, 0.3 + 0.4 * number / 70))


def draw_starpetal(pen: ImageDraw.ImageDraw, flower: Flower, colours: Palette, rng: Random) -> None:
    """Draws a star of five broad, pointed petals with sepals between them and stamens in the centre.

    Args:
        pen: to draw with.
        flower: its place, radius and angle.
        colours: of the image.
        rng: source of all randomness.
    """
    shades = (colours.edge, colours.petal, colours.light)
    wide = flower.radius * rng.uniform(0.27, 0.33)
    veins = mix_colours(colours.petal, colours.edge, 0.5)
    middle, long = (flower.x, flower.y), flower.radius
    angles = [flower.angle + number * math.tau / 5 for number in range(5)]
    for angle in angles:
        pen.polygon(petal_outline(*middle, angle + math.tau / 10, 0.5 * long, 0.08 * long, rise=0.5, fall=1.0), colours.leaf)
    for angle in angles:
        angle += rng.uniform(-0.06, 0.06)
        draw_petal(pen, middle, angle, long, wide, shades, rise=0.6, fall=1.05, levels=5)
        for lean in (-0.12, 0.0, 0.12):
            pen.line([middle, move_point(*middle, angle + lean, 0.65 * long)], veins, 2)
    for number in range(10):
        tip = move_point(*middle, flower.angle + number * math.tau / 10, long * (0.2 + 0.05 * (number % 2)))
        pen.line([middle, tip], colours.centre, max(2, round(0.02 * long)))
        pen.ellipse(bounding_box(*tip, 0.035 * long), colours.centre)
    pen.ellipse(bounding_box(*middle, 0.1 * long), mix_colours(colours.centre, (0, 0, 0), 0.2))


def draw_whorlrose(pen: ImageDraw.ImageDraw, flower: Flower, colours: Palette, rng: Random) -> None:
    """Draws broad petals that overlap in a spiral, each turn smaller than the one below it.

    Args:
        pen: to draw with.
        flower: its place, radius and angle.
        colours: of the image.
        rng: source of all randomness.
    """
    count = random_integer(rng, 11, 15)
    hand = random_choice((-1, 1), rng)
    fold = mix_colours(colours.light, colours.petal, 0.6)
    rim = mix_colours(colours.edge, (0, 0, 0), 0.25)
    shades = ((0.58, rim), (0.545, colours.light), (0.51, fold), (0.47, colours.petal))
    for number in range(count):
        share = 1 - number / count
        size = flower.radius * (0.12 + 0.88 * share)
        angle = flower.angle + hand * number * GOLDEN_ANGLE
        x, y = move_point(flower.x, flower.y, angle, 0.42 * size)
        for level, (reach, shade) in enumerate(shades):
            inward = move_point(x, y, angle, -0.035 * size * level)
            pen.ellipse(bounding_box(*inward, reach * size), mix_colours(shade, colours.edge, 0.35 * (1 - share)))
    swirl = [move_point(flower.x, flower.y, flower.angle + hand * step / 4, 0.008 * step * flower.radius) for step in range(26)]
    pen.line(swirl, colours.centre, max(2, round(0.035 * flower.radius)), joint="curve")


DRAW_FLOWER = {
    "bellcup": draw_bellcup,
    "globelet": draw_globelet,
    "raybloom": draw_raybloom,
    "starpetal": draw_starpetal,
    "whorlrose": draw_whorlrose,
}


def add_camera_effects(image: Image.Image, rng: Random) -> Image.Image:
    """Adds uneven light, sometimes a slightly soft lens, and sensor noise.

    Args:
        image: RGB.
        rng: source of all randomness.

    Returns:
        The image as a camera might have taken it.
    """
    dim = rng.uniform(0.0, 0.3)
    light = random_gradient(image.size, rng).point([round(255 - dim * level) for level in range(256)])
    image = ImageChops.multiply(image, Image.merge("RGB", (light,) * 3))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9)))
    strength = random_integer(rng, 0, 16)
    grain = Image.frombytes("L", image.size, rng.randbytes(image.width * image.height))
    grain = grain.point([level * strength // 255 for level in range(256)])
    return ImageChops.add(image, Image.merge("RGB", (grain,) * 3), 1, -strength // 2)


def draw_petal(
    pen: ImageDraw.ImageDraw,
    base: Point,
    angle: float,
    long: float,
    wide: float,
    shades: tuple[Colour, Colour, Colour],
    *,
    rise: float,
    fall: float,
    levels: int = 4,
) -> None:
    """Draws a petal in its edge colour, and smaller ones on top, shaded from the second colour to the third.

    Args:
        pen: to draw with.
        base: where the petal begins.
        angle: in radians, clockwise from upright.
        long: length in pixels.
        wide: half width in pixels at the widest point.
        shades: edge, outer and inner colour.
        rise: see `petal`.
        fall: see `petal`.
        levels: how many smaller petals.
    """
    edge, outer, inner = shades
    pen.polygon(petal_outline(*base, angle, long, wide, rise, fall), edge)
    for level in range(levels):
        share = level / (levels - 1)
        size = 0.94 - 0.5 * share
        start = move_point(*base, angle, 0.03 * long + 0.1 * long * share)
        pen.polygon(
            petal_outline(*start, angle, size * long, (0.88 - 0.65 * share) * wide, rise, fall),
            mix_colours(outer, inner, share),
        )


def petal_outline(x: float, y: float, angle: float, long: float, wide: float, rise: float, fall: float) -> list[Point]:
    """Computes the outline of a petal, whose half width along its length t is `wide` times t**rise (1 - t)**fall, scaled to 1.

    Args:
        x: of its base.
        y: of its base.
        angle: in radians, clockwise from upright.
        long: length in pixels.
        wide: half width in pixels at the widest point.
        rise: exponent at the base; the smaller, the blunter.
        fall: exponent at the tip; 0.5 is round, 1 pointed.

    Returns:
        The polygon's points.
    """
    peak = rise / (rise + fall)
    scale = wide / (peak**rise * (1 - peak) ** fall)
    sine, cosine = math.sin(angle), math.cos(angle)
    halves = [(long * t, scale * t**rise * (1 - t) ** fall) for t in PETAL_STEPS]
    outline = halves + [(along, -half) for along, half in reversed(halves[1:-1])]
    return [(x + along * sine + half * cosine, y - along * cosine + half * sine) for along, half in outline]


# Denser at both ends, where a round outline curves most.
PETAL_STEPS = tuple((1 - math.cos(math.pi * step / 12)) / 2 for step in range(13))


def move_point(x: float, y: float, angle: float, distance: float) -> Point:
    """Moves a point.

    Args:
        x: of the point.
        y: of the point.
        angle: in radians, clockwise from upright.
        distance: in pixels.
    """
    return x + distance * math.sin(angle), y - distance * math.cos(angle)


def bezier_point(start: Point, bend: Point, end: Point, t: float) -> Point:
    """Returns a point of a quadratic Bezier curve.

    Args:
        start: the curve's first point.
        bend: its control point.
        end: its last point.
        t: position along the curve, from 0 to 1.
    """
    first, second, third = (1 - t) ** 2, 2 * t * (1 - t), t * t
    return first * start[0] + second * bend[0] + third * end[0], first * start[1] + second * bend[1] + third * end[1]


def bounding_box(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    """Returns the bounding box (left, top, right, bottom) of a circle.

    Args:
        x: of its centre.
        y: of its centre.
        radius: in pixels.
    """
    return x - radius, y - radius, x + radius, y + radius


def to_rgb(hue: float, saturation: float, lightness: float) -> Colour:
    """Converts HLS to RGB.

    Args:
        hue: from 0 to 1; wraps around.
        saturation: from 0 to 1.
        lightness: from 0 to 1; clipped.

    Returns:
        Red, green and blue, 0 to 255.
    """
    red, green, blue = colorsys.hls_to_rgb(hue % 1.0, min(1.0, max(0.0, lightness)), saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def mix_colours(one: Colour, other: Colour, share: float) -> Colour:
    """Interpolates between two colours.

    Args:
        one: returned for a share of 0.
        other: returned for a share of 1.
        share: of the other, from 0 to 1.
    """
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def luma(rgb: Colour) -> float:
    """Returns the luma of a colour (ITU-R BT.601, as in JPEG), 0 to 255."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def random_angle(rng: Random) -> float:
    """Draws a random angle in radians."""
    return rng.uniform(0, math.tau)


def random_integer(rng: Random, least: int, most: int) -> int:
    """Draws a random integer, independent of how Python's `randint` is implemented.

    Args:
        rng: source of randomness.
        least: the smallest result.
        most: the largest result.
    """
    return least + int(rng.random() * (most - least + 1))


def random_choice(choices: tuple[int, ...], rng: Random) -> int:
    """Draws one of several integers with equal probability.

    Args:
        choices: to draw from.
        rng: source of randomness.
    """
    return choices[int(rng.random() * len(choices))]
