"""Stages that write records in partitions, in the loop of a pipeline."""

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


def write_and_join(tables: dict[str, Path], root: Path, partitions: int, advanced: dict[str, float]) -> tuple[Path, str]:
    """Writes records in partitions and joins them; returns the folder of join_records, and what was printed."""

    @dsl.pipeline(name="partitions")
    def in_partitions(partitions: int, images_per_shard: int, advanced: dict):
        split = {name: run_component.import_artifact(components.write_tfrecords, name, path) for name, path in tables.items()}
        limits = {"images_per_shard": images_per_shard, "advanced": advanced}
        start = components.partition_records(partitions=1)
        written_in_partitions(split, partitions=partitions, after=start, **limits)

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
    stdout = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(stdout), contextlib.suppress(RuntimeError):
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        make_sequential(in_partitions)(partitions=partitions, images_per_shard=8, advanced=advanced)
    (folder,) = {path.parent for path in root.glob("partitions-*/join-records/summary")}
    return folder, stdout.getvalue()


@pytest.fixture(scope="module")
def tables(split) -> dict[str, Path]:
    """Makes the input artifacts of write_tfrecords."""
    return {name: split.folder / name for name in ("tables", "label_map")}


@pytest.fixture
def tables_with_a_missing_image(tables, tmp_path) -> dict[str, Path]:
    """Makes the same artifacts, with one training image missing."""
    folder = shutil.copytree(tables["tables"], tmp_path / "tables")
    header, row, *rest = (folder / "train.csv").read_text().splitlines(keepends=True)
    (folder / "train.csv").write_text("".join([header, row.replace(".jpg", ".nowhere.jpg", 1), *rest]))
    return tables | {"tables": folder}


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 3])
def test_joined_records_equal_those_of_one_stage(tables, written, tmp_path, partitions):
    joined, _ = write_and_join(tables, tmp_path, partitions, {})
    for name in (*RECORDS, "refused", "summary"):
        files = [sorted(path for path in (folder / name).rglob("*")) or [folder / name] for folder in (joined, written.folder)]
        assert [path.name for path in files[0]] == [path.name for path in files[1]]
        assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    artifacts = json.loads((joined / "executor_output.json").read_text())["artifacts"]
    metadata = {name: listed["artifacts"][0]["metadata"] for name, listed in artifacts.items()}
    assert {name: metadata[name] for name in RECORDS} == {name: written.metadata[name] for name in RECORDS}


@pytest.mark.slow
def test_a_rejected_image_does_not_fail_its_partition(tables_with_a_missing_image, tmp_path):
    joined, printed = write_and_join(tables_with_a_missing_image, tmp_path, 4, {"max_refused_ratio": 0.05})
    assert json.loads((joined / "train_records" / "records.json").read_text())["images"] == 13
    assert "No such file or directory" in (joined / "refused").read_text()
    assert "FAILURE" not in printed


@pytest.mark.slow
def test_rejects_too_many_invalid_images_over_all_partitions(tables_with_a_missing_image, tmp_path):
    joined, printed = write_and_join(tables_with_a_missing_image, tmp_path, 4, {"max_refused_ratio": 0.04})
    assert "error: at most 4% of the images may be rejected; got 1 of 20. Fix or remove them, " in printed
    assert "Traceback" not in printed
    assert sorted(path.name for path in joined.iterdir()) == ["refused", "summary"]
