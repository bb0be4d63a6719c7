"""Which pictures are near, and an index that stays whole."""

import io
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import embedding_model, sample_images
from support.exported_model import version
from support.model_servers import until

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import Rejected
from kfp_vision.dataset.table import ImageRow
from kfp_vision.repository.version import exported_version, fetch_version, versions
from kfp_vision.search import ann, build, parts
from kfp_vision.search.embedding import EMBEDDING_BATCH_SIZE, Embedder, encode_thumbnail
from kfp_vision.search.index import Index, IndexInfo
from kfp_vision.serving import discovery


def clustered(number: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Vectors of length 1 around overlapping centres, of fewer dimensions than they have."""
    draw = np.random.default_rng(seed)
    centres, spread = draw.normal(size=(50, 16)), draw.normal(size=(16, dimension))
    vectors = (centres[draw.integers(0, 50, number)] + 0.7 * draw.normal(size=(number, 16))) @ spread
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float16")


@pytest.mark.parametrize("chosen", [None, np.arange(3, 900, 7)])
def test_exact_search_finds_what_sorting_all_similarities_finds(chosen, monkeypatch):
    monkeypatch.setattr(ann, "VECTORS_PER_BLOCK", 100)
    vectors, queries = clustered(1000, 24), clustered(5, 24, seed=1).astype("float32")
    scores, places = ann.search_exact(vectors, queries, 7, chosen)
    among = np.arange(1000) if chosen is None else chosen
    similarities = queries @ vectors[among].astype("float32").T
    for row, (said, found) in enumerate(zip(scores, places, strict=True)):
        order = np.argsort(-similarities[row], kind="stable")[:7]
        assert found.tolist() == among[order].tolist()
        np.testing.assert_allclose(said, similarities[row][order], rtol=1e-6)


def test_with_fewer_vectors_than_are_wanted_all_are_found():
    scores, places = ann.search_exact(clustered(3, 8), clustered(2, 8).astype("float32"), 10)
    assert scores.shape == places.shape == (2, 3)


def test_of_very_many_vectors_nearly_all_that_are_nearest_are_found(tmp_path):
    drawn_together = clustered(20_200, 160)
    vectors, queries = drawn_together[:20_000], drawn_together[20_000:].astype("float32")
    said = ann.build_regions(vectors, tmp_path / "regions")
    assert said.recall >= ann.TARGET_RECALL and 0 < said.probes < 512
    made = ann.read_regions(tmp_path / "regions")
    truth = ann.search_exact(vectors, queries, 10)[1]
    scores, places = ann.search_approximate(made, vectors, queries, 10, said.probes)
    assert np.mean([len(set(one) & set(other)) / 10 for one, other in zip(places, truth, strict=True)]) >= 0.95
    assert (np.diff(scores, axis=1) <= 0).all()
    chosen = np.arange(0, 20_000, 50)
    _, filtered = ann.search_approximate(made, vectors, queries, 10, said.probes, chosen)
    assert set(filtered.ravel().tolist()) - {-1} <= set(chosen.tolist())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return embedding_model.write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures each of two classes, one that lies in no folder, and one that is none."""
    folder = sample_images.pictures(tmp_path_factory.mktemp("data") / "pictures", each=6)
    shutil.copy(folder / "bellcup" / "0001.jpg", folder / "loose.jpg")
    with Image.open(folder / "loose.jpg") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "loose.jpg")
    (folder / "globelet" / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def built(model, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "index"
    return folder, build.build_index(build.find_images(str(pictures)), model, folder)


def test_every_picture_that_can_be_read_is_in_the_index(built, pictures, model):
    folder, made = built
    assert (made.about.pictures, made.computed, made.about.recall, made.about.probes) == (13, 13, 1.0, 0)
    assert [(uri.rsplit("/", 1)[1], label) for uri, label, _ in made.refused] == [("broken.jpg", "globelet")]
    index = Index(folder)
    assert {picture.label for picture in index.images} == {"bellcup", "globelet", ""}
    assert made.about.model_fingerprint == exported_version(model).fingerprint
    np.testing.assert_allclose(np.linalg.norm(index.vectors.astype("float32"), axis=1), 1, atol=2e-3)
    with Image.open(io.BytesIO(index.thumbnail(4))) as image:
        assert max(image.size) == 128


@pytest.mark.parametrize(("size", "small"), [((500, 375), (128, 96)), ((3000, 20), (128, 1)), ((90, 60), (90, 60))])
def test_a_thumbnail_is_no_larger_than_the_picture(size, small):
    picture = Image.new("RGB", size, (90, 120, 30))
    with Image.open(io.BytesIO(encode_thumbnail(picture))) as image:
        assert (image.size, picture.size) == (small, size)


def test_a_picture_is_nearest_to_itself(built, pictures):
    folder, _ = built
    index = Index(folder)
    vector = index.embedder().embed_one((pictures / "globelet" / "0002.jpg").read_bytes())
    assert vector.shape == (index.about.dimension,) and vector.dtype == np.float32
    (hits,) = index.search(vector[None], 20)
    assert len(hits) == 13 and hits[0].path.endswith("globelet/0002.jpg")
    assert hits[0].similarity == pytest.approx(1, abs=2e-3)
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
    (of_one,) = index.search(vector[None], 20, "bellcup")
    assert len(of_one) == 6 and {hit.label for hit in of_one} == {"bellcup"}


def test_vectors_are_what_the_network_gives_its_class_layer(model):
    import keras

    from kfp_vision import networks

    whole = keras.saving.load_model(model / "classifier.keras")
    body, _ = networks.split_head(whole)
    grey = np.full((1, 64, 64, 3), 90, "float32")
    expected = np.asarray(body(grey))[0]
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 90, 90)).save(file, "PNG")
    vector = Embedder(exported_version(model)).embed_one(file.getvalue())
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    with pytest.raises(Rejected):
        Embedder(exported_version(model)).embed_one(b"no picture")


def test_pictures_of_several_batches_come_in_their_order_and_what_cannot_be_read_in_its_place(model):
    embedder = Embedder(exported_version(model))
    draw = np.random.default_rng(1)
    given: list[bytes | Rejected] = []
    for number in range(3 * EMBEDDING_BATCH_SIZE + 5):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (6, 8, 3), "uint8")).resize((80, 60)).save(file, "PNG")
        given.append(Rejected("gone") if number % 40 == 39 else b"no picture" if number % 30 == 29 else file.getvalue())
    found = list(embedder.embed(iter(given), pad_batches=True))
    assert len(found) == len(given)
    for number in (0, 1, 29, 31, 32, 39, 63, 64, 79, 95, 96, 100):
        if number % 40 == 39 or number % 30 == 29:
            assert str(found[number]) == ("gone" if number % 40 == 39 else "not an image in a known format")
        else:
            np.testing.assert_allclose(found[number][0], embedder.embed_one(given[number]), atol=1e-5)
    assert len({one[0].tobytes() for one in found if not isinstance(one, Rejected)}) == len(given) - 5


def test_what_is_known_is_not_computed_again_and_what_has_gone_is_left_out(built, model, pictures, tmp_path):
    folder = shutil.copytree(built[0], tmp_path / "index")
    rows = build.find_images(str(pictures))
    fewer = [row for row in rows if row.label == "globelet"]
    less = build.build_index(fewer, model, folder, before=folder)
    assert (less.about.pictures, less.computed, less.about.generation) == (6, 0, 2)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "index.json", "model"]
    more = build.build_index(rows, model, folder, before=folder)
    assert (more.about.pictures, more.computed) == (13, 7)
    first, again = Index(built[0]), Index(folder)
    assert again.images == first.images
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert [again.thumbnail(place) for place in range(13)] == [first.thumbnail(place) for place in range(13)]


def files(folder) -> dict[str, bytes]:
    """What an index is, beside its model."""
    generation = json.loads((folder / "index.json").read_text())["generation"]
    return {path.name: path.read_bytes() for path in (folder / str(generation)).iterdir()}


def in_parts(rows, model, root, partitions: int, before=None) -> tuple[list[parts.PartInfo], build.BuildResult]:
    """An index made in so many parts, in `root / "index"`."""
    folders = [root / f"part {number}" for number in range(partitions)]
    written = [
        build.build_part(rows, model, folder, before, partition=number, partitions=partitions)
        for number, folder in enumerate(folders)
    ]
    return written, build.join_index_parts(folders, model, root / "index")


@pytest.mark.parametrize("partitions", [1, 3, 20])
def test_an_index_in_parts_is_the_one_that_is_made_at_once_byte_for_byte(built, model, pictures, tmp_path, partitions):
    written, joined = in_parts(build.find_images(str(pictures)), model, tmp_path, partitions)
    assert files(tmp_path / "index") == files(built[0])
    assert joined == built[1]  # the refused picture among it
    of_parts = [part.pictures for part in written]
    assert sum(of_parts) == 13 and max(of_parts) - min(of_parts) <= 1 + 1  # one lacks the refused picture
    vector = np.asarray(Index(built[0]).vectors[3:4], "float32")
    assert Index(tmp_path / "index").search(vector, 5) == Index(built[0]).search(vector, 5)


def test_parts_share_what_an_index_before_has_not_and_take_the_rest_of_it(built, model, pictures, tmp_path):
    rows = build.find_images(str(pictures))
    build.build_index([row for row in rows if row.label == "bellcup"], model, tmp_path / "before")
    written, joined = in_parts(rows, model, tmp_path, 2, tmp_path / "before")
    assert [part.computed for part in written] == [3, 4]  # the picture that is refused is work as well
    assert [part.pictures for part in written] == [9, 4]
    assert (joined.computed, joined.about) == (7, built[1].about)
    assert files(tmp_path / "index") == files(built[0])


def test_shares_are_consecutive_and_even_whatever_is_known():
    rows = [ImageRow(str(number), "", 0, str(number), str(number)) for number in range(103)]
    for known in (set(), {row.content_id for row in rows}, {str(number) for number in range(40, 80)}):
        shares = [parts.part_rows(rows, known, number, 4) for number in range(4)]
        assert [row for share in shares for row in share] == rows
        new = [len([row for row in share if row.content_id not in known]) for share in shares]
        assert max(new) - min(new) <= 1
    assert [len(parts.part_rows(rows[:2], set(), number, 3)) for number in range(3)] == [0, 1, 1]
    assert parts.part_rows([], set(), 0, 2) == []


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda part: (part / "part.json").unlink(), "a part of an index must be whole; got "),
        (lambda part: (part / "part.json").write_text("{}"), "a part of an index must be whole; got "),
        (lambda part: (part / "vectors").write_bytes(b"short"), "a part of an index must be whole; got "),
        (lambda part: (part / "thumbnails").unlink(), "a part of an index must be whole; got "),
        (lambda part: (part / "thumbnails.npy").write_bytes(b""), "a part of an index must be whole; got "),
        (
            lambda part: (part / "pictures.csv").write_text("path,label,content_id\n"),
            "a part of an index must be whole; got 0 rows",
        ),
        (
            lambda part: (part / "part.json").write_text(
                json.dumps(json.loads((part / "part.json").read_text()) | {"model_fingerprint": "another"})
            ),
            "all parts of an index must be computed with its model; got another in ",
        ),
    ],
)
def test_a_torn_part_is_one_clear_line_and_leaves_no_index(model, pictures, parted, tmp_path, damage, line):
    folders = [shutil.copytree(folder, tmp_path / folder.name) for folder in parted]
    damage(folders[1])
    with pytest.raises(InputError) as refused:
        build.join_index_parts(folders, model, tmp_path / "index")
    assert str(refused.value).startswith(f"error: {line}") and "\n" not in str(refused.value)
    assert not (tmp_path / "index" / "index.json").exists()


@pytest.fixture(scope="module")
def parted(model, pictures, tmp_path_factory):
    """The folders of two parts."""
    root = tmp_path_factory.mktemp("parts")
    in_parts(build.find_images(str(pictures)), model, root, 2)
    return [root / "part 0", root / "part 1"]


def test_until_the_new_one_is_whole_the_old_one_answers(built, model, pictures, tmp_path, monkeypatch):
    folder = shutil.copytree(built[0], tmp_path / "index")
    monkeypatch.setattr(ann, "MAX_EXACT", 0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ann, "build_regions", killed)
    with pytest.raises(KeyboardInterrupt):
        build.build_index(build.find_images(str(pictures)), model, folder, before=folder)
    assert Index(folder).about == built[1].about
    assert sorted(path.name for path in folder.iterdir()) == ["1", "index.json", "model"]


BUILD = "import sys; from pathlib import Path; from kfp_vision.search import build; "
BUILD += "build.build_index(build.find_images(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))"


@pytest.mark.parametrize("written", [".index.*", ".index.*/*/vectors"])
def test_killed_while_it_is_written_the_old_one_answers_and_the_next_is_whole(built, model, pictures, tmp_path, written):
    folder = shutil.copytree(built[0], tmp_path / "index")
    command = [sys.executable, "-c", BUILD, str(pictures), str(model), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until(lambda: list(tmp_path.glob(written)))
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert Index(folder).about == built[1].about
    vector = Index(folder).embedder().embed_one((pictures / "globelet" / "0002.jpg").read_bytes())
    assert Index(folder).search(vector[None], 1)[0][0].path.endswith("globelet/0002.jpg")
    assert build.build_index(build.find_images(str(pictures)), model, folder).about.generation == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index"]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda folder: (folder / "index.json").unlink(), "there must be an index; got none in "),
        (lambda folder: (folder / "index.json").write_text("{"), "index.json must hold the metadata of an index; got "),
        (lambda folder: (folder / "1" / "vectors").write_bytes(b"short"), "an index must be whole; got "),
        (
            lambda folder: (folder / "1" / "pictures.csv").write_text("path,label,content_id,split\n"),
            "an index must be whole; got 0 rows",
        ),
        (lambda folder: (folder / "1" / "thumbnails").unlink(), "an index must be whole; got "),
        (
            lambda folder: (folder / "1" / "thumbnails").write_bytes(b"short"),
            "an index must be whole; got 5 bytes of ",
        ),
        (lambda folder: (folder / "1" / "thumbnails.npy").write_bytes(b""), "an index must be whole; got "),
    ],
)
def test_a_torn_index_is_one_clear_line(built, tmp_path, damage, line):
    folder = shutil.copytree(built[0], tmp_path / "index")
    damage(folder)
    with pytest.raises(InputError) as refused:
        Index(folder)
    assert str(refused.value).startswith(f"error: {line}")


def test_a_wrong_dimension_and_a_label_that_is_not_there_are_one_clear_line(built):
    index = Index(built[0])
    with pytest.raises(InputError, match=r"vectors must have the \d+ dimensions of the index; got 3\. Search with the model"):
        index.search(np.zeros((1, 3), "float32"), 1)
    vector = np.zeros((1, index.about.dimension), "float32")
    with pytest.raises(
        InputError, match=r"label must be one of , bellcup, globelet; got tulip\. Leave it out to search all images"
    ):
        index.search(vector, 1, "tulip")


def test_a_model_without_embeddings_is_refused(tmp_path):
    import tensorflow as tf

    class Old(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
        def names(self, image_bytes):
            return {"probabilities": tf.ones((tf.shape(image_bytes)[0], 2)) / 2}

    one = version(tmp_path / "1")
    old = Old()
    tf.saved_model.save(old, str(one.folder), signatures={"serving_default": old.names})
    with pytest.raises(
        InputError, match=r"a model must compute embeddings to be searched with; got none from .*\. Train it again"
    ):
        Embedder(one)


def test_an_index_of_another_model_is_computed_anew(built, model, pictures, tmp_path, capsys):
    folder = shutil.copytree(built[0], tmp_path / "index")
    about = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(about | {"model_fingerprint": "another"}))
    rows = [row for row in build.find_images(str(pictures)) if row.label == "bellcup"]
    made = build.build_index(rows, model, tmp_path / "new", before=folder)
    assert (made.about.pictures, made.computed) == (6, 6)
    assert "the earlier index was built with another model: computing all embeddings" in capsys.readouterr().out


def by_hand(folder: Path, vectors: np.ndarray, *, regions: bool) -> Path:
    """An index of vectors without pictures, and gives its folder."""
    within, number = folder / "1", len(vectors)
    within.mkdir(parents=True)
    (within / "vectors").write_bytes(vectors.tobytes())
    lines = [f"{place}.jpg,{'odd' if place % 2 else 'even'},{place:032x}," for place in range(number)]
    (within / "pictures.csv").write_text("\n".join(["path,label,content_id,split", *lines, ""]))
    (within / "thumbnails").write_bytes(b"x" * number)
    np.save(within / "thumbnails.npy", np.arange(number + 1))
    found = ann.build_regions(vectors, within / "regions") if regions else ann.Recall(1.0, 0)
    about = IndexInfo("flowers", "any", vectors.shape[1], number, 1, found.recall, found.probes)
    (folder / "index.json").write_text(json.dumps(asdict(about)))
    return folder


@pytest.mark.parametrize("regions", [False, True])
def test_an_index_that_is_held_finds_the_same_whatever_happens_to_its_files(tmp_path, regions):
    folder = by_hand(tmp_path, clustered(12_000, 24), regions=regions)
    queries = clustered(5, 24, seed=1).astype("float32")
    opened, held = Index(folder), Index(folder)
    held.preload()
    for label in ("", "odd"):
        expected, found = (index.search(queries, 7, label) for index in (opened, held))
        assert [[hit.content_id for hit in row] for row in found] == [[hit.content_id for hit in row] for row in expected]
        np.testing.assert_allclose(similarities(found), similarities(expected), rtol=1e-5)
    before = held.search(queries, 7)
    assert held.thumbnail(3) == b"x"
    (folder / "1" / "thumbnails").write_bytes(b"")  # cut short where it lies, as by a copy over it
    assert held.thumbnail(3) == b""
    shutil.rmtree(folder)
    assert held.search(queries, 7) == before


def similarities(found: list) -> list[list[float]]:
    return [[hit.similarity for hit in row] for row in found]


def test_an_index_without_its_model_takes_a_version_that_it_lies_with(built, model, tmp_path):
    place = shutil.copytree(model / "serving", tmp_path / "place")
    folder = shutil.copytree(built[0], place / "index", ignore=shutil.ignore_patterns("model"))
    assert Index(folder).embedder().fingerprint == built[1].about.model_fingerprint
    shutil.rmtree(place / "1")
    with pytest.raises(InputError, match=r"an index must have its model, flowers, in its folder or beside it; got none in"):
        Index(folder).embedder()


def test_what_lies_with_versions_is_no_version_and_no_model(built, model, tmp_path):
    place = shutil.copytree(model / "serving", tmp_path / "models" / "flowers")
    shutil.copytree(built[0], place / "index")
    assert [one.number for one in versions(place)] == [1]
    assert discovery.find_models(tmp_path / "models") == {"flowers": place}
    assert fetch_version(str(place), tmp_path / "fetched").fingerprint == exported_version(model).fingerprint
    shutil.rmtree(place / "1")
    with pytest.raises(InputError, match="there must be a model to serve"):
        discovery.find_models(place)
