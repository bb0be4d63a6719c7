"""Model repositories in object stores: real servers, connections that fail midway, and concurrent publishers."""

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from support import colour_index, colour_model, exported_colours, fault_proxy
from support.exported_model import version
from support.model_servers import NUMBERS, answering, until

from kfp_vision.core import advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow
from kfp_vision.deployment import call, deploy, model_card
from kfp_vision.evaluation import evaluate, gate
from kfp_vision.exports import export
from kfp_vision.records import convert
from kfp_vision.repository import bucket_repository, papers, publish, published_exports
from kfp_vision.repository.version import Version, exported_version, find_repository, versions
from kfp_vision.search import deploy_index
from kfp_vision.search.index import Index
from kfp_vision.serving import sync
from kfp_vision.storage import base, reading, transfer, writing

pytestmark = pytest.mark.slow

SETTINGS = advanced.deployment_settings({})


@pytest.fixture(autouse=True)
def short_pauses(tmp_path, monkeypatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(bucket_repository, "MAX_BACKOFF_SECONDS", 0.05)


@pytest.fixture
def uri(place) -> str:
    """Returns the URI of an empty folder in a new bucket."""
    return f"{place.bucket({'other/1/saved_model.pb': b'stays'})}/models/flowers"


def keys(uri: str) -> list[str]:
    return [found.name for found in reading.list_files(uri)]


def numbers(uri: str) -> list[int]:
    return [one.number for one in publish.repository_at(uri).versions()]


def fingerprint(uri: str, number: int, scratch: Path) -> str:
    """Downloads a version, and returns its fingerprint."""
    (there,) = (one for one in publish.repository_at(uri).versions() if one.number == number)
    return there.download(scratch).fingerprint


def fill(uri: str, root: Path, count: int = 3) -> list[Version]:
    models = [version(root / f"model-{number}" / "1", weights=b"%d" % number) for number in range(1, count + 1)]
    assert [publish.publish(one, uri) for one in models] == list(range(1, count + 1))
    return models


def test_publishes_versions_unchanged_and_does_not_repeat_the_newest(uri, tmp_path):
    first, second = version(tmp_path / "a" / "1"), version(tmp_path / "b" / "1", weights=b"s!gthew")  # the same size
    assert [publish.publish(one, uri) for one in (first, first, second, second, first)] == [1, 1, 2, 2, 3]
    names = ["assets.extra/model.json", "saved_model.pb", "variables/variables.index"]
    assert keys(uri) == [f"{number}/{name}" for number in (1, 2, 3) for name in names]
    for number, one in ((1, first), (2, second), (3, first)):
        assert fingerprint(uri, number, tmp_path / "scratch") == one.fingerprint
    (newest,) = publish.repository_at(uri).versions()[-1:]
    assert (newest.name, newest.about["labels"]) == ("flowers", ["daisy", "tulip"])


def test_a_repository_in_a_bucket_holds_one_model(uri, tmp_path):
    fill(uri, tmp_path, 1)
    before = keys(uri)
    with pytest.raises(InputError, match=f"must hold versions of one model; got flowers in {uri}, and now dogs"):
        publish.publish(version(tmp_path / "dogs" / "1", name="dogs"), uri)
    with pytest.raises(InputError, match=f"must hold versions of one model; got flowers in {uri}, and now dogs"):
        deploy.check_target(uri, "dogs", SETTINGS)
    deploy.check_target(uri, "flowers", SETTINGS)
    assert keys(uri) == before


def test_check_target_rejects_a_bucket_that_is_not_writable(place):
    with pytest.raises(InputError, match="deploy_to must name something that exists; got no such object or bucket: "):
        deploy.check_target(f"{place.scheme}://nobodys-bucket/models", "flowers", SETTINGS)
    uri = place.bucket({"first": b"1"})
    with fault_proxy.line(place.port, share=1, fates=("forbid",)) as line:
        place.lead_over(line.address)
        with pytest.raises(InputError, match="the address must be writable with the given credentials; got HTTP 403 at"):
            deploy.check_target(f"{uri}/models", "flowers", SETTINGS)


def test_removes_old_versions_and_rolls_back_to_an_earlier_one(uri, tmp_path):
    models = fill(uri, tmp_path)
    assert publish.publish(version(tmp_path / "new" / "1", weights=b"4"), uri, kept=3) == 4
    assert numbers(uri) == [2, 3, 4]
    assert not [key for key in keys(uri) if key.startswith("1/")]
    assert publish.rollback(uri) == ("flowers", 3, 5)
    assert fingerprint(uri, 5, tmp_path / "scratch") == models[2].fingerprint
    assert publish.rollback(uri, 3) == ("flowers", 3, 5)  # already the newest
    with pytest.raises(
        InputError, match=f"there must be a version to go back to; got version 1 in {uri}, which has versions 2, 3, 4, 5"
    ):
        publish.rollback(uri, 1)
    assert numbers(uri) == [2, 3, 4, 5]


def test_papers_tags_and_aliases_lie_beside_the_versions(uri, tmp_path):
    models = fill(uri, tmp_path)
    model_card.write_papers(models[0], {"accuracy": 0.9}, model_card.Origin(), tmp_path / "papers")
    papers.publish_papers(tmp_path / "papers", uri, 1)
    papers.change_tags(uri, 1, add=["reviewed"])
    papers.set_alias(uri, "champion", 1)
    first, *_ = publish.repository_at(uri).versions()
    assert papers.read_card(uri, first) == (tmp_path / "papers" / "README.md").read_text()
    assert (papers.read_tags(uri, 1), papers.find_number(uri, [first], "champion")) == (["reviewed"], 1)
    assert [key for key in keys(uri) if key.startswith("papers/1/")] == [
        f"papers/1/{name}" for name in ("README.md", "papers.json", "tags.json")
    ]
    assert publish.publish(version(tmp_path / "new" / "1", weights=b"4"), uri, kept=2) == 4
    assert numbers(uri) == [1, 3, 4]  # the champion is kept
    assert publish.rollback(uri, "champion") == ("flowers", 1, 5)
    assert papers.read_card(uri, publish.repository_at(uri).versions()[-1]) == papers.read_card(uri, first)
    papers.set_alias(uri, "champion", 5)
    assert publish.publish(version(tmp_path / "last" / "1", weights=b"6"), uri, kept=2) == 6
    assert numbers(uri) == [5, 6]
    assert not [key for key in keys(uri) if key.startswith("papers/1/")]


def test_ignores_an_incomplete_version_and_removes_it_with_the_old_ones(uri, tmp_path, monkeypatch):
    fill(uri, tmp_path, 1)
    writing.write_file(b"half", f"{uri}/2/variables/variables.index")
    writing.write_file(b"", f"{uri}/2/.kfp-vision-of-somebody")
    assert numbers(uri) == [1]
    assert publish.publish(version(tmp_path / "b" / "1", weights=b"3"), uri, kept=2) == 3
    assert numbers(uri) == [1, 3]
    assert "2/variables/variables.index" in keys(uri)  # a writer may still be at work
    for number in (4, 5):
        assert publish.publish(version(tmp_path / f"{number}" / "1", weights=b"%d" % number), uri, kept=2) == number
    assert numbers(uri) == [4, 5]
    assert publish.publish(version(tmp_path / "late" / "1", weights=b"late"), uri, kept=2) == 6
    assert "2/variables/variables.index" in keys(uri)  # its lock is not a day old
    monkeypatch.setattr(bucket_repository, "ABANDONED_SECONDS", 0.0)
    assert publish.publish(version(tmp_path / "6" / "1", weights=b"6"), uri, kept=2) == 7
    assert sorted({key.partition("/")[0] for key in keys(uri)}) == ["6", "7"]


def test_a_slow_publisher_loses_nothing_to_faster_ones(uri, tmp_path, monkeypatch):
    slow, *fast = (version(tmp_path / f"model-{number}" / "1", weights=b"%d" % number) for number in range(3))
    write_file = writing.write_file

    def write_late(content, to):
        if to.endswith("1/saved_model.pb"):  # two others take the next numbers, and end before this
            assert [publish.publish(one, uri) for one in fast] == [2, 3]
        write_file(content, to)

    monkeypatch.setattr(writing, "write_file", write_late)
    assert publish.publish(slow, uri) == 1
    assert numbers(uri) == [1, 2, 3]
    assert fingerprint(uri, 1, tmp_path / "scratch") == slow.fingerprint


@pytest.mark.parametrize("fate", ["forbid", "drop"])
def test_a_failed_upload_leaves_no_version_that_looks_complete(place, tmp_path, fate, monkeypatch):
    monkeypatch.setenv(base.WAIT_VARIABLE, "0.2")  # all later requests fail for good
    one, two = version(tmp_path / "a" / "1"), version(tmp_path / "b" / "1", weights=b"two")
    torn, complete = 0, 0
    for successes in range(40):
        uri = f"{place.bucket({'first': b'1'})}/flowers"
        publish.publish(one, uri)
        before = keys(uri)
        with fault_proxy.line(place.port, share=1, fates=(fate,), after=successes) as line:
            place.lead_over(line.address)
            try:
                publish.publish(two, uri)
                failed = False
            except InputError as error:
                failed = True
                assert "\n" not in str(error)
        place.lead_over()
        if "2/saved_model.pb" in keys(uri):
            assert fingerprint(uri, 2, tmp_path / "scratch") == two.fingerprint
            assert numbers(uri) == [1, 2]
            complete += 1
        else:
            assert failed and numbers(uri) == [1]
            torn += line.requests > successes
            if fate == "forbid":
                assert keys(uri) == before
        if not failed:
            break
    assert complete and torn > 4 and not failed


def test_concurrent_publishers_all_succeed(uri, tmp_path):
    models = [version(tmp_path / f"model-{number}" / "1", weights=b"%d" % number) for number in range(5)]
    with ThreadPoolExecutor(5) as pool:
        published = list(pool.map(lambda one: publish.publish(one, uri), models))
    assert sorted(published) == numbers(uri) and len(set(published)) == 5
    for number, one in zip(published, models, strict=True):
        assert fingerprint(uri, number, tmp_path / "scratch") == one.fingerprint
    assert not [key for key in keys(uri) if "/." in key]


def test_local_copy_downloads_a_model_folder_and_removes_it_afterwards(uri, tmp_path):
    one = version(tmp_path / "a" / "1")
    publish.publish(one, f"{uri}/serving")
    with bucket_repository.local_copy(uri) as path:
        assert versions(find_repository(path))[-1].fingerprint == one.fingerprint
    assert not path.exists()
    refusal = pytest.raises(InputError, match=f"there must be a model to serve; got none in {uri}/nothing")
    with refusal, bucket_repository.local_copy(f"{uri}/nothing"):
        pass


def test_a_synced_copy_follows_its_bucket(uri, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sync, "SYNC_INTERVAL_SECONDS", 0.05)
    models = [version(tmp_path / f"model-{number}" / "1", weights=b"%d" % number) for number in range(3)]
    publish.publish(models[0], uri)
    with sync.synced_copy(uri) as path:
        for number, one in enumerate(models[1:], 2):
            publish.publish(one, uri)
            until(lambda: (path / str(number)).exists())  # noqa: B023
            assert versions(path)[-1].fingerprint == one.fingerprint
        publish.repository_at(uri).versions()[-1].remove()
        until(lambda: not (path / "3").exists())
        assert [one.number for one in versions(path)] == [1, 2]
        for one in reversed(publish.repository_at(uri).versions()):
            one.remove()
        time.sleep(0.5)
        assert versions(path)  # the served version stays until there is another
    assert not path.exists()
    assert capsys.readouterr().out.count("there must be a model to serve; got none in") <= 1


def write_exports(root: Path, fingerprint: str, *formats: str) -> Path:
    """Writes a folder as `export_model` does, with a file in each format that holds the fingerprint."""
    for name in formats:
        (root / name).mkdir(parents=True)
        (root / name / "classifier.xml").write_text(fingerprint)
    (root / "exports.json").write_text(json.dumps({"model_fingerprint": fingerprint}))
    return root


def test_a_synced_copy_follows_the_exports_that_are_needed_and_no_others(uri, tmp_path, monkeypatch):
    monkeypatch.setattr(sync, "SYNC_INTERVAL_SECONDS", 0.05)
    publish.publish(version(tmp_path / "a" / "1"), uri)
    published_exports.publish_exports(write_exports(tmp_path / "old", "1", "onnx", "openvino_int8"), uri)
    with bucket_repository.local_copy(uri) as path:
        assert not (path / "exports").exists()
    with sync.synced_copy(uri, ("openvino_int8",)) as path:
        local = path / "exports" / "openvino_int8" / "classifier.xml"
        assert local.read_text() == "1" and not (path / "exports" / "onnx").exists()
        published_exports.publish_exports(write_exports(tmp_path / "new", "2", "openvino_int8"), uri)
        until(lambda: local.read_text() == "2")
        assert json.loads((path / "exports" / "exports.json").read_text()) == {"model_fingerprint": "2"}
    assert [key for key in keys(uri) if key.startswith("exports")] == [
        "exports/exports.json",
        "exports/openvino_int8/classifier.xml",
    ]


def test_exports_that_are_replaced_while_they_are_read_are_not_taken(uri, tmp_path, monkeypatch):
    published_exports.publish_exports(write_exports(tmp_path / "old", "1", "openvino_int8"), uri)
    published_exports.sync_exports(uri, tmp_path / "copy", ("openvino_int8",))
    published_exports.publish_exports(write_exports(tmp_path / "new", "2", "openvino_int8"), uri)
    download = transfer.download

    def download_slowly(source: str, file: Path) -> None:
        download(source, file)
        writing.delete_file(f"{uri}/exports/exports.json")  # as another publisher does before it writes its files

    monkeypatch.setattr(transfer, "download", download_slowly)
    with pytest.raises(InputError, match=r"exports must not be replaced while they are read; got .*/exports\. Try again"):
        published_exports.sync_exports(uri, tmp_path / "copy", ("openvino_int8",))
    assert (tmp_path / "copy" / "exports" / "openvino_int8" / "classifier.xml").read_text() == "1"


def write_judgements(model: Path, root: Path) -> list[Path]:
    """Writes a verdict and a proof of a model, as the earlier stages do."""
    about = {"model_fingerprint": exported_version(model).fingerprint}
    (root / "verdict").write_text(json.dumps(about | {"verdict": {"accepted": True, "reasons": []}}))
    (root / "proof").write_text(json.dumps(about))
    return [root / "verdict", root / "proof"]


def test_call_evaluation_server_and_predict_use_the_model_in_a_bucket(s3, tmp_path, capfd):
    uri = f"s3://{s3.bucket(f'bucket-{next(NUMBERS)}', {'first': b'1'})}/colours"
    model = tmp_path / "model"
    colour_model.write_version(model / "serving" / "1")
    (tmp_path / "red.jpg").write_bytes(colour_model.picture("red"))
    deployed = deploy.deploy_model(model, "", *write_judgements(model, tmp_path), uri, SETTINGS, tmp_path / "endpoint")
    assert deployed == {"kind": "repository", "repository": uri, "version": 1, "model_name": "colours"}
    missing_records = (tmp_path / "no validation", tmp_path / "no test")
    answer = call.call_endpoint(tmp_path / "endpoint", *missing_records, str(tmp_path / "red.jpg"), tmp_path / "answer")
    assert answer["prediction"] == "red" and answer["url"].endswith("/v1/models/colours:predict")
    # A model with all labels wrong is compared with the one in the bucket.
    labels = ["green", "blue", "red"]
    colour_model.write_version(tmp_path / "worse" / "serving" / "1", tuple(labels))
    (tmp_path / "worse" / "training.json").write_text("[]")
    rows = [
        (ImageRow("", colour, 1, "", f"{number}/{colour}.jpg"), validate_image(colour_model.picture(colour)))
        for number in range(4)
        for colour in colour_model.RGB
    ]
    for split, split_rows in (("validation", rows), ("test", [])):
        convert.write_shards(tmp_path / split, split, iter(split_rows), labels, 100)
    criteria = gate.Criteria(0.0, uri, "", {"beat_largest_class": False})
    outputs = {name: tmp_path / f"worse-{name}" for name in ("evaluation", "page", "verdict")}
    figures = evaluate.evaluate_classifier(
        tmp_path / "worse", tmp_path / "validation", tmp_path / "test", criteria, **outputs
    ).as_dict()
    assert (figures["accuracy"], figures["deployed"]["accuracy"], figures["verdict"]["accepted"]) == (0, 1, False)
    assert "it is significantly worse than the deployed version 1" in figures["verdict"]["reasons"][0]
    shutil.rmtree(model)
    with answering(["serve", uri, "--port", "0", "--name", "tints"]) as url:
        response = requests.post(f"{url}/v1/models/tints:predict", files={"file": colour_model.picture("blue")}, timeout=300)
        assert response.json()["predictions"][0]["classes"] == "blue"
    command = [sys.executable, "-m", "kfp_vision.cli", "predict", "--model", uri, str(tmp_path / "red.jpg"), "--json"]
    prediction = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(prediction.stdout)["prediction"] == "red"


def test_a_server_and_predict_compute_in_int8_from_a_bucket(s3, tmp_path, capfd):
    uri = f"s3://{s3.bucket(f'bucket-{next(NUMBERS)}', {'first': b'1'})}/colours"
    root = exported_colours.write_records(tmp_path)
    made = exported_colours.write_model(root / "model")
    inputs = (root / "model", exported_colours.write_verdict(root / "verdict", made))
    records = export.Records(root / "train", root / "validation", root / "test")
    publish.publish(made, uri)
    export.export_model(*inputs, records, "openvino_int8", root / "exports", root / "page.html", deploy_to=uri)
    with answering(["serve", uri, "--port", "0", "--engine", "openvino-int8"]) as url:
        response = requests.post(f"{url}/v1/models/colours:predict", files={"file": colour_model.picture("blue")}, timeout=300)
        assert response.json()["predictions"][0]["classes"] == "blue"
    (tmp_path / "red.jpg").write_bytes(colour_model.picture("red"))
    command = [sys.executable, "-m", "kfp_vision.cli", "predict", "--model", uri, "--engine", "openvino-int8", "--json"]
    prediction = subprocess.run([*command, str(tmp_path / "red.jpg")], capture_output=True, text=True, check=True)
    assert json.loads(prediction.stdout)["prediction"] == "red"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    """Returns a folder with a model, images, and their index."""
    root = tmp_path_factory.mktemp("made")
    colour_index.write(colour_index.write_model(root / "model"), colour_index.write_pictures(root / "photos"), root / "index")
    return root


def test_deploys_an_index_next_to_its_model_in_a_bucket_and_syncs_it(uri, artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(sync, "SYNC_INTERVAL_SECONDS", 0.05)
    publish.publish(exported_version(artifacts / "model"), uri)
    deploy_index.check_index_target(uri, "somewhere")
    deployed = [deploy_index.deploy_index(artifacts / "index", uri, tmp_path / "deployed")]
    with sync.synced_copy(uri) as path:
        until(lambda: (path / "index" / "index.json").exists())
        here = Index(path / "index")
        assert here.images == Index(artifacts / "index").images and here.about.generation == deployed[0]["generation"]
        deployed += [deploy_index.deploy_index(artifacts / "index", uri, tmp_path / "deployed") for _ in range(2)]
        until(lambda: Index(path / "index").about.generation == deployed[-1]["generation"])
        until(lambda: len([one for one in (path / "index").iterdir() if one.name.isdecimal()]) == 1)
        assert here.thumbnail(0) == Index(artifacts / "index").thumbnail(0)  # of the index whose files are gone
    # The current index and the previous one, which may still be read. Neither counts as a version.
    kept = {key.split("/")[1] for key in keys(uri) if key.startswith("index/")}
    assert kept == {"index.json", *(str(one["generation"]) for one in deployed[1:])}
    assert numbers(uri) == [1]
    assert publish.publish(version(tmp_path / "b" / "1", name="colours"), uri, kept=2) == 2
    with pytest.raises(InputError, match=f"beside its model, colours .*; got another one as version 2 in {uri}"):
        deploy_index.deploy_index(artifacts / "index", uri, tmp_path / "deployed")


@pytest.mark.parametrize("fate", ["forbid", "drop"])
def test_a_failed_index_upload_leaves_the_previous_index(place, artifacts, tmp_path, fate, monkeypatch):
    monkeypatch.setenv(base.WAIT_VARIABLE, "0.2")  # all later requests fail for good
    uri = f"{place.bucket({'first': b'1'})}/colours"
    publish.publish(exported_version(artifacts / "model"), uri)
    before = deploy_index.deploy_index(artifacts / "index", uri, tmp_path / "deployed")["generation"]
    failures, failed = 0, True
    for successes in range(40):
        with fault_proxy.line(place.port, share=1, fates=(fate,), after=successes) as line:
            place.lead_over(line.address)
            try:
                before = deploy_index.deploy_index(artifacts / "index", uri, tmp_path / "deployed")["generation"]
                failed = False
            except InputError as error:
                failed = True
                assert "\n" not in str(error)
        place.lead_over()
        failures += failed
        folder = tmp_path / f"here-{successes}"
        assert deploy_index.sync_index(uri, folder) and Index(folder).images == Index(artifacts / "index").images
        assert Index(folder).about.generation >= before
        if not failed:
            break
    assert failures > 4 and not failed


def test_does_not_sync_an_incomplete_index(uri, artifacts, tmp_path):
    publish.publish(exported_version(artifacts / "model"), uri)
    deployed = deploy_index.deploy_index(artifacts / "index", uri, tmp_path / "deployed")
    assert deploy_index.sync_index(uri, tmp_path / "here") and not deploy_index.sync_index(uri, tmp_path / "here")
    again = deploy_index.deploy_index(artifacts / "index", uri, tmp_path / "deployed")
    writing.delete_file(f"{uri}/index/{again['generation']}/vectors")
    with pytest.raises(InputError, match=f"an index must be whole; got {uri}/index without {again['generation']}/vectors"):
        deploy_index.sync_index(uri, tmp_path / "here")
    writing.write_file(b"{", f"{uri}/index/index.json")
    with pytest.raises(InputError, match=f"index.json must hold the metadata of an index; got {uri}/index"):
        deploy_index.sync_index(uri, tmp_path / "here")
    assert Index(tmp_path / "here").about.generation == deployed["generation"]
    assert deploy_index.deploy_index(artifacts / "index", uri, tmp_path / "deployed")["generation"] > again["generation"]


def test_a_server_on_a_bucket_searches_the_index_there(s3, artifacts, tmp_path):
    uri = f"s3://{s3.bucket(f'bucket-{next(NUMBERS)}', {'first': b'1'})}/colours"
    publish.publish(exported_version(artifacts / "model"), uri)
    deploy_index.deploy_index(artifacts / "index", uri, tmp_path / "deployed")
    with answering(["serve", uri, "--port", "0"]) as url:
        address = f"{url}/v1/models/colours"
        until(lambda: requests.get(f"{address}/index", timeout=300).ok)
        answer = requests.post(f"{address}:search?top_k=2", files={"file": colour_index.picture(7)}, timeout=300).json()
        assert [hit["path"].split("/")[-1] for hit in answer["predictions"][0]["hits"]] == colour_index.nearest(7, 2)
