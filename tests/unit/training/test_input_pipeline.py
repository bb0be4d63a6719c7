"""Batches have the pixels of TensorFlow's own functions, in an order that depends only on the seed."""

import gc
import io
import itertools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kfp_vision.core.crop_shapes import SQUARE, STRETCHED, WHOLE
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.networks import decoding
from kfp_vision.records import convert, tf_dataset
from kfp_vision.records.records_folder import RandomAccessRecords
from kfp_vision.storage import sample
from kfp_vision.training import input_pipeline
from kfp_vision.training.augmentation import (
    Augmentation,
    NumberedSeeds,
    augment_on_device,
    draw_augmentation,
    flip_and_distort,
    mix_up,
    rand_augment,
)

SIZE = 64
FLOATS = 0.01  # levels
IMAGES = 45
PLAIN = {"flip": False, "max_brightness_delta": 0.0, "lower_saturation": 1.0, "upper_saturation": 1.0}


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def flower(width: int, height: int) -> Image.Image:
    return Image.open(io.BytesIO(sample.draw("starpetal/0003.jpg"))).resize((width, height), Image.Resampling.BICUBIC)


def by_tensorflow(content: bytes, size: int, antialias: bool = False) -> np.ndarray:
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    return tf.image.resize(tf.image.central_crop(image, 0.875), (size, size), antialias=antialias).numpy()


def test_the_crop_of_a_photograph_equals_that_of_tensorflow(flower_photos):
    for folder in flower_photos.iterdir():
        for photograph in sorted(folder.glob("*.jpg"))[:8]:
            content = photograph.read_bytes()
            assert np.array_equal(decoding.central_crop(content, 224), by_tensorflow(content, 224))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
@pytest.mark.parametrize("sides", [(1, 1), (1, 40), (15, 16), (33, 100), (127, 127), (140, 91)])
def test_the_crop_of_an_image_below_twice_the_size_equals_that_of_tensorflow(kind, sides):
    content = encoded(flower(*sides), kind)
    # libjpeg smooths colours only up to the edge of the window, which may change its last column by a level or two.
    difference = np.abs(decoding.central_crop(content, SIZE) - by_tensorflow(content, SIZE))
    assert difference.max() <= (2 if kind == "JPEG" else 0)
    assert difference.mean() < 0.001


@pytest.mark.parametrize("times", [2, 3, 4, 7, 8, 13])
def test_a_large_jpeg_is_cropped_at_the_same_place_with_less_aliasing(times):
    smooth = flower(times * 80, times * 77)
    grain = Image.effect_noise(smooth.size, 60).convert("RGB")
    grainy = Image.blend(smooth, grain, 0.3)
    assert distances(encoded(smooth, "JPEG"))[0] < 4  # levels of 255
    ours, sampled = distances(encoded(grainy, "JPEG"))
    assert ours < 0.8 * sampled


def distances(content: bytes) -> tuple[float, float]:
    """Returns the mean distance of our crop, and of TensorFlow's, from an antialiased crop at the same place."""
    smoothed = by_tensorflow(content, SIZE, antialias=True)
    return tuple(
        np.abs(crop - smoothed).mean() for crop in (decoding.central_crop(content, SIZE), by_tensorflow(content, SIZE))
    )


@pytest.mark.slow
def test_a_jpeg_window_is_decoded_at_the_largest_reduction_above_the_minimum_size():
    chance = random.Random(0)
    decode = tf.function(decoding.decode_jpeg_window)
    for _ in range(150):
        sides = [chance.randrange(1, 300) for _ in range(2)]
        content = encoded(Image.new("L", sides[::-1], 90), "JPEG")
        size = [chance.randrange(1, side + 1) for side in sides]
        begin = [chance.randrange(side - part + 1) for side, part in zip(sides, size, strict=True)]
        min_side = chance.choice((8, 16, 32))
        part = decode(content, tf.constant(begin), tf.constant(size), sides[1], tf.constant(min_side)).numpy()
        ratio = max(ratio for ratio in (1, 2, 4, 8) if ratio == 1 or min(size) >= ratio * min_side)
        assert np.abs(np.array(part.shape[:2]) - np.array(size) / ratio).max() < 1
        assert np.abs(part.astype(int) - 90).max() <= 1


@pytest.mark.slow
def test_a_jpeg_window_equals_that_part_of_the_decoded_image():
    chance = random.Random(0)
    for _ in range(150):
        sides = [chance.randrange(1, 300) for _ in range(2)]
        content = encoded(flower(*sides[::-1]), "JPEG")
        size = [chance.randrange(1, side + 1) for side in sides]
        begin = [chance.randrange(side - part + 1) for side, part in zip(sides, size, strict=True)]
        part = decoding.decode_jpeg_window(content, tf.constant(begin), tf.constant(size), sides[1], 300)
        (top_edge, left_edge), (height, width) = begin, size
        expected = tf.io.decode_jpeg(content, channels=3)
        assert np.array_equal(part, expected[top_edge : top_edge + height, left_edge : left_edge + width])


@pytest.mark.parametrize("crop", [STRETCHED, SQUARE, WHOLE])
def test_evaluation_batches_equal_the_preprocessing_of_the_export(tmp_path, crop):
    contents = [encoded(flower(*sides), kind) for sides in ((90, 70), (300, 401), (700, 900)) for kind in ("JPEG", "PNG")]
    examples = (
        (ImageRow("", "bellcup", len(content), "", f"{n}"), validate_image(content)) for n, content in enumerate(contents)
    )
    convert.write_shards(tmp_path / "records", "test", examples, ["bellcup"], 10)
    options = {"image_size": SIZE, "batch_size": 16, "crop": crop}
    (images, _), *further_batches = input_pipeline.EvaluationBatches(tmp_path / "records", **options)
    assert not further_batches
    for image, content in zip(images, contents, strict=True):
        assert np.abs(image - decoding.central_crop(content, SIZE, crop)).max() <= FLOATS


def test_evaluation_batches_are_the_same_each_time_and_end_where_asked(numbered):
    reads = input_pipeline.EvaluationBatches(numbered, image_size=24, batch_size=8, max_images=20)
    first, again = ([(images.numpy(), labels.numpy()) for images, labels in reads] for _ in range(2))
    assert [labels.tolist() for _, labels in first] == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]
    for (images, labels), (same_images, same_labels) in zip(first, again, strict=True):
        assert np.array_equal(images, same_images) and np.array_equal(labels, same_labels)


def test_training_batches_equal_those_of_tensorflow(numbered):
    size = 60  # large enough for no image to be decoded at a reduced size
    images, labels = batches(numbered, 6, image_size=size)
    images, labels = images.reshape(-1, size, size, 3), labels.ravel()
    numbers = tf.range(48, dtype=tf.int64)
    sides = np.stack([90 - labels, 60 + labels], 1)
    streams = (7 * input_pipeline.STREAMS_PER_SEED, 7 * input_pipeline.STREAMS_PER_SEED + 1)
    windows, uniform = draw_augmentation(numbers, tf.constant(sides), streams, Augmentation())
    records = RandomAccessRecords(numbered)
    for image, label, window, changes in zip(images, labels, windows.numpy().tolist(), uniform, strict=True):
        content = tf_dataset.parse_record(records.read(label))["image/encoded"]
        decoded = tf.io.decode_image(content, channels=3, expand_animations=False)
        crop = tf.image.resize(tf.image.crop_to_bounding_box(decoded, *window), (size, size))
        flip, shift, factor = changes.numpy()
        mirrored = tf.image.flip_left_right(crop) if flip < 0.5 else crop
        grey = tf.image.rgb_to_grayscale(mirrored)
        distorted = grey + (0.5 + factor) * (mirrored - grey) + (2 * shift - 1) * 32
        # TensorFlow's weights of grey are rounded to four digits.
        assert np.abs(image - tf.clip_by_value(distorted, 0.0, 255.0)).max() <= 0.05


def test_a_gpu_computes_the_same_images_from_bytes(numbered):
    """To within what the rounding to bytes becomes: half a level, times the largest factor of the saturation."""
    how = Augmentation()
    settings = {"image_size": SIZE, "batch_size": 12, "seed": 3, "augmentation": how, "first_step": 5}
    floats, labels = next(input_pipeline.training_batches(numbered, **settings))
    (pixels, uniform), same_labels = next(input_pipeline.training_batches(numbered, **settings, in_bytes=True))
    assert pixels.dtype == tf.uint8 and pixels.shape == floats.shape
    on_device = tf.function(augment_on_device)(pixels, uniform, how)
    np.testing.assert_allclose(on_device, floats, atol=0.5 * (2 * how.upper_saturation - 1) + FLOATS)
    np.testing.assert_array_equal(labels, same_labels)
    for whole, changes, image in zip(pixels.numpy().astype(np.float32), uniform.numpy(), on_device.numpy(), strict=True):
        flip_and_distort(whole, changes, how)
        np.testing.assert_allclose(image, whole, atol=FLOATS)


def test_memory_of_a_batch_is_used_again_only_once_the_tensor_is_gone():
    memory = input_pipeline.BatchMemory(5)
    arrays = [memory.empty(images) for images in (3, 3, 1)]
    for value, array in enumerate(arrays):
        assert array.ctypes.data % input_pipeline.TENSOR_ALIGNMENT == 0
        array[:] = value
    addresses = {array.ctypes.data for array in arrays}
    assert len(addresses) == 3
    tensors = [tf.experimental.dlpack.from_dlpack(array.__dlpack__()) for array in arrays]
    parts = [tensor[:1] + 0 for tensor in tensors]  # an operation ends the process on a tensor that is not aligned
    del arrays, array
    assert memory.empty(3).ctypes.data not in addresses
    assert [float(tf.reduce_max(tensor)) for tensor in tensors] == [0, 1, 2]
    del tensors
    gc.collect()
    assert memory.empty(1).ctypes.data in addresses
    assert [float(tf.reduce_max(part)) for part in parts] == [0, 1, 2]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory) -> Path:
    """Writes records of images, each of its own class, every other one a PNG, in shards of ten."""
    folder = tmp_path_factory.mktemp("numbered") / "records"
    contents = (encoded(flower(60 + n, 90 - n), "PNG" if n % 2 else "JPEG") for n in range(IMAGES))
    labels = [f"{n:02}" for n in range(IMAGES)]
    examples = ((ImageRow("", labels[n], 0, "", f"{n}"), validate_image(content)) for n, content in enumerate(contents))
    convert.write_shards(folder, "train", examples, labels, 10)
    return folder


def batches(folder: Path, steps: int, seed: int = 7, augmentation=None, **how) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (steps, batch, size, size, 3) and labels (steps, batch) of the first steps."""
    settings = {"image_size": 24, "batch_size": 8, "seed": seed} | how
    dataset = input_pipeline.training_batches(folder, augmentation=Augmentation(**(augmentation or {})), **settings)
    images, labels = zip(*itertools.islice(dataset, steps), strict=True)
    return np.stack(images), np.stack(labels)


def test_every_epoch_has_every_image_once_in_a_new_order(numbered):
    labels = batches(numbered, 18)[1].ravel()[: 3 * IMAGES].reshape(3, IMAGES)
    assert np.array_equal(np.sort(labels), np.tile(np.arange(IMAGES), (3, 1)))
    assert len(np.unique(labels, axis=0)) == 3
    assert not any(np.array_equal(order, np.arange(IMAGES)) for order in labels)


def test_an_image_is_augmented_differently_each_time(numbered):
    images, labels = (dataset.reshape(-1, *dataset.shape[2:]) for dataset in batches(numbered, 18))
    crops = images[labels == 3]
    assert len(np.unique(crops, axis=0)) == len(crops) >= 3


def test_another_seed_gives_another_order_and_other_crops(numbered):
    (images, labels), (other_images, other_labels) = batches(numbered, 6, seed=7), batches(numbered, 6, seed=8)
    assert not np.array_equal(labels, other_labels)
    assert not np.array_equal(images[labels == 3][0], other_images[other_labels == 3][0])


HASH_OF_BATCHES = """
import hashlib, itertools, sys
from pathlib import Path
from kfp_vision.training import input_pipeline
folder, first, steps, options = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), eval(sys.argv[4])
how = input_pipeline.Augmentation(**options.pop("augmentation", {}))
options |= {"augmentation": how, "first_step": first}
batches = input_pipeline.training_batches(folder, image_size=24, batch_size=8, seed=7, **options)
for pictures, labels in itertools.islice(batches, steps):
    print(hashlib.sha256(pictures.numpy().tobytes() + labels.numpy().tobytes()).hexdigest())
"""


def hashes(folder: Path, first: int, steps: int, **options) -> list[str]:
    """Hashes consecutive batches in a new process."""
    arguments = [str(folder), str(first), str(steps), repr(options)]
    ended = subprocess.run([sys.executable, "-c", HASH_OF_BATCHES, *arguments], check=True, capture_output=True, text=True)
    return ended.stdout.split()


@pytest.mark.slow
def test_batches_are_reproduced_from_any_step_in_another_process(numbered):
    expected = hashes(numbered, 0, 14)
    assert len(set(expected)) == 14
    assert hashes(numbered, 9, 5) == expected[9:]


@pytest.mark.slow
def test_batches_with_strong_augmentation_are_reproduced_from_any_step(numbered):
    options = {"augmentation": STRONG | {"mixup_alpha": 0.4}}
    assert hashes(numbered, 4, 2, **options) == hashes(numbered, 0, 6, **options)[4:]


STRONG = {"rand_augment": 2, "rand_augment_magnitude": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", [{}, STRONG])
def test_many_threads_cause_no_warning_of_retracing(numbered, augmentation):
    """In a new process, since TensorFlow warns of a function twice at most."""
    program = f"from kfp_vision.core import hardware\nhardware.cores = lambda: 16\n{HASH_OF_BATCHES}"
    arguments = [str(numbered), "0", "30", repr({"augmentation": augmentation})]
    ended = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
    assert len(ended.stdout.split()) == 30
    assert "retracing" not in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("slices", "augmentation"), [(2, {}), (4, {}), (2, STRONG)])
def test_the_slices_of_all_workers_form_the_whole_batch(numbered, slices, augmentation):
    images, labels = batches(numbered, 7, augmentation=augmentation)
    parts = [batches(numbered, 5, first_step=2, part=(i, slices), augmentation=augmentation) for i in range(slices)]
    assert np.array_equal(np.concatenate([part[0] for part in parts], 1), images[2:])
    assert np.array_equal(np.concatenate([part[1] for part in parts], 1), labels[2:])


@pytest.mark.parametrize("memory", [1, 200_000, 1 << 30])
@pytest.mark.parametrize("image_size", [24, 200])
def test_the_cache_of_decoded_images_does_not_change_batches(numbered, memory, image_size):
    images, labels = batches(numbered, 14, image_size=image_size)
    from_memory, same_labels = batches(numbered, 14, image_size=image_size, memory=memory)
    assert np.array_equal(from_memory, images) and np.array_equal(same_labels, labels)


def test_a_batch_not_divisible_by_the_workers_is_rejected(numbered):
    with pytest.raises(InputError, match=r"divisible by the number of workers, 3; got 8\. Set batch_size to 9, for example"):
        batches(numbered, 1, part=(0, 3))


def test_the_image_size_may_change_during_training(numbered):
    small, large = batches(numbered, 4, image_size=16), batches(numbered, 4, first_step=4, image_size=32)
    assert (small[0].shape[2:4], large[0].shape[2:4]) == ((16, 16), (32, 32))
    assert np.array_equal(np.concatenate([small[1], large[1]]), batches(numbered, 8)[1])


def test_starting_at_a_late_step_skips_no_records_by_reading(numbered):
    late = 10**12
    assert np.array_equal(batches(numbered, 1, first_step=late)[1], batches(numbered, 2, first_step=late - 1)[1][1:])


GROWTH = """
import resource, sys
from pathlib import Path
from kfp_vision.training import input_pipeline
how = input_pipeline.Augmentation()
batches = iter(input_pipeline.training_batches(Path(sys.argv[1]), image_size=24, batch_size=4, seed=0, augmentation=how))
next(batches)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(int(sys.argv[2])):
    next(batches)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1100, 3), "uint8")
    contents = [encoded(Image.fromarray(np.roll(noise, n, 0)), "PNG") for n in range(80)]
    examples = ((ImageRow("", "noise", 0, "", f"{n}"), validate_image(content)) for n, content in enumerate(contents))
    convert.write_shards(tmp_path / "records", "train", examples, ["noise"], 40)
    program = [sys.executable, "-c", GROWTH, str(tmp_path / "records"), "24"]
    grown = int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)  # in KiB
    assert grown << 10 < sum(map(len, contents)) / 2


def distort(image: np.ndarray, how: Augmentation, number: int = 0) -> np.ndarray:
    """Returns a copy of an image, distorted as the image of a number is."""
    sides = tf.constant([image.shape[:2]], tf.int64)
    _, uniform = draw_augmentation(tf.constant([number], tf.int64), sides, (0, 1), how)
    distorted = image.copy()
    flip_and_distort(distorted, uniform[0].numpy(), how)
    return distorted


def test_zero_saturation_equals_the_greyscale_of_pillow():
    image = flower(40, 30)
    how = Augmentation(**PLAIN | {"lower_saturation": 0.0, "upper_saturation": 0.0})
    grey = distort(np.asarray(image, "float32"), how)
    assert np.abs(grey - np.asarray(image.convert("L"), "float32")[..., None]).max() < 1


def test_brightness_adds_one_offset_within_its_range_to_all_pixels():
    image = np.full((4, 4, 3), 100, np.float32)
    how = Augmentation(**PLAIN | {"max_brightness_delta": 0.2})
    varied = np.stack([distort(image, how, n) for n in range(60)])
    np.testing.assert_allclose(varied, np.broadcast_to(varied[:, :1, :1, :1], varied.shape), atol=1e-4)
    shifts = varied[:, 0, 0, 0] - 100
    assert -51 <= shifts.min() < -40 and 40 < shifts.max() <= 51


def test_half_of_the_images_are_mirrored():
    image = np.asarray(flower(20, 20), "float32")
    how = Augmentation(**PLAIN | {"flip": True})
    varied = [distort(image, how, n) for n in range(60)]
    mirrored = [np.abs(variant - image[:, ::-1]).max() < 1e-3 for variant in varied]
    assert all(mirrors or np.abs(variant - image).max() < 1e-3 for mirrors, variant in zip(mirrored, varied, strict=True))
    assert 20 <= sum(mirrored) <= 40


def test_rand_augment_samples_operations_per_image_and_stays_in_range():
    image = np.asarray(flower(32, 32), "float32")
    vary = tf.function(rand_augment(1, 1.0), reduce_retracing=True)
    augmented = tf.function(lambda number: vary(tf.constant(image), NumberedSeeds(5, number)))
    varied = np.stack([augmented(tf.constant(n, tf.int64)) for n in range(60)])
    assert varied.min() >= 0 and varied.max() <= 255
    unchanged = sum(np.array_equal(variant, image) for variant in varied)
    assert 0 < unchanged < 20  # one of thirteen choices is the identity, and AutoContrast changes nothing at full range
    assert len(np.unique(varied, axis=0)) > 30


@pytest.mark.slow
def test_rand_augment_of_magnitude_zero_changes_only_contrast():
    image = tf.constant(np.asarray(flower(32, 32), "float32"))
    vary = rand_augment(1, 0.0)
    augmented = tf.function(lambda number: vary(image, NumberedSeeds(5, number)))
    near = [np.abs(augmented(tf.constant(n, tf.int64)) - image).mean() < 0.1 for n in range(52)]
    assert sum(near) >= 36  # all but contrast and equalization, which have no magnitude


def test_mixup_blends_labels_and_images_alike():
    labels = tf.range(6, dtype=tf.int64)
    images = tf.broadcast_to(tf.reshape(40.0 * tf.cast(labels, tf.float32), (6, 1, 1, 1)), (6, 4, 4, 3))
    mixed, shares = mix_up(1.0, 6)(images, labels, NumberedSeeds(0, tf.constant(3, tf.int64)))
    assert (shares.dtype, shares.shape) == (tf.float32, (6, 6))
    np.testing.assert_allclose(shares.numpy().sum(1), 1, atol=1e-6)
    assert (shares.numpy().max(1) < 0.99).any()
    np.testing.assert_allclose(mixed[:, 0, 0, 0], (shares.numpy() * 40 * np.arange(6)).sum(1), rtol=1e-5)


def test_mixup_labels_are_class_probabilities(numbered):
    _, shares = batches(numbered, 2, augmentation={"mixup_alpha": 0.4})
    _, labels = batches(numbered, 2)
    assert shares.shape == (2, 8, IMAGES)
    for batch_shares, numbers in zip(shares, labels, strict=True):
        assert set(np.flatnonzero(batch_shares.sum(0))) <= set(numbers)
