"""Batch prediction: classifies files, folders and archives, and writes the table of predictions."""

import csv
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from support import colour_model, exported_model, known_colours, mixed_colours, zip_names

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.prediction import batch, client
from kfp_vision.prediction.classifier import Classifier, Prediction, choose_labels
from kfp_vision.repository.version import Version
from kfp_vision.storage import reading, several_sample


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Classifier:
    return Classifier(Version(colour_model.write_version(tmp_path_factory.mktemp("version") / "1")), max_pixels=10_000)


def labels(answers) -> list[str]:
    return [answer.label if isinstance(answer, Prediction) else f"refused: {answer}" for answer in answers]


def test_classifies_images(classifier):
    answers = classifier.classify([colour_model.picture(colour) for colour in ("blue", "red")])
    assert labels(answers) == ["blue", "red"]
    assert [answer.number for answer in answers] == [2, 0]
    assert all(answer.score == max(answer.probabilities) > 0.99 for answer in answers)


def test_a_damaged_image_does_not_affect_the_others(classifier):
    red = colour_model.picture("red")
    damaged = red[:200] + bytes(byte ^ 0x5A for byte in red[200:400]) + red[400:]
    answers = classifier.classify([red, b"", b"no picture", damaged, colour_model.picture("green", size=(200, 100)), red])
    assert labels(answers[:3]) == ["red", "refused: empty", "refused: not an image in a known format"]
    assert labels(answers[4:]) == ["refused: 200 x 100 pixels, more than 0 million", "red"]


def test_an_image_that_only_tensorflow_rejects_does_not_affect_the_others(classifier):
    # Pillow decodes this at an eighth of its size and skips a marker that TensorFlow's decoder rejects.
    intact = colour_model.picture("blue", size=(90, 90))
    end = intact.rindex(b"\xff\xd9")
    for at in range(end - 1, end - 60, -1):
        broken = intact[:at] + b"\xff\xc4" + intact[at + 2 :]
        answers = classifier.classify([intact, broken, intact])
        assert labels(answers)[0] == labels(answers)[2] == "blue"


def test_an_empty_batch_has_no_answers(classifier):
    assert classifier.classify([]) == []


@pytest.mark.slow
def test_a_model_with_fewer_labels_than_scores_is_rejected(tmp_path):
    folder = colour_model.write_version(tmp_path / "1")
    about = folder / "assets.extra" / "model.json"
    about.write_text(about.read_text().replace('"green", ', ""))
    with pytest.raises(InputError, match="one score per label; got 3 scores for 2 labels"):
        Classifier(Version(folder))


@pytest.mark.slow
def test_a_model_with_scores_that_are_not_finite_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"a model must give finite scores; got \[nan, nan, nan\] from .*1\. Train it again\."):
        Classifier(Version(colour_model.write_version(tmp_path / "1", scale=float("nan"))))


def test_a_model_that_does_not_load_is_rejected_in_one_line(tmp_path):
    folder = colour_model.write_version(tmp_path / "1")
    exported_model.break_version(folder)
    with pytest.raises(InputError, match="a model must load and answer") as refusal:
        Classifier(Version(folder))
    assert "\n" not in str(refusal.value)


@pytest.fixture
def folder(tmp_path) -> Path:
    """red/1.jpg, red/2.png, sky/1.jpg (blue), loose.jpg (green), and files that are not images."""
    for name, colour in {"red/1.jpg": "red", "red/2.png": "red", "sky/1.jpg": "blue", "loose.jpg": "green"}.items():
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(colour_model.picture(colour, "PNG" if name.endswith("png") else "JPEG"))
    (tmp_path / "pictures" / "red" / "notes.txt").write_text("no picture")
    (tmp_path / "pictures" / "red" / ".hidden.jpg").write_text("no picture")
    return tmp_path / "pictures"


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_predicts_a_folder_and_writes_a_table(classifier, folder, tmp_path, capsys):
    (folder / "red" / "broken.jpg").write_bytes(b"no picture")
    counts = batch.predict_images(classifier, classifier.labels, str(folder), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "path,label,prediction,score,known,known_score"
    rows = {os.path.relpath(row["path"], folder): row for row in table(tmp_path / "out.csv")}
    assert {name: (row["label"], row["prediction"]) for name, row in rows.items()} == {
        "red/1.jpg": ("red", "red"),
        "red/2.png": ("red", "red"),
        "red/broken.jpg": ("red", ""),
        "sky/1.jpg": ("sky", "blue"),
        "loose.jpg": ("", "green"),
    }
    assert float(rows["sky/1.jpg"]["score"]) > 0.99 and rows["red/broken.jpg"]["score"] == ""
    assert counts == {"pictures": 5, "unreadable": 1, "labelled": 3, "right": 2}
    output = capsys.readouterr().out
    assert "broken.jpg (not an image in a known format)" in output
    assert "5 images classified, 1 unreadable; accuracy 0.6667 on the 3 in folders named after a class" in output


def test_one_image_is_told_in_the_singular(classifier, folder, tmp_path, capsys):
    batch.predict_images(classifier, classifier.labels, str(folder / "sky"), tmp_path / "out.csv")
    assert capsys.readouterr().out == "1 image classified, 0 unreadable\n"


@pytest.mark.slow
@pytest.mark.parametrize("name_unknown", [False, True])
def test_the_table_says_which_images_are_known(folder, tmp_path, name_unknown):
    version = known_colours.write_version(tmp_path / "1", name_unknown=name_unknown)
    (folder / "red" / "3.png").write_bytes(known_colours.yellow())
    (folder / "broken.jpg").write_bytes(b"no picture")
    counts = batch.predict_images(
        Classifier(version), version.labels, str(folder), tmp_path / "out.csv", name_unknown=version.name_unknown
    )
    rows = {os.path.relpath(row["path"], folder): row for row in table(tmp_path / "out.csv")}
    assert {name: row["known"] for name, row in rows.items()} == {
        **dict.fromkeys(("red/1.jpg", "red/2.png", "sky/1.jpg", "loose.jpg"), "true"),
        "red/3.png": "false",
        "broken.jpg": "",
    }
    assert float(rows["red/3.png"]["known_score"]) < float(rows["red/1.jpg"]["known_score"])
    assert (rows["red/3.png"]["prediction"] == "unknown") is name_unknown
    assert rows["red/1.jpg"]["prediction"] == "red" and counts["unreadable"] == 1


@pytest.mark.slow
def test_an_image_in_a_folder_called_unknown_is_not_right_since_it_has_no_label(folder, tmp_path):
    version = known_colours.write_version(tmp_path / "1", name_unknown=True)
    (folder / "unknown").mkdir()
    for name in ("unknown/1.png", "unknown/2.png"):
        (folder / name).write_bytes(known_colours.yellow())
    parts, classifier = [tmp_path / "0.csv", tmp_path / "1.csv"], Classifier(version)
    options = {"name_unknown": True, "partitions": 2}
    for number, part in enumerate(parts):
        batch.predict_images(classifier, version.labels, str(folder), part, partition=number, **options)
    joined = batch.join_predictions(parts, version.labels, tmp_path / "all.csv", str(folder))
    whole = batch.predict_images(classifier, version.labels, str(folder), tmp_path / "out.csv", name_unknown=True)
    assert joined == whole
    assert (whole["labelled"], whole["right"]) == (2, 2)
    assert [row["prediction"] for row in table(tmp_path / "out.csv") if "unknown" in row["path"]] == ["unknown"] * 2


def test_the_table_has_the_scores_of_all_classes_on_request(classifier, folder, tmp_path):
    (folder / "broken.jpg").write_bytes(b"no picture")
    batch.predict_images(classifier, classifier.labels, str(folder), tmp_path / "out.csv", all_scores=True)
    rows = {os.path.relpath(row["path"], folder): row for row in table(tmp_path / "out.csv")}
    scores = {label: float(rows["sky/1.jpg"][f"score:{label}"]) for label in colour_model.RGB}
    assert max(scores, key=scores.get) == "blue" and sum(scores.values()) == pytest.approx(1, abs=1e-5)
    assert rows["sky/1.jpg"]["score"] == rows["sky/1.jpg"]["score:blue"]
    assert rows["broken.jpg"]["score:blue"] == ""


@pytest.mark.parametrize("partitions", [1, 3, 9])
def test_joined_tables_of_partitions_equal_the_table_of_one_run(classifier, folder, tmp_path, partitions, capsys):
    (folder / "red" / "broken.jpg").write_bytes(b"no picture")
    for number in range(9):
        (folder / f"{number}.jpg").write_bytes(colour_model.picture("green"))
    arguments = (classifier, classifier.labels, str(folder))
    intact = batch.predict_images(*arguments, tmp_path / "whole.csv", all_scores=True)
    tables = [tmp_path / f"{number}.csv" for number in range(partitions)]
    for number, table in enumerate(tables):
        batch.predict_images(*arguments, table, all_scores=True, partition=number, partitions=partitions)
    assert batch.join_predictions(tables, classifier.labels, tmp_path / "joined.csv", str(folder)) == intact
    assert (tmp_path / "joined.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert capsys.readouterr().out.endswith("; accuracy 0.6667 on the 3 in folders named after a class\n")


def test_empty_partitions_are_joined_but_no_images_at_all_are_rejected(classifier, folder, tmp_path):
    tables = [tmp_path / f"{number}.csv" for number in range(2)]
    labels = classifier.labels
    for number, table in enumerate(tables):
        batch.predict_images(classifier, labels, str(folder / "loose.jpg"), table, partition=number, partitions=2)
    assert batch.join_predictions(tables, labels, tmp_path / "joined.csv", "there")["pictures"] == 1
    with pytest.raises(InputError, match="there must be images to classify; got none at there"):
        batch.join_predictions(tables[1:], labels, tmp_path / "none.csv", "there")
    assert not (tmp_path / "none.csv").exists()


def test_tables_with_cells_beyond_the_limit_of_csv_are_joined(tmp_path):
    long = "|".join(f"{number:05}" for number in range(30_000))  # the labels of one image
    (tmp_path / "part.csv").write_text(f"path,label,prediction,score,known,known_score\na.jpg,{long},{long},0.9,,\n")
    csv.field_size_limit(131_072)  # Python's
    parts, labels = [tmp_path / "part.csv"], long.split("|")
    counts = batch.join_predictions(parts, labels, tmp_path / "joined.csv", "there", several=True)
    assert counts == {"pictures": 1, "unreadable": 0, "labelled": 1, "right": 1}
    assert (tmp_path / "joined.csv").read_bytes() == (tmp_path / "part.csv").read_bytes()


def test_several_batches_are_classified_in_order(classifier, tmp_path):
    chosen = [list(colour_model.RGB)[number % 3] for number in range(2 * batch.CLASSIFY_BATCH_SIZE + 5)]
    for number, colour in enumerate(chosen):
        (tmp_path / f"{number:03}.jpg").write_bytes(colour_model.picture(colour))
    batch.predict_images(classifier, classifier.labels, str(tmp_path), tmp_path / "out.csv")
    assert [row["prediction"] for row in table(tmp_path / "out.csv")] == chosen


def test_classifies_an_archive_and_a_single_member(classifier, folder, tmp_path):
    archive = tmp_path / "pictures.tgz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, "pictures")
    batch.predict_images(classifier, classifier.labels, str(archive), tmp_path / "all.csv")
    assert sorted(row["prediction"] for row in table(tmp_path / "all.csv")) == ["blue", "green", "red", "red"]
    batch.predict_images(classifier, classifier.labels, f"{archive}#pictures/sky/1.jpg", tmp_path / "one.csv")
    assert [row["prediction"] for row in table(tmp_path / "one.csv")] == ["blue"]


@pytest.mark.parametrize("name", ["loose.jpg", "red/2.png"])
def test_classifies_a_single_file(classifier, folder, tmp_path, name):
    batch.predict_images(classifier, classifier.labels, str(folder / name), tmp_path / "out.csv")
    assert [row["path"] for row in table(tmp_path / "out.csv")] == [str(folder / name)]


def test_classifies_a_file_without_a_suffix(classifier, tmp_path):
    (tmp_path / "photo").write_bytes(colour_model.picture("red"))
    batch.predict_images(classifier, classifier.labels, str(tmp_path / "photo"), tmp_path / "out.csv")
    assert [row["prediction"] for row in table(tmp_path / "out.csv")] == ["red"]


def test_says_once_how_the_names_in_an_archive_are_read(classifier, tmp_path, capsys):
    files = {name.encode("gbk"): colour_model.picture("red") for name in ("花朵.png", "2.png")}
    uri = str(zip_names.write_zip(tmp_path / "all.zip", files))
    for partition in range(2):
        batch.predict_images(classifier, ["red"], uri, tmp_path / f"{partition}.csv", partition=partition, partitions=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "names" in line]
    assert [line.split(" (")[0] for line in lines] == [f"The names in {uri} are not UTF-8, and are read as GBK"]


ODD_NAMES = ("photo", "1.jpg?width=640", "2.JPG_large", "#3")


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
def test_classifies_images_of_any_name_and_names_the_other_files(classifier, tmp_path, capsys, packed):
    (tmp_path / "red").mkdir()
    for name in ODD_NAMES:
        (tmp_path / "red" / name).write_bytes(colour_model.picture("red"))
    (tmp_path / "red" / "video.mp4").write_bytes(b"?")
    (tmp_path / "red" / "notes").write_bytes(b"no picture")
    if packed:
        with tarfile.open(tmp_path / "all.tgz", "w:gz") as archive:
            archive.add(tmp_path / "red", "red")
    uri = str(tmp_path / "all.tgz") if packed else str(tmp_path / "red")
    for partition in range(2):
        found = batch.predict_images(classifier, ["red"], uri, tmp_path / f"{partition}.csv", partition=partition, partitions=2)
        assert found["pictures"] == 2
    separator = "#red/" if packed else "/"
    rows = [row for partition in range(2) for row in table(tmp_path / f"{partition}.csv")]
    assert {row["path"]: row["prediction"] for row in rows} == {f"{uri}{separator}{name}": "red" for name in ODD_NAMES}
    lines = capsys.readouterr().out.splitlines()
    folder = "red/" if packed else ""
    assert sorted(lines[:2]) == [
        f"1 file skipped: a video; its frames are not taken ({folder}video.mp4)",
        f"1 file skipped: not an image ({folder}notes)",
    ]
    assert len(lines) == 4


@pytest.mark.parametrize("name", ODD_NAMES)
def test_classifies_a_single_file_or_member_of_any_name(classifier, tmp_path, name):
    (tmp_path / name).write_bytes(colour_model.picture("red"))
    with tarfile.open(tmp_path / "all.tgz", "w:gz") as archive:
        archive.add(tmp_path / name, name)
    for uri in (str(tmp_path / name), f"{tmp_path}/all.tgz#{name}"):
        batch.predict_images(classifier, classifier.labels, uri, tmp_path / "out.csv")
        assert [(row["path"], row["prediction"]) for row in table(tmp_path / "out.csv")] == [(uri, "red")]


@pytest.mark.parametrize("name", ["all.tgz", "all"])
def test_an_archive_of_any_name_is_no_single_image(classifier, folder, tmp_path, name):
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        archive.add(folder, "photos")
    assert batch.predict_images(classifier, classifier.labels, str(tmp_path / name), tmp_path / "out.csv")["pictures"] == 4


def test_without_images_the_error_names_the_other_files(classifier, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.nef").write_bytes(b"?")
    with pytest.raises(InputError) as rejected:
        batch.predict_images(classifier, classifier.labels, str(tmp_path / "photos"), tmp_path / "out.csv")
    assert str(rejected.value) == (
        f"error: there must be images to classify; got none at {tmp_path}/photos "
        "(1 file skipped: camera raw; convert it to JPEG (1.nef)). Give an image, a folder or an archive; "
        "images may be JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, AVIF or HEIC."
    )


def test_a_folder_without_images_is_rejected_and_writes_no_table(classifier, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="there must be images to classify; got none at"):
        batch.predict_images(classifier, classifier.labels, str(tmp_path / "empty"), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_an_unreadable_file_is_reported_as_rejected(classifier, folder, tmp_path):
    (folder / "gone.jpg").symlink_to("/nowhere")
    entries = [(name, "", reading.bytes_or_error((folder / name).read_bytes)) for name in ("gone.jpg", "loose.jpg")]
    answers = [answer for _, _, answer in batch.classify_in_batches(classifier, entries)]
    assert isinstance(answers[0], Rejected) and "No such file" in str(answers[0])
    assert labels(answers[1:]) == ["green"]


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://host", ""])
def test_rejects_a_server_that_is_not_an_http_address(url):
    with pytest.raises(InputError, match="a server must be given by its http"):
        client.ServingClient(url)


@pytest.fixture(scope="module")
def of_several(tmp_path_factory) -> Classifier:
    return Classifier(mixed_colours.write_version(tmp_path_factory.mktemp("several") / "1"))


def test_several_labels_are_those_over_their_thresholds_the_most_probable_first(of_several):
    answers = of_several.classify([mixed_colours.picture(name) for name in mixed_colours.IMAGES])
    for answer, (name, (_, expected)) in zip(answers, mixed_colours.IMAGES.items(), strict=True):
        assert (answer.several, answer.labels) == (True, expected)
        assert answer.scores == pytest.approx(mixed_colours.scores(name), abs=0.02)
        assert answer.score == max(answer.probabilities)
    words = {name: answer.in_words(".0%") for name, answer in zip(mixed_colours.IMAGES, answers, strict=True)}
    assert words["violet"] == "blue 99%, red 95%"
    assert words["black"].startswith("none of the labels (most probable: ") and words["black"].endswith(" 1%)")


def test_a_model_of_one_label_gives_one(classifier):
    (answer,) = classifier.classify([colour_model.picture("blue")])
    assert (answer.several, answer.labels, answer.scores) == (False, ["blue"], [answer.score])


@pytest.mark.parametrize(
    ("probabilities", "thresholds", "expected"),
    [
        ([0.2, 0.9, 0.5], [0.2, 0.5, 0.5], [1, 2, 0]),  # at the threshold is enough, also where float32 cannot hold it
        ([0.1, 0.1, 0.1], [0.1, 0.0, 0.11], [0, 1]),  # ties in order of number
        ([0.1, 0.9], [0.2, 1.0], []),
        ([1.0], [1.0], [0]),
    ],
)
def test_labels_are_chosen_by_their_thresholds(probabilities, thresholds, expected):
    assert choose_labels(np.array(probabilities, np.float32), thresholds) == expected


def test_the_table_joins_several_labels_and_counts_exact_matches(of_several, tmp_path, capsys):
    root = mixed_colours.write_folder(tmp_path / "pictures")
    (root / "red" / "broken.png").write_bytes(b"no image")
    (root / "green|red").mkdir()
    (root / "green|red" / "wrong.png").write_bytes(mixed_colours.picture("violet"))
    (root / "red|blue").mkdir()  # the order in the name of a folder does not matter
    (root / "red|blue" / "right.png").write_bytes(mixed_colours.picture("violet"))
    (root / "sky").mkdir()
    (root / "sky" / "none.png").write_bytes(mixed_colours.picture("black"))
    options = {"thresholds": of_several.thresholds, "all_scores": True}
    counts = batch.predict_images(of_several, of_several.labels, str(root), tmp_path / "out.csv", **options)
    rows = {Path(row["path"]).stem: row for row in table(tmp_path / "out.csv")}
    predicted = {name: "|".join(sorted(labels)) for name, (_, labels) in mixed_colours.IMAGES.items()}
    predicted |= {"broken": "", "wrong": "blue|red", "right": "blue|red", "none": ""}
    assert {name: row["prediction"] for name, row in rows.items()} == predicted
    assert [name for name, row in rows.items() if not row["score"]] == ["broken"]
    for name in mixed_colours.IMAGES:
        scores = [float(rows[name][f"score:{label}"]) for label in of_several.labels]
        assert scores == pytest.approx(mixed_colours.probabilities(name), abs=0.02)
        assert float(rows[name]["score"]) == max(scores)
    # Black is at the top, in a folder that names no labels, and sky is none of them.
    assert counts == {"pictures": 9, "unreadable": 1, "labelled": 7, "right": 5}
    figures = {"pictures": 9, "unreadable": 1, "exact_match_ratio": 5 / 7}
    assert batch.summary_metrics(counts, several=True) == figures
    output = capsys.readouterr().out
    assert "an image has the labels whose score is at least red 0.5000, green 0.5000, blue 0.9700" in output
    assert "exact match ratio 0.7143 on the 7 whose labels are given" in output


def test_joined_tables_of_several_labels_equal_one(of_several, tmp_path):
    root = mixed_colours.write_folder(tmp_path / "pictures")
    (root / "broken.png").write_bytes(b"no image")
    given, options = (of_several, of_several.labels, str(root)), {"thresholds": of_several.thresholds}
    whole = batch.predict_images(*given, tmp_path / "whole.csv", **options)
    parts = [tmp_path / f"{number}.csv" for number in range(3)]
    for number, part in enumerate(parts):
        batch.predict_images(*given, part, partition=number, partitions=3, **options)
    assert batch.join_predictions(parts, of_several.labels, tmp_path / "joined.csv", str(root), several=True) == whole
    assert (tmp_path / "joined.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_the_answer_of_a_saved_model_alone_has_labels_but_no_scores():
    answer = {"classes": "blue", "class_idx": 2, "probabilities": [0.9, 0.1, 0.95], "labels": ["blue", "red", ""]}
    prediction = client._parse_prediction(answer)
    assert (prediction.several, prediction.labels, prediction.scores) == (True, ["blue", "red"], [])
    assert prediction.in_words() == "blue, red"
    assert client._parse_prediction(answer | {"labels": ["", "", ""]}).labels == []


def test_drawn_images_that_have_several_labels_come_with_them():
    uri, label, encoded = next(batch.read_images("sample?labels=several"))
    assert encoded.startswith(b"\xff\xd8\xff")
    assert label == "|".join(several_sample.labels_of(uri.rpartition("/")[2]))
