"""Measures retrieval, near-duplicate detection and label issue detection against simpler methods.

GoogLeNet is fine-tuned from Caffe's weights, by a run of the pipeline, on all photographs but a held-out fifth, the queries;
and once more on photographs of which twenty have a wrong label, which the model then learns. Needs Caffe's weights next to the
photographs, as `googlenet/bvlc_googlenet.npz`.
"""

import io
import random
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from benchmarks import photographs
from benchmarks.measure import Figure, report
from benchmarks.pipeline_run import run_pipeline
from kfp_vision.search import audit, build, label_issues, near_duplicates
from kfp_vision.search.index import Index

NEAREST = 10
PLANTED, WRONG, LOOKED_AT = 100, 20, 40
SEEDS = (1, 2, 3)  # of planted copies and labels
VALIDATION = 0.2
RECIPE = {
    "gpu_count": 0,
    "network": "googlenet",
    "batch_size": 32,
    "train_steps": 400,
    "learning_rate": 0.004,
    "optimizer": "momentum",
    "learning_rate_schedule": "cosine",
    "advanced": '{"layers_to_freeze": "conv1,conv2", "warmup_steps": 10, "weight_decay": 0.0002, "export": "last"}',
}
HASH = "a difference hash of 256 bits"
IMAGENET = "the embedding of Caffe's weights, not fine-tuned"
HASH_WITHIN = 25  # bits of 256; at this distance a hundredth of the reported pairs are different images
REGRESSION = "logistic regression on the same embeddings, in five folds"


def run() -> list[Figure]:
    """Runs this benchmark.

    Returns:
        Its figures; none without Caffe's weights.
    """
    weights = photographs.find_googlenet_weights("retrieval")
    if not weights:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        pictures = photographs.write_copies(place / "pictures", 1)
        raw = place / "raw"
        build.fetch_embedder("", "googlenet", str(weights), raw)
        tuned = fine_tune(pictures, weights, place / "tuned")
        fresh, imagenet = build_index(pictures, tuned, place / "fresh"), build_index(pictures, raw, place / "imagenet")
        figures = measure_retrieval(fresh, imagenet)
        figures += [count_copies(pictures, tuned, place / f"copies-{seed}", place / "fresh", seed) for seed in SEEDS]
        wrong = {seed: mislabel(pictures, place / f"wrong-{seed}", seed) for seed in SEEDS}
        for seed, names in wrong.items():
            index = build_index(place / f"wrong-{seed}", tuned, place / f"index-{seed}", place / "fresh")
            figures.append(count_labels(f"planted_labels_found_{seed}", index, names))
        taught = fine_tune(place / f"wrong-{SEEDS[0]}", weights, place / "taught")
        index = build_index(place / f"wrong-{SEEDS[0]}", taught, place / "index-taught")
        figures.append(count_labels("taught_labels_found", index, wrong[SEEDS[0]]))
    return figures


def fine_tune(pictures: Path, weights: Path, place: Path) -> Path:
    """Fine-tunes a model by a run of the pipeline, in its own process.

    Args:
        pictures: folder of class folders.
        weights: Caffe's weights.
        place: folder for the run.

    Returns:
        The model folder.
    """
    fields = RECIPE | {"images_uri": pictures, "checkpoint_uri": weights, "validation_ratio": VALIDATION}
    result = run_pipeline("image_classification", fields, place)
    accuracy, seconds = 100 * result["accuracy"], result["seconds"]["total"]
    print(f"fine-tuned: {accuracy:.1f} % on the held-out fifth, {seconds} s", file=sys.stderr)
    return Path(result["model_dir"])


def build_index(pictures: Path, model: Path, folder: Path, before: Path | None = None) -> Index:
    """Builds an index of images.

    Args:
        pictures: folder of images.
        model: model folder.
        folder: folder of the new index.
        before: earlier index whose embeddings are reused; None for none.

    Returns:
        The index.
    """
    build.build_index(build.find_images(str(pictures)), model, folder, before)
    return Index(folder)


def measure_retrieval(fresh: Index, imagenet: Index) -> list[Figure]:
    """Measures mean average precision at ten, by class and overall, of the held-out images against the others.

    Args:
        fresh: index with the fine-tuned embeddings.
        imagenet: index with the embeddings of Caffe's weights.

    Returns:
        The figures, against the hash and against Caffe's embeddings.
    """
    ours = average_precision(fresh, vectors(fresh))
    figures = []
    for name, peer in (
        (HASH, average_precision(fresh, hashes(fresh))),
        (IMAGENET, average_precision(imagenet, vectors(imagenet))),
    ):
        for label in ours:
            figures.append(report(f"map10_{label}", name, "%", [(100 * ours[label], 100 * peer[label])]))
    return figures


def average_precision(index: Index, points: npt.NDArray[np.float32]) -> dict[str, float]:
    """Computes mean average precision at ten in a vector space; similarity is the inner product.

    Args:
        index: index that the splits and labels are taken from.
        points: vectors of the images, float32 (images, dimension).

    Returns:
        The precision of each class, and of `all` queries.
    """
    split = np.array(audit.assign_splits(index, VALIDATION, 0.0))
    label = np.array([picture.label for picture in index.images])
    held_out, rest = np.flatnonzero(split == "validation"), np.flatnonzero(split == "train")
    nearest = rest[np.argsort(-(points[held_out] @ points[rest].T), 1, kind="stable")[:, :NEAREST]]
    right = label[nearest] == label[held_out][:, None]
    average = (right * right.cumsum(1) / np.arange(1, NEAREST + 1)).mean(1)  # ten is fewer than each class has
    by_class = {str(name): float(average[label[held_out] == name].mean()) for name in np.unique(label)}
    return by_class | {"all": float(average.mean())}


def vectors(index: Index) -> npt.NDArray[np.float32]:
    """Returns the embeddings of an index, float32 (images, dimension)."""
    return np.asarray(index.vectors, "float32")


def hashes(index: Index) -> npt.NDArray[np.float32]:
    """Returns the difference hashes of an index, each bit as 1 or -1, float32 (images, 256)."""
    thumbnails = (index.thumbnail(position) for position in range(index.about.pictures))
    all_bits = [
        np.unpackbits(near_duplicates.difference_hash(near_duplicates.decode_brightness(thumbnail))) for thumbnail in thumbnails
    ]
    return 2 * np.array(all_bits, "float32") - 1


def count_copies(pictures: Path, model: Path, place: Path, before: Path, seed: int) -> Figure:
    """Counts the planted near-duplicates that are reported, and prints the other reported pairs to stderr.

    Args:
        pictures: folder of class folders.
        model: model folder.
        place: folder for the altered images and their index.
        before: index of the images, whose embeddings are reused.
        seed: seed of the planted copies.

    Returns:
        The figure, against the hash.
    """
    planted = plant_copies(pictures, place / "pictures", seed)
    index = build_index(place / "pictures", model, place / "index", before)
    at = {Path(picture.path).relative_to(place / "pictures").as_posix(): number for number, picture in enumerate(index.images)}
    truth = {tuple(sorted((at[copy], at[original]))) for copy, original in planted.items()}
    pairs = {
        (one.first, one.second)
        for one in near_duplicates.find_near_duplicates(index, index.neighbours(audit.NEIGHBOURS_PER_IMAGE)[1])
    }
    bits = hashes(index)
    distances = (bits.shape[1] - bits @ bits.T) / 2
    hashed = {(int(one), int(other)) for one, other in np.argwhere(distances <= HASH_WITHIN) if one < other}
    for name, reported in (("ours", pairs), (HASH, hashed)):
        unplanted = sorted(
            tuple(index.images[number].path.removeprefix(f"{place}/pictures/") for number in pair) for pair in reported - truth
        )
        print(f"{name}: {len(reported)} reported, {len(unplanted)} not planted: {unplanted[:12]}", file=sys.stderr)
    return report(f"planted_copies_found_{seed}", HASH, "of 100", [(len(pairs & truth), len(hashed & truth))])


def plant_copies(pictures: Path, folder: Path, seed: int) -> dict[str, str]:
    """Creates a folder of the images and of altered copies of a hundred of them; half of the copies get a random label.

    Args:
        pictures: folder of class folders.
        folder: folder to create.
        seed: seed of the random choices.

    Returns:
        The original of each copy, by relative path.
    """
    draw = random.Random(seed)
    unique = without_duplicates(pictures)
    for file in sorted(pictures.glob("*/*")):
        target = folder / file.relative_to(pictures)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(file)
    names = sorted(path.name for path in pictures.iterdir())
    planted = {}
    for number, file in enumerate(draw.sample(unique, PLANTED)):
        alter = ALTERATIONS[number % len(ALTERATIONS)]
        label = file.parent.name if draw.random() < 0.5 else draw.choice(names)
        name = f"{label}/{alter.__name__}-{number}.jpg"
        with Image.open(file) as image:
            (folder / name).write_bytes(alter(image.convert("RGB"), draw))
        planted[name] = file.relative_to(pictures).as_posix()
    return planted


def crop_randomly(image: Image.Image, draw: random.Random) -> bytes:
    """Crops an image to between 50 % and 80 % of its area, at a random position.

    Args:
        image: RGB image.
        draw: source of randomness.

    Returns:
        The crop as JPEG.
    """
    side = draw.uniform(0.5, 0.8) ** 0.5
    width, height = round(image.width * side), round(image.height * side)
    left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
    return encode_jpeg(image.crop((left, top, left + width, top + height)))


def reencode(image: Image.Image, draw: random.Random) -> bytes:
    """Shrinks an image and encodes it as JPEG of low quality.

    Args:
        image: RGB image.
        draw: source of randomness.

    Returns:
        The JPEG.
    """
    scale = draw.uniform(0.4, 0.7)
    return encode_jpeg(image.resize((round(image.width * scale), round(image.height * scale))), draw.randint(20, 50))


def mirror_image(image: Image.Image, draw: random.Random) -> bytes:
    """Mirrors an image horizontally.

    Args:
        image: RGB image.
        draw: unused; all alterations have the same signature.

    Returns:
        The mirrored image as JPEG.
    """
    return encode_jpeg(ImageOps.mirror(image))


def recolor(image: Image.Image, draw: random.Random) -> bytes:
    """Shifts the hue, and changes saturation, brightness and contrast.

    Args:
        image: RGB image.
        draw: source of randomness.

    Returns:
        The altered image as JPEG.
    """
    hue, saturation, value = image.convert("HSV").split()
    turn = draw.choice((-1, 1)) * draw.randint(10, 30)
    image = Image.merge("HSV", (hue.point(lambda angle: (angle + turn) % 256), saturation, value)).convert("RGB")
    for kind, least, most in (
        (ImageEnhance.Color, 0.4, 1.6),
        (ImageEnhance.Brightness, 0.7, 1.35),
        (ImageEnhance.Contrast, 0.7, 1.4),
    ):
        image = kind(image).enhance(draw.uniform(least, most))
    return encode_jpeg(image)


ALTERATIONS: tuple[Callable[[Image.Image, random.Random], bytes], ...] = (crop_randomly, reencode, mirror_image, recolor)


def encode_jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """Encodes an image as JPEG.

    Args:
        image: RGB image.
        quality: JPEG quality, from 1 to 95.

    Returns:
        The JPEG.
    """
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def mislabel(pictures: Path, folder: Path, seed: int) -> set[str]:
    """Creates a folder of the images in which twenty have a wrong label.

    Args:
        pictures: folder of class folders.
        folder: folder to create.
        seed: seed of the random choices.

    Returns:
        The relative paths of the mislabelled images.
    """
    draw = random.Random(seed)
    names = sorted(path.name for path in pictures.iterdir())
    moved = set(draw.sample(without_duplicates(pictures), WRONG))
    wrong = set()
    for file in sorted(pictures.glob("*/*")):
        label = draw.choice([name for name in names if name != file.parent.name]) if file in moved else file.parent.name
        (folder / label).mkdir(parents=True, exist_ok=True)
        name = f"{label}/{file.parent.name}-{file.name}"
        (folder / name).hardlink_to(file)
        if file in moved:
            wrong.add(name)
    return wrong


def count_labels(benchmark: str, index: Index, wrong: set[str]) -> Figure:
    """Counts the wrong labels among the forty most suspicious ones.

    Args:
        benchmark: name of the measurement.
        index: index of the images.
        wrong: relative paths of the mislabelled images.

    Returns:
        The figure, against logistic regression.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    pictures = [Path(picture.path) for picture in index.images]
    planted = {at for at, path in enumerate(pictures) if f"{path.parent.name}/{path.name}" in wrong}
    label = [picture.label for picture in index.images]
    scores, places = index.neighbours(audit.NEIGHBOURS_PER_IMAGE)
    pairs = near_duplicates.find_near_duplicates(index, places)
    suspected = label_issues.find_label_issues(
        label, scores, places, near_duplicates.group_near_duplicates(pairs, index.about.pictures)
    )
    ours = planted & {one.position for one in suspected[:LOOKED_AT]}
    names = sorted(set(label))
    number = np.array([names.index(one) for one in label])
    likely = cross_val_predict(LogisticRegression(C=10, max_iter=500), vectors(index), number, cv=5, method="predict_proba")
    peer = planted & set(np.argsort(likely[np.arange(len(number)), number])[:LOOKED_AT].tolist())
    return report(benchmark, REGRESSION, f"of {WRONG}", [(len(ours), len(peer))])


def without_duplicates(pictures: Path) -> list[Path]:
    """Lists the images that have no exact duplicate.

    Args:
        pictures: folder of class folders.

    Returns:
        The files.
    """
    files: dict[str, list[Path]] = {}
    for file in sorted(pictures.glob("*/*")):
        files.setdefault(sha256(file.read_bytes()).hexdigest(), []).append(file)
    return [one[0] for one in files.values() if len(one) == 1]
