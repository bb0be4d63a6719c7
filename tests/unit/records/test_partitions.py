"""Records from several partitions equal those of one, byte for byte; rejected images are counted over all partitions."""

import csv
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import damaged_records

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import scan, table
from kfp_vision.dataset.split import split_images
from kfp_vision.records.partitions import join_parts, partition_numbers, rows_of_partition, write_one_partition
from kfp_vision.records.records_folder import read_examples, read_records_info, verify_records

SPLITS = ("train", "validation", "test")
fast_settings = settings(database=None, deadline=None, max_examples=200)
PER_SHARD = 5
BROKEN = b"GIF89a, and then nothing"


@dataclass(frozen=True)
class Tables:
    """Outputs of split_images: the tables by split, the folder with labels.txt, and the table of excluded images."""

    tables: dict[str, Path]
    label_map: Path
    left_out: Path


def make_tables(root: Path, *, broken: tuple[str, ...] = ()) -> Tables:
    """Splits 40 tiny images of two classes into 24, 10 and 6; the files named in `broken` are not images."""
    for number in range(40):
        file = root / "photos" / ("dark" if number < 20 else "light") / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 7), 6 * number).save(file)
        if file.name in broken:
            file.write_bytes(BROKEN + file.name.encode())
    table.write_table(root / "images", scan.scan_images(str(root / "photos")).rows)
    outputs = {name: root / name for name in (*SPLITS, "label_map", "left_out")}
    counts = split_images(root / "images", validation_ratio=0.25, test_ratio=0.15, **outputs)
    assert [counts[split] for split in SPLITS] == [24, 10, 6]
    return Tables({split: root / split for split in SPLITS}, root / "label_map", root / "left_out")


LIMITS = {"images_per_shard": PER_SHARD, "max_refused_ratio": 0.5}


def write_partitions(inputs: Tables, root: Path, partitions: int) -> None:
    """Writes the records in several partitions, each to a folder with its number."""
    for number in range(partitions):
        part = root / str(number)
        outputs = {split: part / split for split in SPLITS}
        selection = {"partition": number, "partitions": partitions, "counts": part / "tally"}
        write_one_partition(inputs.tables, inputs.label_map, outputs, part / "refused", processes=1, **selection, **LIMITS)


def write_and_join(inputs: Tables, root: Path, partitions: int, max_refused_ratio: float = 0.5) -> Path:
    """Writes the records in several partitions and joins them; returns the folder of all outputs."""
    write_partitions(inputs, root, partitions)
    return join(inputs, root, partitions, max_refused_ratio)


def join(inputs: Tables, root: Path, partitions: int, max_refused_ratio: float = 0.5) -> Path:
    parts = {name: [root / str(number) / name for number in range(partitions)] for name in (*SPLITS, "refused", "tally")}
    folder = root / "whole"
    outputs = {split: folder / split for split in SPLITS}
    pages = {"summary": folder / "page.html", "left_out": inputs.left_out, "max_refused_ratio": max_refused_ratio}
    join_parts(parts, outputs, folder / "refused", **LIMITS | pages)
    return folder


def write_at_once(inputs: Tables, root: Path) -> Path:
    """Writes the records in one stage."""
    outputs = {split: root / split for split in SPLITS}
    limits = {
        "images_per_shard": PER_SHARD,
        "max_refused_ratio": 0.5,
        "left_out": inputs.left_out,
        "summary": root / "page.html",
    }
    selection = {"partition": 0, "partitions": 1, "processes": 1}
    write_one_partition(inputs.tables, inputs.label_map, outputs, root / "refused", **selection, **limits)
    return root


# In a new process: forking this one is unsafe, since it may have threads, such as TensorFlow's.
BY_PROCESSES = """
import json, sys
from pathlib import Path
from kfp_vision.records import partitions

folder, out, processes = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
splits = ("train", "validation", "test")
how = {"images_per_shard": int(sys.argv[4]), "max_refused_ratio": 0.5, "left_out": folder / "left_out"}
how |= {"partition": 0, "partitions": 1, "summary": out / "page.html", "counts": out / "tally", "processes": processes}
tables, outputs = ({split: place / split for split in splits} for place in (folder, out))
partitions.write_one_partition(tables, folder / "label_map", outputs, out / "refused", **how)
"""


def write_with_processes(processes: int, folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Writes the images of the tables in a folder with several processes."""
    command = [sys.executable, "-c", BY_PROCESSES, str(folder), str(out), str(processes), str(PER_SHARD)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_class_whose_training_images_are_all_rejected_is_named_and_rejected(tmp_path, capsys, partitions):
    inputs = make_tables(tmp_path, broken=tuple(f"{number}.png" for number in range(20, 40)))
    with pytest.raises(InputError, match=r"10% of the classes may be left without an image to train on; got 1 of 2: light\."):
        write_at_once(inputs, tmp_path / "out") if partitions == 1 else write_and_join(inputs, tmp_path / "out", partitions)
    assert "no image to train on is left of 1 of 2 classes: light\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("broken", [(), ("03.png", "21.png", "37.png")])
@pytest.mark.parametrize("processes", [2, 3, 50])
def test_several_processes_write_the_files_of_one(tmp_path, broken, processes):
    make_tables(tmp_path, broken=broken)
    for count in (1, processes):
        process = write_with_processes(count, tmp_path, tmp_path / f"by {count}")
        assert process.returncode == 0, process.stderr
    by_one, by_several = (contents(tmp_path / f"by {count}") for count in (1, processes))
    assert by_one.keys() == by_several.keys()
    assert by_one == by_several


def test_an_error_in_a_worker_process_is_reported_in_one_line(tmp_path):
    inputs = make_tables(tmp_path)
    rows = [replace(row, uri="gs:///nowhere.png") for row in table.read_table(inputs.tables["train"])]
    table.write_table(inputs.tables["train"], rows)
    process = write_with_processes(2, tmp_path, tmp_path / "out")
    assert process.returncode == 1
    assert process.stderr.startswith("error: a URI with gs:// must name a bucket; got gs:///nowhere.png")
    assert process.stderr.count("\n") == 1
    assert list((tmp_path / "out").iterdir()) == []


PROCESSES = """
import sys
from pathlib import Path
from kfp_vision.records import partitions
tables = {split: Path(sys.argv[1]) / split for split in ("train", "validation", "test")}
print(partitions._choose_processes(tables, {"train": 24, "validation": 10, "test": 6}, 5))
"""


def chosen_processes(folder: Path) -> int:
    """Chooses the number of processes for the tables in a folder; in a new process, since this one may have threads."""
    command = [sys.executable, "-c", PROCESSES, str(folder)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_archives_are_read_by_one_process(tmp_path):
    inputs = make_tables(tmp_path)
    assert chosen_processes(tmp_path) == min(os.cpu_count() or 1, 40 // PER_SHARD // 2)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for file in (tmp_path / "photos").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path))
    table.write_table(inputs.tables["train"], scan.scan_images(str(tmp_path / "photos.zip")).rows)
    assert chosen_processes(tmp_path) == 1


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> Tables:
    """Makes tables of valid images."""
    return make_tables(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def partly_invalid(tmp_path_factory) -> Tables:
    """Makes tables in which seven files are not images."""
    return make_tables(tmp_path_factory.mktemp("damaged"), broken=tuple(f"{number:02}.png" for number in range(0, 40, 6)))


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 8, 30, 60])
def test_any_number_of_partitions_gives_the_files_of_one(valid, tmp_path, partitions):
    expected = contents(write_at_once(valid, tmp_path / "once"))
    assert sorted(name for name in expected if name.endswith(".tfrecord") and name.startswith("train")) == [
        f"train/train-{number:05}-of-00005.tfrecord" for number in range(5)
    ]
    assert contents(write_and_join(valid, tmp_path / "parts", partitions)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [3, 7, 60])
def test_rejections_in_several_partitions_leave_no_gaps(partly_invalid, tmp_path, partitions):
    expected = contents(write_at_once(partly_invalid, tmp_path / "once"))
    assert expected["refused"].count(b"\n") == 1 + 7
    joined = write_and_join(partly_invalid, tmp_path / "parts", partitions)
    assert contents(joined) == expected
    rejections = [contents(tmp_path / "parts" / str(number))["refused"].count(b"\n") - 1 for number in range(partitions)]
    assert sum(rejections) == 7
    assert sum(map(bool, rejections)) > 1


def test_full_shards_are_moved_and_not_copied(valid, tmp_path):
    joined = write_and_join(valid, tmp_path, 3)
    inodes = {file.stat().st_ino for number in range(3) for file in (tmp_path / str(number)).rglob("*.tfrecord")}
    assert {file.stat().st_ino for file in joined.rglob("*.tfrecord")} == inodes


def test_joining_parts_in_another_order_gives_the_same_examples(partly_invalid, tmp_path):
    joined = write_and_join(partly_invalid, tmp_path, 4)
    parts = {split: [tmp_path / str(number) / split for number in (2, 0, 3, 1)] for split in SPLITS}
    parts |= {name: [tmp_path / str(number) / name for number in (1, 3, 2, 0)] for name in ("refused", "tally")}
    outputs = {split: tmp_path / "other" / split for split in SPLITS}
    limits = {"images_per_shard": PER_SHARD, "max_refused_ratio": 0.5}
    join_parts(parts, outputs, tmp_path / "other.csv", **limits)
    for split in SPLITS:
        assert sorted(read_examples(outputs[split])) == sorted(read_examples(joined / split))
        assert len(list(outputs[split].iterdir())) == len(list((joined / split).iterdir()))


def test_a_partition_of_invalid_images_does_not_fail_by_itself(tmp_path):
    inputs = make_tables(tmp_path / "data")
    limits = {"images_per_shard": PER_SHARD, "max_refused_ratio": 0.2}
    rows = list(table.read_table(inputs.tables["train"]))
    for row in rows[:5]:  # the first of eight partitions
        Path(row.uri).write_bytes(BROKEN)
    joined = write_and_join(inputs, tmp_path, 8, max_refused_ratio=0.2)
    with (tmp_path / "0" / "refused").open(newline="") as file:
        assert [row["uri"] for row in csv.DictReader(file)] == [row.uri for row in rows[:5]]
    assert list(read_examples(tmp_path / "0" / "train")) == []
    assert [name for name, _, _ in read_examples(joined / "train")] == [row.name for row in rows[5:]]
    outputs = {split: tmp_path / "once" / split for split in SPLITS}
    selection = {"partition": 0, "partitions": 1, "processes": 1}
    write_one_partition(inputs.tables, inputs.label_map, outputs, tmp_path / "once.csv", **selection, **limits)
    assert contents(tmp_path / "once" / "train") == contents(joined / "train")


@pytest.mark.parametrize("fault", ["cut in the middle", "cut between two records", "lost", "added"])
def test_a_damaged_part_is_not_joined(valid, tmp_path, fault):
    write_partitions(valid, tmp_path, 2)
    change, line = damaged_records.FAULTS[fault]
    change(tmp_path / "0" / "train")
    with pytest.raises(InputError, match=line) as refusal:
        join(valid, tmp_path, 2)
    assert str(tmp_path / "0" / "train") in str(refusal.value)
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == ["page.html", "refused"]


@pytest.mark.parametrize("fault", ["a byte flipped", "swapped"])
def test_a_moved_shard_keeps_its_original_checksum(valid, tmp_path, fault):
    write_partitions(valid, tmp_path, 2)
    damaged_records.FAULTS[fault][0](tmp_path / "0" / "train")
    joined = join(valid, tmp_path, 2)
    with pytest.raises(InputError, match=r"train-00000-of-00005\.tfrecord with \d+ bytes and the checksum"):
        verify_records(joined / "train")


@pytest.mark.parametrize("fault", damaged_records.FAULTS)
def test_a_damaged_part_is_not_rewritten(partly_invalid, tmp_path, fault):
    write_partitions(partly_invalid, tmp_path, 3)
    assert read_records_info(tmp_path / "0" / "train").images % PER_SHARD  # its last file is not full
    damaged_records.FAULTS[fault][0](tmp_path / "0" / "train")
    with pytest.raises(InputError, match=r"(records|a TFRecord file) must be intact|must list every shard"):
        join(partly_invalid, tmp_path, 3)
    assert not (tmp_path / "whole" / "train").exists()


def test_parts_without_checksums_are_rewritten_with_checksums(valid, tmp_path):
    write_partitions(valid, tmp_path, 2)
    expected = contents(write_at_once(valid, tmp_path / "once"))
    for metadata in tmp_path.glob("[01]/*/records.json"):
        metadata.write_text(
            json.dumps({name: value for name, value in json.loads(metadata.read_text()).items() if name != "files"})
        )
    assert contents(join(valid, tmp_path, 2)) == expected


def test_too_many_rejections_over_all_partitions_are_an_error_and_leave_no_records(partly_invalid, tmp_path):
    with pytest.raises(InputError) as refusal:
        write_and_join(partly_invalid, tmp_path, 3, max_refused_ratio=0.1)
    line = str(refusal.value)
    assert line.startswith("error: at most 10% of the images may be rejected; got 7 of 40. Fix or remove them, or raise ")
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == ["page.html", "refused"]
    assert "<strong>7 of 40 images" in (tmp_path / "whole" / "page.html").read_text()


counts = st.fixed_dictionaries({split: st.integers(0, 60) for split in SPLITS})


@fast_settings
@given(counts, st.integers(1, 25), st.integers(1, 40))
def test_partitions_cover_every_row_once_and_in_order(counts_by_split, images_per_shard, partitions):
    shares = [rows_of_partition(counts_by_split, images_per_shard, number, partitions) for number in range(partitions)]
    for split, count in counts_by_split.items():
        assert list(chain.from_iterable(share[split] for share in shares)) == list(range(count))


@fast_settings
@given(counts, st.integers(1, 25), st.integers(1, 40))
def test_partitions_are_even_and_aligned_to_shards_if_there_are_enough(counts_by_split, images_per_shard, partitions):
    shares = [rows_of_partition(counts_by_split, images_per_shard, number, partitions) for number in range(partitions)]
    files = sum(-(-count // images_per_shard) for count in counts_by_split.values())
    sizes = [sum(map(len, share.values())) for share in shares]
    if files >= partitions:
        starts = {rows.start for share in shares for rows in share.values() if rows}
        assert {start % images_per_shard for start in starts} == {0}
        assert max(sizes) <= images_per_shard * -(-files // partitions)
    else:
        assert max(sizes) <= 2 * max(1, sum(counts_by_split.values()) // partitions)


def test_partition_numbers_start_at_0():
    assert partition_numbers(3) == [0, 1, 2]
