"""Splitting: exact ratios, copies in the same split, and the same split for an image wherever it is stored."""

import hashlib
import random
import tempfile
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import label_map, scan, table
from kfp_vision.dataset.split import remove_leaks, split_images, split_rows, write_split_tables
from kfp_vision.dataset.table import UNWRITABLE_CATEGORIES, ImageRow, read_table, read_unused, write_table

quickly = settings(database=None, deadline=None, max_examples=60)
ratios = st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.33]), st.sampled_from([0.0, 0.1, 0.25, 0.5])).filter(any)
# Few different contents, so that there are copies.
data_sets = st.lists(st.tuples(st.sampled_from(["daisy", "rose", "tulip"]), st.integers(0, 40)), max_size=120).map(
    lambda pictures: [row(label, f"{label} {content}", number) for number, (label, content) in enumerate(pictures)]
)


def row(label, content, number=0, folder="/photos"):
    """Makes a row whose content id is the hash of a text."""
    name = f"{label}/{number}.jpg"
    return ImageRow(f"{folder}/{name}", label, 1, hashlib.md5(content.encode()).hexdigest(), name)


def rows_of(classes):
    """Makes the given number of rows per label, all with different contents."""
    return [row(label, f"{label} {number}", number) for label, most in classes.items() for number in range(most)]


def split_by_content(parts):
    """Maps content ids to splits."""
    return {row.content_id: name for name, part in parts.items() for row in part}


def run_split(tmp_path, rows, validation_ratio=0.2, test_ratio=0.1, **how):
    """Runs `split_images`, and returns its counts, the tables by split, and the text of the label map."""
    write_table(tmp_path / "images.csv", rows)
    tables = {name: tmp_path / f"{name}.csv" for name in ("train", "validation", "test")}
    counts = split_images(
        tmp_path / "images.csv",
        validation_ratio=validation_ratio,
        test_ratio=test_ratio,
        label_map=tmp_path / "label_map",
        left_out=tmp_path / "left_out.csv",
        **tables,
        **how,
    )
    written = {name: list(read_table(table)) for name, table in tables.items()}
    return counts, written, (tmp_path / "label_map" / "labels.txt").read_text(encoding="utf-8")


def test_every_class_keeps_the_ratios_exactly():
    parts = split_rows(rows_of({"daisy": 100, "rose": 1000, "tulip": 15}), 0.2, 0.1)
    counts = {name: Counter(row.label for row in part) for name, part in parts.items()}
    assert counts["test"] == {"daisy": 10, "rose": 100, "tulip": 2}
    assert counts["validation"] == {"daisy": 20, "rose": 200, "tulip": 3}
    assert counts["train"] == {"daisy": 70, "rose": 700, "tulip": 10}


def test_a_small_class_is_evaluated_on_at_least_one_image():
    parts = split_rows(rows_of({"daisy": 3}), 0.01, 0.01)
    assert {name: len(part) for name, part in parts.items()} == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize(("validation_ratio", "test_ratio", "empty"), [(0.2, 0.0, "test"), (0.0, 0.2, "validation")])
def test_a_ratio_of_zero_gives_an_empty_split(validation_ratio, test_ratio, empty):
    parts = split_rows(rows_of({"daisy": 10}), validation_ratio, test_ratio)
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "validation": 2, "test": 2} | {empty: 0}


@quickly
@given(data_sets, ratios)
def test_no_image_is_lost_or_duplicated(rows, shares):
    parts = split_rows(rows, *shares)
    assert sorted(row.name for part in parts.values() for row in part) == sorted(row.name for row in rows)


@quickly
@given(data_sets, ratios)
def test_copies_go_to_the_same_split(rows, shares):
    parts = split_rows(rows, *shares)
    held = [{row.content_id for row in part} for part in parts.values()]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]


@quickly
@given(st.integers(3, 300), ratios)
def test_a_class_without_copies_keeps_the_ratios_to_half_an_image(most, shares):
    parts = split_rows(rows_of({"daisy": most}), *shares)
    for name, ratio in zip(("validation", "test"), shares, strict=True):
        held_out = len(parts[name])
        is_exact = abs(held_out - ratio * most) <= 0.5 + 1e-9 or (held_out == 1 and ratio * most < 1)
        assert is_exact or len(parts["train"]) == 1  # which comes before the ratios


@quickly
@given(data_sets, ratios, st.randoms(use_true_random=False))
def test_names_order_and_place_do_not_matter(rows, shares, chance):
    moved = [replace(row, uri=f"s3://elsewhere/{number}", name=f"{chance.random()}.png") for number, row in enumerate(rows)]
    chance.shuffle(moved)
    assert split_by_content(split_rows(moved, *shares)) == split_by_content(split_rows(rows, *shares))


@pytest.mark.parametrize("seed", range(5))
def test_when_data_grows_by_a_tenth_at_most_2_percent_change_their_split(seed):
    chance = random.Random(seed)
    rows = [row("daisy", f"{seed} {number}", number) for number in range(1100)]
    chance.shuffle(rows)
    before = split_by_content(split_rows(rows[:1000], 0.2, 0.1))
    after = split_by_content(split_rows(rows, 0.2, 0.1))
    assert sum(after[content] != name for content, name in before.items()) <= 20


def test_classes_are_split_independently():
    rows = rows_of({"daisy": 50, "tulip": 50})
    before = split_by_content(split_rows(rows, 0.2, 0.1))
    after = split_by_content(split_rows([*rows, *rows_of({"rose": 30})], 0.2, 0.1))
    assert after.items() >= before.items()


def test_rows_are_ordered_by_hash_which_shuffles_the_classes():
    train = split_rows(rows_of({"daisy": 500, "tulip": 500}), 0.2, 0.0)["train"]
    assert [row.content_id for row in train] == sorted(row.content_id for row in train)
    assert 150 < sum(row.label == "daisy" for row in train[:400]) < 250


def test_an_image_with_two_labels_is_excluded(tmp_path, capsys):
    conflicting = [row("daisy", "both", 100), row("tulip", "both", 100)]
    counts, tables, _ = run_split(tmp_path, [*rows_of({"daisy": 10, "tulip": 10}), *conflicting])
    assert counts == {"train": 14, "validation": 4, "test": 2, "left_out": 2}
    assert "daisy/100.jpg" not in {row.name for part in tables.values() for row in part}
    assert "excluded, same image with labels daisy and tulip: f6cb3e816496528d4187db53bc66567f" in capsys.readouterr().out
    assert read_unused(tmp_path / "left_out.csv") == [
        ("/photos/daisy/100.jpg", "daisy", "same image with labels daisy and tulip"),
        ("/photos/tulip/100.jpg", "tulip", "same image with labels daisy and tulip"),
    ]


def test_an_image_with_two_labels_can_be_kept_in_both_classes(tmp_path):
    twice = [row(label, f"both {number}", 100 + number) for label in ("daisy", "tulip") for number in range(20)]
    counts, tables, _ = run_split(tmp_path, [*rows_of({"daisy": 30, "tulip": 30}), *twice], conflicting_labels="keep")
    assert counts == {"train": 70, "validation": 20, "test": 10, "left_out": 0}
    for name, most in (("train", 14), ("validation", 4), ("test", 2)):
        shared = Counter(row.content_id for row in tables[name] if int(row.name.split("/")[1][:-4]) >= 100)
        assert set(shared.values()) == {2}
        assert len(shared) == most
    assert read_unused(tmp_path / "left_out.csv") == []


# Few contents, independent of the label, so that many images have several labels.
shared_sets = st.lists(st.tuples(st.sampled_from(["daisy", "rose", "tulip"]), st.integers(0, 60)), max_size=150).map(
    lambda pictures: [row(label, str(content), number) for number, (label, content) in enumerate(pictures)]
)


@quickly
@given(shared_sets, ratios)
def test_images_with_several_labels_go_to_one_split_without_losses(rows, shares):
    parts = split_rows(rows, *shares)
    held = [{row.content_id for row in part} for part in parts.values()]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]
    assert sorted(row.name for part in parts.values() for row in part) == sorted(row.name for row in rows)


@quickly
@given(st.integers(40, 200), st.integers(0, 40), ratios)
def test_a_class_with_images_of_two_labels_keeps_the_ratios_exactly(most, both, shares):
    twice = [row(label, f"both {number}", most + number) for label in ("daisy", "tulip") for number in range(both)]
    parts = split_rows([*rows_of({"daisy": most, "tulip": most + 30}), *twice], *shares)
    for label, pictures in (("daisy", most + both), ("tulip", most + 30 + both)):
        for name, ratio in zip(("validation", "test"), shares, strict=True):
            held_out = sum(row.label == label for row in parts[name])
            assert abs(held_out - ratio * pictures) <= 0.5 + 1e-9


def test_tables_and_label_map_are_written(tmp_path):
    rows = rows_of({"tulip": 10, "daisy, wild": 10, "花 a": 10})
    counts, tables, labels = run_split(tmp_path, rows)
    assert labels == "0:daisy, wild\n1:tulip\n2:花 a\n"
    assert label_map.read_labels(tmp_path / "label_map") == ["daisy, wild", "tulip", "花 a"]
    assert counts == {"train": 21, "validation": 6, "test": 3, "left_out": 0}
    assert (tmp_path / "left_out.csv").read_text() == "uri,label,reason\n"
    assert {name: len(part) for name, part in tables.items()} == {"train": 21, "validation": 6, "test": 3}
    assert sorted((row for part in tables.values() for row in part), key=lambda row: row.name) == sorted(
        rows, key=lambda row: row.name
    )


def test_a_full_disk_ends_a_split_in_one_line(tmp_path, monkeypatch):
    write_table(tmp_path / "images.csv", rows_of({"daisy": 10, "rose": 10}))
    monkeypatch.setattr(table, "write_unused", lambda *_: Path("/dev/full").write_text("x"))
    places = (tmp_path / "images.csv", tmp_path / "out" / "tables", tmp_path / "out" / "label_map")
    with pytest.raises(InputError, match=r"got No space left on device in \S+/out\b.*Make room there, or write to"):
        write_split_tables(*places, validation_ratio=0.2, test_ratio=0.1)
    assert not places[1].exists()


def test_a_label_with_a_colon_round_trips(tmp_path):
    label_map.write_labels(tmp_path, ["a:b", "0:daisy", ":"])
    assert label_map.read_labels(tmp_path) == ["a:b", "0:daisy", ":"]


@pytest.mark.parametrize(
    ("few", "counts"),
    [
        ([row("rare", "one", 0)], (1, 0, 0)),
        ([row("rare", "one", 0), row("rare", "two", 1)], (1, 0, 1)),
        ([row("rare", "one", 0), row("rare", "two", 1), row("rare", "three", 2)], (1, 1, 1)),
        ([row("rare", "copy", number) for number in range(20)], (20, 0, 0)),
        ([row("rare", "first" if number < 2 else "last", number) for number in range(20)], (18, 0, 2)),
    ],
    ids=["one image", "two images", "three images", "copies of one", "copies of two"],
)
def test_a_class_keeps_an_image_to_train_on(tmp_path, few, counts):
    _, tables, labels = run_split(tmp_path, [*rows_of({"daisy": 100}), *few])
    assert tuple(sum(row.label == "rare" for row in part) for part in tables.values()) == counts
    assert labels == "0:daisy\n1:rare\n"


@quickly
@given(data_sets, st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)))
def test_every_class_of_any_data_keeps_an_image_to_train_on(rows, shares):
    parts = split_rows(rows, *shares)
    assert {row.label for row in parts["train"]} == {row.label for row in rows}
    held = [{row.content_id for row in part} for part in parts.values()]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]


def test_classes_whose_images_all_have_two_labels_are_rejected_together(tmp_path):
    twice = [row(label, f"both {number}", number) for number, rare in enumerate(["lily", "rose"]) for label in (rare, "daisy")]
    with pytest.raises(InputError) as refusal:
        run_split(tmp_path, [*rows_of({"daisy": 100}), *twice])
    assert str(refusal.value) == (
        "error: every class must keep an image to train on; got none of lily, rose. "
        "Add images that are in no other class or split, or exclude those there are by leave_out_uri."
    )
    assert {path.name for path in tmp_path.iterdir()} == {"images.csv"}


def test_labels_that_are_numbers_are_numbered_by_their_value(tmp_path):
    _, _, labels = run_split(tmp_path, rows_of(dict.fromkeys(["10", "9", "2", "0", "1"], 10)))
    assert labels == "0:0\n1:1\n2:2\n3:9\n4:10\n"


def test_the_flower_photographs_are_split(flower_photos, tmp_path):
    counts, tables, labels = run_split(tmp_path, scan.scan_images(str(flower_photos)).rows, test_ratio=0.0)
    assert labels == "0:daisy\n1:dandelion\n2:roses\n3:sunflowers\n4:tulips\n"
    assert counts == {"train": 602, "validation": 150, "test": 0, "left_out": 2}
    held_out = Counter(row.label for row in tables["validation"])
    assert held_out == {"daisy": 30, "dandelion": 30, "roses": 30, "sunflowers": 30, "tulips": 30}


def test_the_flower_photograph_with_two_labels_is_kept_on_request(flower_photos, tmp_path):
    rows = scan.scan_images(str(flower_photos)).rows
    counts, tables, _ = run_split(tmp_path, rows, test_ratio=0.0, conflicting_labels="keep")
    assert counts == {"train": 604, "validation": 150, "test": 0, "left_out": 0}
    split_by_content = [
        name for name, part in tables.items() for row in part if row.name.endswith("/15922772266_1167a06620.jpg")
    ]
    assert split_by_content in (["train"] * 2, ["validation"] * 2)


odd_labels = st.text(min_size=1, max_size=12).filter(
    lambda text: not any(unicodedata.category(c) in UNWRITABLE_CATEGORIES for c in text)
)
odd_labels |= st.sampled_from(["<script>alert(1)</script>", "a, b", "two  spaces", "花 雏菊", 'a "quote"', "0:daisy"])


@settings(quickly, max_examples=20)
@given(st.sets(odd_labels, min_size=2, max_size=4))
def test_any_class_name_is_split_and_read_back(labels):
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(label, f"{label} {number}", number) for label in labels for number in range(10)]
        counts, tables, _ = run_split(Path(folder), rows)
        assert label_map.read_labels(Path(folder) / "label_map") == sorted(labels)
    assert counts == {"train": 7 * len(labels), "validation": 2 * len(labels), "test": len(labels), "left_out": 0}
    assert Counter(row.label for row in tables["train"]) == dict.fromkeys(labels, 7)


@settings(quickly, max_examples=8)
@given(st.integers(0, 1 << 30), ratios)
def test_with_any_data_and_ratio_at_most_2_percent_change_their_split(seed, shares):
    rows = [row("daisy", f"{seed} {number}", number) for number in range(5500)]
    before = split_by_content(split_rows(rows[:5000], *shares))
    after = split_by_content(split_rows(rows, *shares))
    assert sum(after[content] != name for content, name in before.items()) <= 100


@settings(quickly, max_examples=6)
@given(st.integers(0, 1 << 30), ratios, st.integers(2, 40))
def test_with_images_of_two_labels_at_most_2_percent_change_their_split(seed, shares, every):
    rows = [
        row(label, f"{seed} {number}" if number % every == 0 else f"{seed} {label} {number}", number)
        for number in range(5500)
        for label in ("daisy", "tulip")
    ]
    before, after = split_by_content(split_rows(rows[:10_000], *shares)), split_by_content(split_rows(rows, *shares))
    assert sum(after[content] != name for content, name in before.items()) <= 200


predefined_sets = st.lists(
    st.tuples(st.sampled_from(["daisy", "tulip"]), st.integers(0, 25), st.sampled_from(["", "train", "validation", "test"])),
    max_size=80,
).map(lambda all_: [replace(row(label, str(content), n), split=split) for n, (label, content, split) in enumerate(all_)])


@quickly
@given(predefined_sets, ratios)
def test_predefined_splits_are_kept_and_do_not_affect_the_other_images(rows, shares):
    parts = split_rows(rows, *shares)
    alone = split_rows([row for row in rows if not row.split], *shares)
    for name, part in parts.items():
        assert {row.name for row in part} == {row.name for row in rows if row.split == name} | {row.name for row in alone[name]}


@quickly
@given(predefined_sets, ratios)
def test_of_copies_in_several_splits_only_the_held_out_one_is_kept(rows, shares):
    parts = split_rows(rows, *shares)
    remaining = remove_leaks(parts)
    train, validation, test = ({row.content_id for row in remaining[name]} for name in ("train", "validation", "test"))
    assert not train & validation and not train & test and not validation & test
    assert remaining["test"] == parts["test"]
    assert train | validation | test == {row.content_id for row in rows}


def test_an_image_in_two_predefined_splits_is_excluded_from_training(tmp_path, capsys):
    rows = [replace(original, split="train") for original in rows_of({"daisy": 4, "tulip": 4})]
    leaked = replace(rows[0], name="test/leaked.jpg", split="test")
    counts, tables, _ = run_split(tmp_path, [*rows, leaked])
    assert counts == {"train": 7, "validation": 0, "test": 1, "left_out": 1}
    assert [row.name for row in tables["test"]] == ["test/leaked.jpg"]
    assert rows[0] not in tables["train"]
    assert "excluded from train, same image held out: 1" in capsys.readouterr().out
    assert read_unused(tmp_path / "left_out.csv") == [
        (rows[0].uri, "daisy", "same image in the test split"),
    ]
