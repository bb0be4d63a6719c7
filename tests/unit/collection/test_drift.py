"""The check for drift: it finds none where there is none, finds what there is, and writes down what it found."""

import dataclasses
import gzip
import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from support import colour_model, exported_model

from kfp_vision.collection import drift, two_samples
from kfp_vision.collection.collected import CollectedAnswer, pack_batch, read_collected
from kfp_vision.collection.two_samples import compare_samples
from kfp_vision.core.errors import DamagedError, FieldError, InputError, NotFoundError
from kfp_vision.prediction.held_out import HELD_OUT_FILE, HeldOut, keep_held_out, load_held_out
from kfp_vision.repository.version import Version

WIDTH = 16


def draw_embeddings(generator: np.random.Generator, count: int, shift: float = 0.0) -> np.ndarray:
    """Draws embeddings that are positive as those of a network, shifted in one direction."""
    return np.maximum(generator.normal(1, 1, (count, WIDTH)) + shift * (np.arange(WIDTH) == 3), 0)


def draw_classes(generator: np.random.Generator, count: int, first: float = 0.5) -> np.ndarray:
    return np.eye(2, dtype=bool)[(generator.random(count) >= first).astype(int)]


@pytest.fixture
def fewer_permutations(monkeypatch):
    monkeypatch.setattr(two_samples, "PERMUTATIONS", 199)


def test_the_smallest_p_value_is_uniform_without_a_drift(fewer_permutations):
    generator, found = np.random.default_rng(0), []
    for _ in range(60):
        samples = [(draw_embeddings(generator, count), draw_classes(generator, count)) for count in (80, 40)]
        known_scores = generator.normal(size=120)
        found.append(compare_samples(samples[0][0], samples[1][0], samples[0][1], samples[1][1], known_scores))
    assert stats.kstest([one.smallest_p for one in found], "uniform").pvalue > 0.001
    assert sum(one.smallest_p <= 0.05 for one in found) <= 9  # binomial, 60 draws of 0.05: more once in a thousand


def test_finds_images_that_differ_and_which():
    generator = np.random.default_rng(1)
    reference, same, other = (
        draw_embeddings(generator, 200),
        draw_embeddings(generator, 80),
        draw_embeddings(generator, 40, 4.0),
    )
    classes = draw_classes(generator, 320)
    found = compare_samples(reference, np.concatenate([same, other]), classes[:200], classes[200:])
    assert found.embeddings_p == pytest.approx(1 / 2001) and found.shares_p > 0.005
    assert found.area > 0.6
    assert roc_auc_score(np.arange(120) >= 80, found.unlike) > 0.9  # the images that differ have the largest scores
    again = compare_samples(reference, np.concatenate([same, other]), classes[:200], classes[200:])
    assert (again.area, again.embeddings_p, again.unlike.tolist()) == (found.area, found.embeddings_p, found.unlike.tolist())


def test_finds_classes_whose_shares_differ():
    generator = np.random.default_rng(2)
    embeddings, shares = draw_embeddings(generator, 400), (draw_classes(generator, 200), draw_classes(generator, 200, 0.8))
    assert compare_samples(embeddings[:200], embeddings[200:], *shares).shares_p < 0.005
    counts = [named.sum(0) for named in shares]
    assert stats.chi2_contingency(counts, correction=False).pvalue < 0.005  # SciPy agrees


def test_the_statistic_of_the_shares_is_pearsons():
    generator = np.random.default_rng(3)
    named, is_second = draw_classes(generator, 90), np.arange(90) >= 60
    ours = two_samples._share_statistics(named.astype(float), is_second[:, None].astype(float))
    table = [named[is_second].sum(0), named[~is_second].sum(0)]
    assert ours[0] == pytest.approx(stats.chi2_contingency(table, correction=False).statistic)


def test_the_areas_are_those_of_scikit_learn():
    generator = np.random.default_rng(4)
    scores, is_second = generator.normal(size=(70, 3)), generator.permuted(np.tile(np.arange(70) < 30, (3, 1)), axis=1).T
    expected = [roc_auc_score(is_second[:, column], scores[:, column]) for column in range(3)]
    assert two_samples._areas(scores, is_second.astype(float)) == pytest.approx(expected)


def test_finds_a_group_that_the_first_sample_lacks_and_which():
    generator = np.random.default_rng(7)
    centres = 3 * generator.normal(size=(4, WIDTH))
    drawn = centres[np.r_[np.arange(300) % 3, np.full(12, 3)]] + generator.normal(size=(312, WIDTH))
    classes = np.tile([True, False], (312, 1))
    found = compare_samples(drawn[:180], drawn[180:], classes[:180], classes[180:])
    assert found.novel_p < 0.005 and found.smallest_p == found.novel_p
    assert roc_auc_score(np.arange(132) >= 120, found.novel) > 0.99  # the images of the group have the largest densities
    without = compare_samples(drawn[:180], drawn[180:300], classes[:180], classes[180:300])
    assert without.smallest_p > 0.05


def test_finds_few_images_that_are_much_less_known():
    generator = np.random.default_rng(8)
    embeddings, classes = draw_embeddings(generator, 300), draw_classes(generator, 300)
    known_scores = generator.normal(size=300)
    found = compare_samples(embeddings[:200], embeddings[200:], classes[:200], classes[200:], known_scores)
    assert found.novel_p > 0.05
    known_scores[290:] -= 16
    found = compare_samples(embeddings[:200], embeddings[200:], classes[:200], classes[200:], known_scores)
    assert found.novel_p < 0.005 < min(found.embeddings_p, found.shares_p)
    assert set(np.argsort(found.novel)[-10:]) == set(range(90, 100))
    more_known = compare_samples(embeddings[:200], embeddings[200:], classes[:200], classes[200:], -known_scores)
    assert more_known.novel_p > 0.05


def test_p_values_are_adjusted_as_by_westfall_and_young():
    generator = np.random.default_rng(9)
    statistics = {name: generator.normal(size=50) for name in "abc"}
    ours = two_samples._adjusted_p_values(statistics)
    raw = {name: np.array([(found >= one).mean() for one in found]) for name, found in statistics.items()}
    smallest = [min(shares[at] for shares in raw.values()) for at in range(50)]
    assert ours == pytest.approx({name: np.mean([one <= shares[0] for one in smallest]) for name, shares in raw.items()})


@pytest.fixture
def version(tmp_path) -> Version:
    """A version of the labels daisy and tulip that keeps 200 validation images."""
    found, generator = exported_model.version(tmp_path / "repository" / "3"), np.random.default_rng(5)
    scores = np.where(draw_classes(generator, 200), 0.9, 0.1)
    keep_held_out(draw_embeddings(generator, 200), scores).save(found.folder / HELD_OUT_FILE)
    return found


def write_answers(
    place, version: Version, count: int, /, *, shift: float = 0.0, days_ago: int = 0, image: bytes = b"", **other
):
    """Writes a batch of answers of the version."""
    generator, time = np.random.default_rng(6), datetime.now(UTC) - timedelta(days=days_ago)
    folder = place / "flowers" / f"{time:%Y-%m-%d}"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "1.jpg").write_bytes(image)
    answers = [
        CollectedAnswer(
            **{
                "id": f"{number:032x}",
                "time": time.isoformat(timespec="milliseconds"),
                "model": "flowers",
                "version": 3,
                "fingerprint": version.fingerprint,
                "labels": ["daisy" if number % 2 else "tulip"],
                "scores": {"daisy": 0.5, "tulip": 0.5},
                "known": number % 10 > 0,
                "embedding": row.astype(np.float32),
                "image": "images/1.jpg" if image else "",
                **other,
            }
        )
        for number, row in enumerate(draw_embeddings(generator, count, shift))
    ]
    (folder / f"{time:%Y%m%dT%H%M%S.%f}-{count:08x}.jsonl.gz").write_bytes(pack_batch(answers))


def test_no_drift_is_no_drift(version, tmp_path, capfd):
    write_answers(tmp_path / "collected", version, 120)
    found = drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")
    assert (found.model, found.version, found.images, found.reference, found.drifted) == ("flowers", 3, 120, 200, False)
    assert found.unknown_share == 0.1 and min(found.embeddings_p, found.shares_p) > 0.005
    assert "outcome: flowers has not drifted: all images p=0." in capfd.readouterr().out
    assert drift.read_drift(str(tmp_path / "collected"), "flowers") == found
    page = (tmp_path / "page.html").read_text()
    assert "has not drifted" in page and "None of these images were kept" in page and page.count("no drift found") == 3
    assert "<bdi>tulip</bdi>" in page and "Shares of the classes" in page
    assert "<figure>" not in page


def test_a_drift_is_found_and_shown(version, tmp_path, capfd):
    write_answers(tmp_path / "collected", version, 120, shift=2.0, image=colour_model.picture("red"))
    found = drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")
    assert found.drifted and found.embeddings_p < 0.005 < found.shares_p
    assert "outcome: flowers has drifted" in capfd.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg") == drift.MAX_SHOWN
    assert "Most unlike the validation images" in page and "What they have in common is what has changed." in page


def test_a_drift_of_the_classes_is_not_ascribed_to_the_images(version, tmp_path):
    write_answers(tmp_path / "collected", version, 120, labels=["daisy"])
    found = drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")
    assert found.drifted and found.shares_p < 0.005 < found.embeddings_p
    assert "What they have in common is what has changed." not in (tmp_path / "page.html").read_text()


def test_new_kinds_of_images_are_shown_first(version, tmp_path):
    write_answers(tmp_path / "collected", version, 120)
    write_answers(tmp_path / "collected", version, 14, embedding=np.linspace(4, 0, WIDTH, dtype=np.float32), labels=["new"])
    found = drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")
    assert found.drifted and found.novel_p < 0.01 and found.novel_p < found.embeddings_p
    page = (tmp_path / "page.html").read_text()
    assert "New kinds of images, perhaps" in page
    shown = page.split("<figcaption>")[1:]
    assert all("<bdi>new</bdi>" in caption for caption in shown[:14]) and "<bdi>new</bdi>" not in "".join(shown[14:])


def test_too_few_answers_give_no_verdict(version, tmp_path, capfd):
    write_answers(tmp_path / "collected", version, 49, shift=9.0)
    write_answers(tmp_path / "collected", version, 80, shift=9.0, days_ago=8)  # before the days that are looked at
    write_answers(tmp_path / "collected", version, 81, shift=9.0, fingerprint="of another version", version=2)
    write_answers(tmp_path / "collected", version, 1, fingerprint="of another model", model="trees")
    found = drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")
    assert (found.images, found.drifted, found.embeddings_p) == (49, False, 1.0)
    words = (
        "no verdict on drift: 49 answers of flowers are collected, and 50 are needed; "
        "82 answers were given by flowers version 2, trees version 3"
    )
    page = (tmp_path / "page.html").read_text()
    assert f"outcome: {words}\n" in capfd.readouterr().out and words in page
    assert "49 answers of version 3" in page and "compared with" not in page


def test_a_wrong_input_is_one_line(version, tmp_path):
    with pytest.raises(NotFoundError, match="must hold batches of answers"):
        drift.check_drift(version, str(tmp_path / "nowhere"), 7, tmp_path / "page.html")
    with pytest.raises(FieldError, match=r"^error: days must be at least 1; got 0. Set it to 7"):
        drift.check_drift(version, str(tmp_path / "nowhere"), 0, tmp_path / "page.html")
    write_answers(tmp_path / "collected", version, 60, embedding=None)
    with pytest.raises(InputError, match=r"must have embeddings to be compared; got none from version 3 of flowers"):
        drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")


def test_an_empty_folder_is_no_collection(version, tmp_path):
    (tmp_path / "collected").mkdir()
    with pytest.raises(NotFoundError, match=r"must hold batches of answers; got none below .*collected\. Give the folder"):
        drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_one_answer_gives_no_verdict(version, tmp_path, capfd):
    write_answers(tmp_path / "collected", version, 1)
    found = drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")
    assert (found.images, found.drifted) == (1, False)
    assert "no verdict on drift: 1 answer of flowers is collected, and 50 are needed" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("embedding", "line"),
    [
        (
            np.ones(WIDTH + 1, np.float32),
            rf"embeddings must have {WIDTH} numbers, .*; got {WIDTH + 1} in answer 0+ from version 3",
        ),
        (
            np.full(WIDTH, np.nan, np.float32),
            r"a batch of collected answers must be whole; got .*\.jsonl\.gz \(an embedding must hold finite numbers\)",
        ),
    ],
)
def test_an_embedding_that_cannot_be_compared_is_one_line(version, tmp_path, embedding, line):
    write_answers(tmp_path / "collected", version, 60)
    write_answers(tmp_path / "collected", version, 2, embedding=embedding)
    with pytest.raises(InputError, match=line) as error:
        drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")
    assert "\n" not in str(error.value) and not (tmp_path / "page.html").exists()
    assert not (tmp_path / "collected" / "flowers" / "drift.json").exists()


def test_an_embedding_beyond_float16_is_kept_as_the_largest_number(version, tmp_path):
    write_answers(tmp_path / "collected", version, 1, embedding=np.full(WIDTH, 1e9, np.float32))
    (answer,) = read_collected(str(tmp_path / "collected"))
    assert answer.embedding is not None and answer.embedding.tolist() == [65504.0] * WIDTH


@pytest.mark.parametrize("damage", [lambda packed: packed[:-20], lambda packed: gzip.compress(gzip.decompress(packed)[:-9])])
def test_a_torn_batch_is_named(version, tmp_path, damage):
    write_answers(tmp_path / "collected", version, 60)
    (batch,) = tmp_path.glob("collected/flowers/*/*.jsonl.gz")
    batch.write_bytes(damage(batch.read_bytes()))
    with pytest.raises(DamagedError, match=rf"must be whole; got .*{batch.name} \(.*\)\. Delete the file; the others remain"):
        drift.check_drift(version, str(tmp_path / "collected"), 7, tmp_path / "page.html")


def test_images_that_are_all_the_same_are_compared():
    same, classes = np.ones((60, WIDTH)), np.tile([True, False], (60, 1))
    found = compare_samples(same, same, classes, classes)  # such as one image, sent again and again, of one class
    assert found.area == pytest.approx(0.5) and found.smallest_p > 0.05


def test_a_version_without_validation_images_says_so(tmp_path):
    version = exported_model.version(tmp_path / "1")
    with pytest.raises(
        NotFoundError, match=r"must keep embeddings of its validation images .* Train it again with this release"
    ):
        load_held_out(version)
    for content in (b"no archive", gzip.compress(b"x")):
        (version.folder / HELD_OUT_FILE).write_bytes(content)
        with pytest.raises(DamagedError, match=r"validation.npz of a version must be whole") as refusal:
            load_held_out(version)
        assert "(it is no file of NumPy arrays)" in str(refusal.value)  # rather than NumPy's advice to unpickle it
    keep_held_out(np.ones((4, WIDTH)), np.ones((4, 3))).save(version.folder / HELD_OUT_FILE)
    with pytest.raises(DamagedError, match="do not fit each other, or the labels"):
        load_held_out(version)
    for rows in (np.full((4, WIDTH), np.nan), np.ones((0, WIDTH))):
        HeldOut(rows.astype(np.float16), np.ones((len(rows), 2), np.float16)).save(version.folder / HELD_OUT_FILE)
        with pytest.raises(DamagedError, match="must hold images, and finite numbers"):
            load_held_out(version)


def test_what_is_named_follows_the_kind_of_model():
    scores = np.array([[0.75, 0.25], [0.25, 0.5], [0.125, 0.125]], np.float16)
    kept = HeldOut(np.ones((3, WIDTH), np.float16), scores)
    assert kept.named([]).tolist() == [[True, False], [False, True], [True, False]]
    assert kept.named([0.25, 0.5]).tolist() == [[True, False], [True, True], [False, False]]


def test_the_result_of_a_later_release_is_no_result(tmp_path):
    (tmp_path / "flowers").mkdir()
    (tmp_path / "flowers" / "drift.json").write_text(json.dumps({"verdict": "unknown"}))
    assert drift.read_drift(str(tmp_path), "flowers") is drift.read_drift(str(tmp_path), "other") is None


@pytest.mark.parametrize("value", ["many", None, [1]])
def test_a_result_with_values_of_another_kind_is_no_result(tmp_path, value):
    (tmp_path / "flowers").mkdir()
    fields = {field.name: value for field in dataclasses.fields(drift.Drift)}
    (tmp_path / "flowers" / "drift.json").write_text(json.dumps(fields))
    assert drift.read_drift(str(tmp_path), "flowers") is None
