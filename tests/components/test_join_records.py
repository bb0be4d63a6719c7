"""Stages that write records on several machines, in the loop of a pipeline."""

import contextlib
import io
import json
import shutil
import warnings
from pathlib import Path

import pytest
from kfp import dsl, local
from support import run_component

from kfp_vision import components
from kfp_vision.cli.run import make_sequential
from kfp_vision.pipelines.preparation import written_in_partitions

RECORDS = ("train_records", "validation_records", "test_records")


def write(tables: dict[str, Path], root: Path, partitions: int, advanced: dict[str, float]) -> tuple[Path, str]:
    """Writes records in partitions and joins them; returns the folder of join_records, and what was printed."""

    @dsl.pipeline(name="partitions")
    def in_partitions(partitions: int, images_per_shard: int, advanced: dict):
        split = {name: run_component.imported(components.write_tfrecords, name, path) for name, path in tables.items()}
        limits = {"images_per_shard": images_per_shard, "advanced": advanced}
        first = components.partition_records(partitions=1)
        written_in_partitions(split, partitions=partitions, after=first, **limits)

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    shown = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(shown), contextlib.suppress(RuntimeError):
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        make_sequential(in_partitions)(partitions=partitions, images_per_shard=8, advanced=advanced)
    (folder,) = {path.parent for path in root.glob("partitions-*/join-records/summary")}
    return folder, shown.getvalue()


@pytest.fixture(scope="module")
def tables(split) -> dict[str, Path]:
    """Makes the input artifacts of write_tfrecords."""
    return {name: split.folder / name for name in ("tables", "label_map")}


@pytest.fixture
def with_one_gone(tables, tmp_path) -> dict[str, Path]:
    """Makes the same artifacts, with one training image missing."""
    folder = shutil.copytree(tables["tables"], tmp_path / "tables")
    header, row, *rest = (folder / "train.csv").read_text().splitlines(keepends=True)
    (folder / "train.csv").write_text("".join([header, row.replace(".jpg", ".nowhere.jpg", 1), *rest]))
    return tables | {"tables": folder}


@pytest.mark.parametrize("partitions", [1, 3])
def test_the_records_are_those_that_one_stage_writes(tables, written, tmp_path, partitions):
    made, _ = write(tables, tmp_path, partitions, {})
    for name in (*RECORDS, "refused", "summary"):
        files = [sorted(path for path in (folder / name).rglob("*")) or [folder / name] for folder in (made, written.folder)]
        assert [path.name for path in files[0]] == [path.name for path in files[1]]
        assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    said = json.loads((made / "executor_output.json").read_text())["artifacts"]
    metadata = {name: listed["artifacts"][0]["metadata"] for name, listed in said.items()}
    assert {name: metadata[name] for name in RECORDS} == {name: written.metadata[name] for name in RECORDS}


def test_a_refused_picture_does_not_fail_its_partition(with_one_gone, tmp_path):
    made, printed = write(with_one_gone, tmp_path, 4, {"max_refused_ratio": 0.05})
    assert json.loads((made / "train_records" / "records.json").read_text())["images"] == 13
    assert "No such file or directory" in (made / "refused").read_text()
    assert "FAILURE" not in printed


def test_refuses_when_too_many_pictures_of_all_partitions_are_broken(with_one_gone, tmp_path):
    made, printed = write(with_one_gone, tmp_path, 4, {"max_refused_ratio": 0.04})
    assert "error: at most 4% of the images may be rejected; got 1 of 20. Fix or remove them, " in printed
    assert "Traceback" not in printed
    assert sorted(path.name for path in made.iterdir()) == ["refused", "summary"]
