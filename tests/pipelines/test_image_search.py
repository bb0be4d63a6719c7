"""An index of pictures and a search in it, through the command line."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import embedding_model, sample_images


class Run(NamedTuple):
    """A command that ended well: what it printed, its last line parsed, and the pictures it read."""

    lines: list[str]
    result: dict[str, Any]
    pictures: Path


def carried_out(root: Path, pictures: Path, **changes: object) -> Run:
    """A run in a folder that has a model."""
    form = {"images_uri": pictures, "model_uri": root / "model", "nearest": 4}
    form |= {"queries_uri": pictures / "bellcup", "label": "bellcup", "deploy_to": root / "model"} | changes
    options = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "image_search", *options, "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return Run(done.stdout.splitlines(), json.loads(done.stdout.splitlines()[-1]), pictures)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root = tmp_path_factory.mktemp("run")
    embedding_model.write_model(root / "model")
    return carried_out(root, sample_images.pictures(root / "pictures", each=10))


def test_in_partitions_the_index_and_what_is_found_in_it_are_the_same(run):
    parted = carried_out(run.pictures.parent, run.pictures, partitions=3, deploy_to="none", audit=False)
    stages = [line.split("] ")[1] for line in parted.lines if line.startswith("[")]
    assert [stage for stage in stages if stage.startswith("index_images")] == [
        "index_images", "index_images (2)", "index_images (3)"
    ]  # fmt: skip
    for name in ("vectors", "pictures.csv", "thumbnails", "thumbnails.npy"):
        one, other = (Path(of.result["index"], "1", name).read_bytes() for of in (run, parted))
        assert one == other
    assert Path(parted.result["nearest"]).read_text() == Path(run.result["nearest"]).read_text()
    assert (parted.result["pictures"], parted.result["refused"]) == (20, 0)


def test_ends_with_an_index_and_what_was_found_in_it(run):
    stages = [line.split()[1] for line in run.lines if line.startswith("[")]
    assert stages[0] == "check_search" and sorted(stages[1:4]) == ["fetch_embedder", "fingerprint_images", "list_images"]
    assert stages[4:6] == ["index_images", "join_index"] and stages[-1] == "report_outcome"
    assert sorted(stages[6:-1]) == ["audit_images", "deploy_index", "search_images"]
    assert Path(run.result["findings"]).read_text().startswith("path,leave_out,")
    assert "<h2>Map of the embeddings</h2>" in Path(run.result["audit"]).read_text()
    assert f"index     20 images, 0 rejected: {run.result['index']}" in run.lines
    with Path(run.result["nearest"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and {row["label"] for row in rows} == {"bellcup"}
    assert "<h1>Nearest images</h1>" in Path(run.result["report"]).read_text()


def test_the_index_lies_with_its_model(run):
    place = run.pictures.parent / "model" / "serving"
    told = run.result["deployed"]
    assert (told["repository"], told["model_name"], told["version"], told["pictures"]) == (str(place), "flowers", 1, 20)
    assert f"deployed  next to version 1 of flowers in {place}" in run.lines
    assert json.loads((place / "index" / "index.json").read_text())["generation"] == told["generation"]


def searched(run: Run, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kfp_vision.cli", "search", "--index", run.result["index"], *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line_searches_in_it(run):
    picture = run.pictures / "globelet" / "0003.jpg"
    done = searched(run, "--nearest", 2, "--json", picture)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["path"] == str(picture) and said["nearest"][0]["path"] == str(picture)
    assert len(said["nearest"]) == 2 and said["nearest"][0]["label"] == "globelet"
    plain = searched(run, "--nearest", 1, picture).stdout.splitlines()
    assert plain == [str(picture), f"  {said['nearest'][0]['similarity']:.4f}  globelet  {picture}"]


def test_what_cannot_be_read_is_one_line_and_the_rest_is_found(run, tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture")
    done = searched(run, "--nearest", 1, tmp_path / "notes.jpg", run.pictures / "globelet" / "0001.jpg")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: an image must be readable; got {tmp_path / 'notes.jpg'} (")
    assert len(done.stdout.splitlines()) == 2
