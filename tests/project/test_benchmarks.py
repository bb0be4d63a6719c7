"""How a benchmark's figure is made."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from support import colour_model, sample_images
from support.model_servers import program

from benchmarks import convert, fine_tuning, learn, measure, scale, search, serve, slim, training_stage
from kfp_vision.serving import server
from kfp_vision.storage import sample

ROOT = Path(__file__).resolve().parents[2]


def test_a_figure_is_the_ratio_of_medians_after_a_round_unmeasured(capsys, monkeypatch):
    monkeypatch.setenv("BENCH_ROUNDS", "3")
    ours, peer = iter([1000.0, 30.0, 10.0, 20.0]), iter([1000.0, 5.0, 40.0, 10.0])
    measure.compare("doing", "another", "img/s", lambda: next(ours), lambda: next(peer))
    figure = {"benchmark": "doing", "ours": 20.0, "peer": 10.0, "peer_name": "another", "ratio": 2.0, "unit": "img/s"}
    assert json.loads(capsys.readouterr().out) == figure


def test_where_less_is_better_the_ratio_is_turned():
    assert measure.report("keeping", "the bound", "MiB", [(200.0, 100.0)] * 3, less=True).ratio == 0.5


@pytest.fixture
def four_pictures(tmp_path, monkeypatch) -> convert.Conversion:
    """Two pictures in the place of the photographs, each twice."""
    sample_images.pictures(tmp_path / "data" / "flower_photos", classes=2, each=1)
    monkeypatch.setenv("KFP_VISION_DATA", str(tmp_path / "data"))
    return convert.Conversion(tmp_path, 2)


def encoded(folder: Path) -> set[bytes]:
    files = sorted(str(file) for file in folder.glob("*.tfrecord"))
    examples = map(tf.train.Example.FromString, tf.data.TFRecordDataset(files).as_numpy_iterator())
    return {example.features.feature["image/encoded"].bytes_list.value[0] for example in examples}


def test_everybody_converts_the_same_pictures(four_pictures, tmp_path):
    tar = program("tar")
    pictures = {file.read_bytes() for file in four_pictures.photographs.glob("*/*.jpg")}
    assert len(four_pictures.rows) == 4
    with closing(slim.Converter()) as converter:
        assert converter.convert(four_pictures.photographs, convert.recreate(tmp_path / "slim")) > 0
    assert len(list((tmp_path / "slim").iterdir())) == slim.SHARDS
    for check_pixels in (True, False):
        assert four_pictures.convert(check_pixels=check_pixels) > 0
        assert encoded(tmp_path / "slim") == encoded(four_pictures.records) == pictures
    assert four_pictures.pack() > 0
    packed = subprocess.run([tar, "tf", tmp_path / "packed" / "photographs.tar"], check=True, capture_output=True, text=True)
    assert packed.stdout.count(".jpg\n") == 4


def test_a_measurement_in_its_own_process_gives_seconds_and_memory(tmp_path):
    scale.draw(tmp_path, 12)
    assert len({file.read_bytes() for file in (tmp_path / "pictures").iterdir()}) == 12
    start = time.perf_counter()
    seconds, memory = scale.measure_task("convert", tmp_path, 12)
    assert 0 < seconds <= time.perf_counter() - start
    assert 20 < memory < scale.MIB
    assert len(encoded(tmp_path / "train")) == 12
    scale.measure_task("list_and_split", tmp_path, 100)
    assert len((tmp_path / "train.csv").read_text().splitlines()) > 60


def test_an_unknown_benchmark_is_refused_in_one_line():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "sing"], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    names = "convert, scale, train, learn, serve, retrieval, search"
    assert done.stderr == f"error: a benchmark must be one of {names}; got sing. Take one of these.\n"


def test_the_whole_training_is_measured_between_its_events(tmp_path, monkeypatch, capsys):
    sample_images.pictures(tmp_path / "data" / "flower_photos", classes=2, each=3)
    monkeypatch.setenv("KFP_VISION_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(training_stage, "STEPS", 4)
    monkeypatch.setattr(training_stage, "WARM_UP", 1)
    training_stage.prepare(tmp_path)
    start = time.perf_counter()
    training_stage.main(str(tmp_path), "2")
    seconds = time.perf_counter() - start
    assert float(capsys.readouterr().out) > 2 * 3 / seconds  # three steps of two lie between the first event and the last
    assert (tmp_path / "model" / "classifier.keras").exists()


def test_what_each_stage_takes_is_a_row(tmp_path):
    sample_images.pictures(tmp_path / "data" / "flower_photos", classes=2, each=3)
    command = [sys.executable, "-m", "benchmarks.stages", tmp_path / "once", "prepare_records", "600", "check_images=false"]
    environment = os.environ | {"KFP_VISION_DATA": str(tmp_path / "data")}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    passed = time.perf_counter() - start
    assert (
        len({file.read_bytes() for file in (tmp_path / "once" / "pictures").glob("*/*.jpg")}) == 600
    )  # with fewer the stages are over between two looks
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    taken = {stage: [float(figure) for figure in figures] for stage, *figures in rows}
    seconds, processor, memory, written = taken["`write_partition`"]
    assert 0 <= seconds <= passed and 0 < processor <= passed * os.cpu_count() and 20 < memory < 1024 and written < 100


def test_every_picture_is_held_out_of_one_fold_and_copies_of_none(tmp_path):
    pictures = sample_images.pictures(tmp_path / "all", classes=2, each=20)
    (pictures / "bellcup" / "copy.jpg").write_bytes((pictures / "globelet" / "0001.jpg").read_bytes())
    held_out, once = [], 39
    for fold in learn.split_folds(pictures, learn.FOLDS):
        train, test = ({file.relative_to(fold / side) for file in (fold / side).glob("*/*")} for side in ("train", "test"))
        assert len(train) + len(test) == once and not train & test
        held_out += test
    assert len(held_out) == len(set(held_out)) == once


def test_a_fine_tuning_is_measured_on_the_pictures_it_did_not_see(tmp_path, real_data, capsys):
    for side, first in (("train", 1), ("test", 7)):
        for label in ("bellcup", "globelet"):
            (tmp_path / "fold" / side / label).mkdir(parents=True)
            for number in range(first, first + 4):
                picture = sample.draw(f"{label}/{number:04}.jpg")
                (tmp_path / "fold" / side / label / f"{number}.jpg").write_bytes(picture)
    weights = str(real_data / "googlenet" / "bvlc_googlenet.npz")
    start = time.perf_counter()
    how = {"weights": weights, "steps": 3, "batch_size": 4, "learning_rate": 0.002}
    fine_tuning.main(folder=str(tmp_path / "fold"), **how)
    said = learn.Learned(**json.loads(capsys.readouterr().out))
    assert said.accuracy in [right / 8 for right in range(9)]
    assert 0 < said.seconds <= time.perf_counter() - start


def test_servers_and_the_process_alone_are_asked_about_the_same_pictures(tmp_path):
    colour_model.write_version(tmp_path / "model" / "1", name="benchmark")
    pictures = sample_images.pictures(tmp_path / "pictures", classes=2, each=3)
    with server.run_server(tmp_path / "model") as ours, serve.stock_predictor(tmp_path / "model") as stock:
        met = [serve.measure_load(url, pictures, 2, seconds=1) for url in (ours, stock)]
    assert all(one.rate > 0 and 0 < one.p50 <= one.p99 for one in met)
    assert serve.measure_in_process(tmp_path / "model", pictures, seconds=1) > 0


def test_what_is_refused_is_no_answer(tmp_path):
    colour_model.write_version(tmp_path / "model" / "1", name="another")
    pictures = sample_images.pictures(tmp_path / "pictures", classes=1, each=1)
    with server.run_server(tmp_path / "model") as url, pytest.raises(subprocess.CalledProcessError):
        serve.measure_load(url, pictures, 1, seconds=1)


def test_a_search_is_compared_with_what_numpy_finds_among_the_same_vectors(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_ROUNDS", "1")
    monkeypatch.setattr(search, "VECTORS", 4000)
    monkeypatch.setattr(search, "QUERIES", 40)
    monkeypatch.setattr(search, "QUERIES_PER_ROUND", {1: (5, 5), 32: (40, 40)})
    search.draw(tmp_path)
    vectors = np.fromfile(tmp_path / "vectors", "float16").reshape(4000, 1024).astype("float32")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
    places = search.search_exhaustively(vectors, vectors[100:103])
    assert places.shape == (3, 10) and places[:, 0].tolist() == [100, 101, 102]
    similarities = vectors[100:103] @ vectors.T
    np.testing.assert_array_equal(places, np.argsort(-similarities, 1, kind="stable")[:, :10])
    said = search.build(tmp_path)
    assert said["seconds"] > 0 and said["memory"] > 0
    said = search.ask(tmp_path)
    assert len(said["1"]) == len(said["32"]) == 1 and min(said["1"][0] + said["32"][0]) > 0
    assert 90 < said["recall"] <= 100


def test_embedding_is_compared_with_inference_alone(tmp_path, monkeypatch):
    sample_images.pictures(tmp_path / "data" / "flower_photos", classes=2, each=3)
    monkeypatch.setenv("KFP_VISION_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BENCH_ROUNDS", "1")
    ((ours, peer),) = search.embed(tmp_path)["rates"]
    assert ours > 0 and peer > 0
    assert (tmp_path / "part 1" / "part.json").exists()
