"""The benchmarks measure what they report: ratios, rates, memory and accuracy."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from support import colour_model, odd_images, sample_images, small_network
from support.model_servers import program

from benchmarks import (
    collect_kills,
    convert,
    explain,
    fine_tuning,
    learn,
    measure,
    network_costs,
    networks,
    scale,
    search,
    serve,
    slim,
    slow_disk,
    stratification,
    training_stage,
    workers,
)
from kfp_vision.collection.collected import CollectedAnswer, pack_batch
from kfp_vision.dataset.label_map import read_labels
from kfp_vision.prediction.classifier import Classifier, Prediction
from kfp_vision.prediction.explanation import explain_seen
from kfp_vision.repository.version import Version
from kfp_vision.serving import server
from kfp_vision.storage import sample

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_a_figure_is_the_ratio_of_medians_without_the_warm_up_round(capsys, monkeypatch):
    monkeypatch.setenv("BENCH_ROUNDS", "3")
    ours, peer = iter([1000.0, 30.0, 10.0, 20.0]), iter([1000.0, 5.0, 40.0, 10.0])
    measure.compare("doing", "another", "img/s", lambda: next(ours), lambda: next(peer))
    figure = {"benchmark": "doing", "ours": 20.0, "peer": 10.0, "peer_name": "another", "ratio": 2.0, "unit": "img/s"}
    assert json.loads(capsys.readouterr().out) == figure


def test_the_ratio_is_inverted_where_less_is_better():
    assert measure.report("keeping", "the bound", "MiB", [(200.0, 100.0)] * 3, less=True).ratio == 0.5


def test_what_a_killed_server_lost_is_told_from_what_it_may_lose(tmp_path):
    images = [b"first", b"second", b"third", b"fourth", b"fifth"]
    start = datetime(2026, 5, 4, 10, tzinfo=UTC)
    answered = [
        collect_kills.Answered(collect_kills.digest(image), number // 3, (start + timedelta(seconds=number)).timestamp())
        for number, image in enumerate(images)
    ]
    lives = [
        collect_kills.Life(start.timestamp() + 2.5, drained=False),
        collect_kills.Life(start.timestamp() + 9, drained=True),
    ]
    day = tmp_path / "flowers" / "2026-05-04"
    (day / "images").mkdir(parents=True)

    def collect(*numbers: int, content: bytes = b"") -> collect_kills.Found:
        answers = []
        for number in numbers:
            (day / "images" / f"{number}.jpg").write_bytes(content or images[number])
            time = (start + timedelta(seconds=number)).isoformat(timespec="milliseconds")
            answers.append(
                CollectedAnswer(f"{number:032x}", time, "flowers", 1, "a", ["a"], {"a": 1.0}, image=f"images/{number}.jpg")
            )
        (day / "20260504T100000.000000-00000000.jsonl.gz").write_bytes(pack_batch(answers))
        return collect_kills.compare(answered, lives, tmp_path, {answer.image for answer in answered})

    whole = {"answered": 5, "collected": 5, "after_last_batch": 0, "lost": 0, "surplus": 0, "torn": 0}
    assert asdict(collect(0, 1, 2, 3, 4)) == whole
    assert asdict(collect(0, 3, 4)) == whole | {"collected": 3, "after_last_batch": 2}  # it was killed before the next batch
    assert asdict(collect(0, 2, 3, 4)) == whole | {"collected": 4, "lost": 1}  # a later one is there
    assert asdict(collect(0, 1, 2, 3)) == whole | {"collected": 4, "lost": 1}  # it was told to stop, and has not written all
    assert asdict(collect(0, 1, 2, 3, 4, 4)) == whole | {"surplus": 1}
    assert collect(0, 1, 2, 3, 4, content=b"half").torn == 5


@pytest.fixture
def conversion(tmp_path, monkeypatch) -> convert.Conversion:
    """Returns a conversion of two images in place of the photographs, each image twice."""
    sample_images.pictures(tmp_path / "data" / "flower_photos", classes=2, each=1)
    monkeypatch.setenv("KFP_VISION_DATA", str(tmp_path / "data"))
    return convert.Conversion(tmp_path, 2)


def read_images(folder: Path) -> set[bytes]:
    files = sorted(str(file) for file in folder.glob("*.tfrecord"))
    examples = map(tf.train.Example.FromString, tf.data.TFRecordDataset(files).as_numpy_iterator())
    return {example.features.feature["image/encoded"].bytes_list.value[0] for example in examples}


def test_all_converters_write_the_same_images(conversion, tmp_path):
    tar = program("tar")
    images = {file.read_bytes() for file in conversion.photographs.glob("*/*.jpg")}
    assert len(conversion.rows) == 4
    with closing(slim.Converter()) as converter:
        assert converter.convert(conversion.photographs, convert.recreate(tmp_path / "slim")) > 0
    assert len(list((tmp_path / "slim").iterdir())) == slim.SHARDS
    for check_pixels in (True, False):
        assert conversion.convert(check_pixels=check_pixels) > 0
        assert read_images(tmp_path / "slim") == read_images(conversion.records) == images
    assert conversion.pack() > 0
    packed = subprocess.run([tar, "tf", tmp_path / "packed" / "photographs.tar"], check=True, capture_output=True, text=True)
    assert packed.stdout.count(".jpg\n") == 4


def test_a_measurement_in_its_own_process_gives_seconds_and_memory(tmp_path):
    scale.draw(tmp_path, 12)
    assert len({file.read_bytes() for file in (tmp_path / "pictures").iterdir()}) == 12
    start = time.perf_counter()
    seconds, memory = scale.measure_task("convert", tmp_path, 12)
    assert 0 < seconds <= time.perf_counter() - start
    assert 20 < memory < scale.MIB
    assert len(read_images(tmp_path / "train")) == 12
    scale.measure_task("list_and_split", tmp_path, 100)
    assert len((tmp_path / "train.csv").read_text().splitlines()) > 60


def test_rejects_an_unknown_benchmark_in_one_line():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "sing"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    names = "convert, scale, stratification, train, slow_disk, workers, sweep, learn, quick, serve, engines, retrieval, "
    names += "search, explain, unknown, collect, drift, review, gpu"
    assert done.stderr == f"error: a benchmark must be one of {names}; got sing. Take one of these.\n"


def test_without_a_gpu_its_benchmark_says_so_in_one_line():
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks", "gpu"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, env=hidden)
    assert (done.returncode, done.stdout) == (0, "no GPU is visible to TensorFlow: nothing is measured\n")


@pytest.mark.usefixtures("small_network_registered")
def test_the_training_rate_is_measured_between_its_events(tmp_path, monkeypatch, capsys):
    sample_images.pictures(tmp_path / "data" / "flower_photos", classes=2, each=3)
    monkeypatch.setenv("KFP_VISION_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(training_stage, "STEPS", 4)
    monkeypatch.setattr(training_stage, "WARM_UP", 1)
    training_stage.prepare(tmp_path)
    start = time.perf_counter()
    training_stage.main(str(tmp_path), "2", network=small_network.NAME)
    seconds = time.perf_counter() - start
    assert float(capsys.readouterr().out) > 2 * 3 / seconds  # three steps of two images between the first and the last event
    assert (tmp_path / "model" / "classifier.keras").exists()


def test_what_a_worker_sends_at_a_step_is_the_gradients_once_and_little_else(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "STEPS", (1, 4))
    training_stage.write_records("sample", tmp_path)
    gradients = sum(workers.gradient_sizes(len(read_labels(tmp_path / "labels")))) * workers.FLOAT
    sent, calls = workers.per_step(tmp_path, 2)
    assert len(sent) == len(calls) == 2
    assert all(gradients <= of_worker < 1.02 * gradients for of_worker in sent)  # 2(n - 1)/n is 1
    assert min(calls) >= 2 and sum(calls) < 20  # besides those of the steps, the first worker is asked whether it lives


@pytest.mark.usefixtures("small_network_registered")
def test_the_wait_for_a_slow_disk_is_measured_after_the_warm_up(tmp_path, monkeypatch):
    sample_images.pictures(tmp_path / "data" / "flower_photos", classes=2, each=3)
    monkeypatch.setenv("KFP_VISION_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(training_stage, "WARM_UP", 1)
    recipe = training_stage.recipe(2)
    recipe = replace(recipe, network=small_network.NAME, image_size=64, train_steps=6)
    training_stage.prepare(tmp_path)
    waits = []
    for latency, name in ((0.0, "fast"), (1.0, "slow")):
        (tmp_path / name).mkdir()
        for part in ("records", "labels"):
            (tmp_path / name / part).symlink_to(tmp_path / part)
        waits.append(slow_disk.measure_wait(tmp_path / name, latency, recipe))
    assert 0 <= waits[0] < waits[1] <= 100  # a second for each of two requests of every batch


def test_the_cost_of_reading_is_compared_with_keras_and_with_decoding_alone(monkeypatch):
    monkeypatch.setenv("BENCH_ROUNDS", "1")
    files = [odd_images.encode(Image.new("RGB", (64, 64)), "JPEG")] * 3
    passes = []

    class Batches(list[int]):
        def __iter__(self):
            passes.append(len(self))
            sum(range(300_000 * len(self)))  # processor time in proportion
            return super().__iter__()

    against_keras, against_decoding = convert.reading_costs(Batches([1]), Batches([1, 2, 3, 4]), files)
    assert passes == 2 * ([1] * convert.PASSES + [4] * convert.PASSES)
    assert against_keras.ratio > 1 > against_decoding.ratio
    assert against_keras.ours == against_decoding.ours


def test_prints_time_memory_and_disk_of_each_stage_as_a_row(tmp_path):
    sample_images.pictures(tmp_path / "data" / "flower_photos", classes=2, each=3)
    command = [sys.executable, "-m", "benchmarks.stages", tmp_path / "once", "prepare_records", "600", "check_images=false"]
    environment = os.environ | {"KFP_VISION_DATA": str(tmp_path / "data")}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    elapsed = time.perf_counter() - start
    # With fewer images the stages would end between two samples of their usage.
    assert len({file.read_bytes() for file in (tmp_path / "once" / "pictures").glob("*/*.jpg")}) == 600
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    usage = {stage: [float(figure) for figure in figures] for stage, *figures in rows}
    seconds, processor, memory, written = usage["`write_partition`"]
    assert 0 <= seconds <= elapsed and 0 < processor <= elapsed * os.cpu_count() and 20 < memory < 1024 and written < 100


def test_every_distinct_image_is_held_out_in_exactly_one_fold(tmp_path):
    images = sample_images.pictures(tmp_path / "all", classes=2, each=20)
    (images / "bellcup" / "copy.jpg").write_bytes((images / "globelet" / "0001.jpg").read_bytes())
    held_out, distinct = [], 39
    for fold in learn.split_folds(images, learn.FOLDS):
        train, test = ({file.relative_to(fold / side) for file in (fold / side).glob("*/*")} for side in ("train", "test"))
        assert len(train) + len(test) == distinct and not train & test
        held_out += test
    assert len(held_out) == len(set(held_out)) == distinct


def test_both_programs_are_given_the_rates_of_the_recipe():
    short, tutorial = learn.SHORT.rates(600), learn.TUTORIAL.rates(600)
    assert len(short) == 300 and short[29:31] == [0.002, 0.002] and short[0] < 1e-4 > short[-1] > 0
    # 600 images in batches of 16 are 37.5 steps, and TF-Slim decays by 0.94 every two epochs.
    assert len(tutorial) == 1000 and set(tutorial[:75]) == {0.0025} and set(tutorial[75:150]) == {0.0025 * 0.94}


def test_a_fine_tuning_is_evaluated_on_held_out_images(tmp_path, real_data, capsys):
    for side, first in (("train", 1), ("test", 7)):
        for label in ("bellcup", "globelet"):
            (tmp_path / "fold" / side / label).mkdir(parents=True)
            for number in range(first, first + 4):
                image = sample.draw(f"{label}/{number:04}.jpg")
                (tmp_path / "fold" / side / label / f"{number}.jpg").write_bytes(image)
    weights = str(real_data / "googlenet" / "bvlc_googlenet.npz")
    start = time.perf_counter()
    fields = learn.TUTORIAL.fields | {"train_steps": 3, "batch_size": 4}
    fine_tuning.main(folder=str(tmp_path / "fold"), weights=weights, network="googlenet", fields=fields, advanced={})
    result = learn.Learned(**json.loads(capsys.readouterr().out))
    assert result.accuracy in [right / 8 for right in range(9)]
    assert 0 < result.seconds <= time.perf_counter() - start


def test_measures_both_servers_and_in_process_inference_on_the_same_images(tmp_path):
    colour_model.write_version(tmp_path / "model" / "1", name="benchmark")
    images = sample_images.pictures(tmp_path / "pictures", classes=2, each=3)
    with server.run_server(tmp_path / "model") as ours, serve.stock_predictor(tmp_path / "model") as stock:
        loads = [serve.measure_load(url, images, 2, seconds=1) for url in (ours, stock)]
    assert all(load.rate > 0 and 0 < load.p50 <= load.p99 for load in loads)
    assert serve.measure_in_process(tmp_path / "model", images, seconds=1) > 0


def test_a_rejected_request_fails_the_measurement(tmp_path):
    colour_model.write_version(tmp_path / "model" / "1", name="another")
    images = sample_images.pictures(tmp_path / "pictures", classes=1, each=1)
    with server.run_server(tmp_path / "model") as url, pytest.raises(subprocess.CalledProcessError):
        serve.measure_load(url, images, 1, seconds=1)


def test_a_search_is_compared_with_numpy_on_the_same_vectors(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_ROUNDS", "1")
    monkeypatch.setattr(search, "VECTORS", 4000)
    monkeypatch.setattr(search, "QUERIES", 40)
    monkeypatch.setattr(search, "QUERIES_PER_ROUND", {1: (5, 5), 32: (40, 40)})
    search.draw(tmp_path)
    vectors = np.fromfile(tmp_path / "vectors", "float16").reshape(4000, 1024).astype("float32")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
    indices = search.search_exhaustively(vectors, vectors[100:103])
    assert indices.shape == (3, 10) and indices[:, 0].tolist() == [100, 101, 102]
    similarities = vectors[100:103] @ vectors.T
    np.testing.assert_array_equal(indices, np.argsort(-similarities, 1, kind="stable")[:, :10])
    result = search.build(tmp_path)
    assert result["seconds"] > 0 and result["memory"] > 0
    result = search.ask(tmp_path)
    assert len(result["1"]) == len(result["32"]) == 1 and min(result["1"][0] + result["32"][0]) > 0
    assert 90 < result["recall"] <= 100


def test_embedding_is_compared_with_inference_alone(tmp_path, monkeypatch):
    sample_images.pictures(tmp_path / "data" / "flower_photos", classes=2, each=3)
    monkeypatch.setenv("KFP_VISION_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BENCH_ROUNDS", "1")
    ((ours, peer),) = search.embed(tmp_path)["rates"]
    assert ours > 0 and peer > 0
    assert (tmp_path / "part 1" / "part.json").exists()


def test_operations_are_counted_as_published():
    # Sandler et al., MobileNetV2 (arXiv 1801.04381), table 4: 300 million multiply-adds.
    assert network_costs.operations("mobilenet_v2") == pytest.approx(2 * 300e6, rel=0.05)


def test_a_network_is_measured_and_becomes_a_line_of_the_table(capsys, monkeypatch):
    monkeypatch.setattr(networks, "find_weights", lambda name: "")
    line = networks.measure("mobilenet_v2", seconds=0.1)
    assert json.loads(capsys.readouterr().out) == line
    assert line["parameters"] == pytest.approx(
        2.27, abs=0.02
    )  # 3.5 million with a thousand classes, 1.28 million of them in the last layer
    assert (
        min(line[field] for field in ("operations", "training", "training_memory", "alone", "together", "answers_memory")) > 0
    )
    head, rule, row, *_ = networks.table([line]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|") and row.startswith("| `mobilenet_v2` | 224 | 2.3 |")
    assert "accuracy" not in head
    assert networks.table([line, line | {"accuracy": 91.04}]).splitlines()[2:4] == [f"{row}  |", f"{row} 91.0 |"]


def test_a_network_without_weights_at_hand_has_no_accuracy(tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_VISION_DATA", str(tmp_path))
    assert networks.accuracy("googlenet") is None


def test_the_score_falls_first_where_the_map_of_its_class_is_strongest(tmp_path):
    classifier = Classifier(Version(colour_model.write_version(tmp_path / "1")))
    sight = classifier.look(odd_images.encode(colour_model.halves("red", "blue"), "PNG"))
    (explained,) = explain_seen(classifier, [(sight, lambda _: [0])])
    explained = replace(explained, prediction=Prediction("red", 0, []))
    order = np.argsort(-explained.maps[0], axis=None, kind="stable")
    marked, opposite = (explain.deletion_curve(classifier, sight.crop, explained, one) for one in (order, order[::-1]))
    assert len(marked) == len(explain.SHARES) and marked[0] == opposite[0] == 1
    half = explain.SHARES.index(50)
    assert marked[half] < 0.1 < 1 < opposite[half]  # without red; without blue, it is surely red
    assert marked[-1] == pytest.approx(opposite[-1], abs=1e-3)  # everything deleted
    assert explain.area(marked) < explain.area(opposite)


def test_the_cost_of_an_explanation_is_measured_in_the_server(tmp_path, monkeypatch):
    monkeypatch.setattr(explain, "REQUESTS", 3)
    version = colour_model.write_version(tmp_path / "1")
    large = odd_images.encode(colour_model.halves("red", "blue", (3000, 2000)), "JPEG")
    with server.run_server(version.parent, name="benchmark") as url:
        one, other = (explain.cost(url, verb, [large]) for verb in ("predict", "explain?overlay=true"))
    assert 0 < one < other


def test_splits_are_judged_by_what_they_hold_and_by_how_much_of_them_changes(monkeypatch):
    monkeypatch.setattr(stratification, "LEAST", 2)
    labels_of = {f"{number:032x}": ["a", "b"] if number < 50 else [] for number in range(100)}
    everything = dict.fromkeys(labels_of, "train")
    assert stratification.deviation(labels_of, everything) == pytest.approx(0.3)
    before = len(labels_of) - stratification.MORE
    moving = {before: dict.fromkeys(labels_of, "test"), len(labels_of): everything}
    judged = stratification.judge(lambda given: {content: moving[len(given)][content] for content in given}, labels_of)
    assert judged == pytest.approx((30, 30, 100))
    dealt = stratification.by_labels(labels_of)
    assert [
        sum(dealt[content] == split for content in labels_of if labels_of[content]) for split in ("train", "validation", "test")
    ] == [35, 10, 5]
