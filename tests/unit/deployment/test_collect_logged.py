"""What KServe's logger writes is collected: each file once, in each of its forms, and answered by the model."""

import base64
import csv
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import colour_model, known_colours, parquet_files

from kfp_vision.collection.collected import list_batches, read_collected
from kfp_vision.core.errors import DamagedError
from kfp_vision.deployment import collect_logged as logged
from kfp_vision.deployment.collect_logged import collect_logged, read_log
from kfp_vision.prediction.classifier import Classifier
from kfp_vision.storage import writing

RED, BLUE = colour_model.picture("red"), colour_model.picture("blue")


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def event(name: str, body: bytes, kind: str = "request") -> dict[str, object]:
    """An event as Go's encoding/json writes the struct LogRequest of KServe (pkg/logger/types.go)."""
    return {
        "Url": {"Scheme": "s3", "Host": "logs"},
        "Bytes": b64(body),
        "ContentType": "application/json",
        "ReqType": f"org.kubeflow.serving.inference.{kind}",
        "Id": name,
        "SourceUri": None,
        "InferenceService": "colours",
        "Namespace": "models",
        "Component": "predictor",
        "Endpoint": "default",
        "Metadata": None,
        "Annotations": None,
        "CertName": "",
        "TlsSkipVerify": False,
    }


def as_csv(events: list[dict[str, object]]) -> bytes:
    """The same as KServe's marshaller for CSV writes it (pkg/logger/marshaller_record.go): columns in lower case."""
    file = io.StringIO()
    rows = [{name[0].lower() + name[1:]: "" if value is None else value for name, value in one.items()} for one in events]
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


V1 = json.dumps({"instances": [{"b64": b64(RED)}, {"b64": b64(b"no image at all, though it is long enough")}]}).encode()
V2 = json.dumps({"inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [b64(BLUE)]}]}).encode()


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> known_colours.Version:
    return known_colours.write_version(tmp_path_factory.mktemp("repository") / "1")


@pytest.mark.slow
def test_each_file_of_the_logger_is_collected_once(version, tmp_path):
    logs, place = tmp_path / "logs" / "models" / "colours", tmp_path / "collected"
    logs.mkdir(parents=True)
    (logs / "1-request.json").write_text(json.dumps(event("1", V1)))
    (logs / "1-response.json").write_text(json.dumps(event("1", b'{"predictions": []}', "response")))
    (logs / "3-request.csv").write_bytes(as_csv([event("2", V2), event("3", RED), event("3", b"", "response")]))
    parquet_files.write_log(logs / "4-request.parquet", [event("4", BLUE), event("4", b"", "response")])
    (logs / "0-request.json").write_text(json.dumps(event("0", V2)))
    os.utime(logs / "0-request.json", (1, 1))  # older than the days that are looked back
    (logs / "notes.txt").write_text("of somebody else")
    counts = collect_logged(version, str(tmp_path / "logs"), str(place), days=7, images=True)
    assert counts == {"files": 3, "answers": 4, "rejected": 1}
    found = sorted(read_collected(str(place), model="colours", fingerprint=version.fingerprint), key=lambda one: one.labels)
    assert [one.labels for one in found] == [["blue"], ["blue"], ["red"], ["red"]]
    assert [Path(one.image_uri).read_bytes() for one in found] == [BLUE, BLUE, RED, RED]
    (expected,) = Classifier(version, keep_embeddings=True).classify([BLUE])
    np.testing.assert_allclose(found[0].embedding, expected.embedding, rtol=2e-3)
    assert collect_logged(version, str(tmp_path / "logs"), str(place), days=7, images=True) == {
        "files": 0,
        "answers": 0,
        "rejected": 0,
    }
    assert len(list(read_collected(str(place)))) == 4


@pytest.mark.slow
def test_a_file_of_several_models_is_gone_on_with_after_a_kill(version, tmp_path, monkeypatch):
    """The stage is killed before the batch of one of the models, whichever: the next one adds what lacks, and nothing twice."""
    (tmp_path / "logs").mkdir()
    events = [event(name, RED) | {"InferenceService": f"colours-{name}"} for name in ("a", "b", "c")]
    (tmp_path / "logs" / "batch-request.json").write_text(json.dumps(events))
    for done in range(3):
        place, left = str(tmp_path / f"collected-{done}"), [done]

        def write_file(content: bytes, uri: str, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            writing.write_file(content, uri)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(logged, "writing", SimpleNamespace(**vars(writing) | {"write_file": write_file}))
            collect_logged(version, str(tmp_path / "logs"), place, days=7, images=False)
        assert len(list_batches(place)) == done
        collect_logged(version, str(tmp_path / "logs"), place, days=7, images=False)
        assert [one.model for one in read_collected(place)] == ["colours-a", "colours-b", "colours-c"]
        assert collect_logged(version, str(tmp_path / "logs"), place, days=7, images=False)["files"] == 0


def test_a_batch_in_json_is_a_list():
    (first, second) = read_log(
        json.dumps([event("1", b"x"), event("1", b"y", "response"), event("2", b"z")]).encode(), "a.json"
    )
    assert (first.name, first.model, first.body, second.body) == ("1", "colours", b"x", b"z")


def test_a_batch_in_parquet_holds_the_same(tmp_path):
    events = [event("1", b"x"), event("1", b"y", "response"), event("2", V1)]
    parquet_files.write_log(tmp_path / "1-request.parquet", events)
    content = (tmp_path / "1-request.parquet").read_bytes()
    (first, second) = read_log(content, "s3://b/1-request.parquet?endpoint=http://minio:9000")
    assert (first.name, first.model, first.body, second.body) == ("1", "colours", b"x", V1)


def test_damaged_parquet_is_named():
    with pytest.raises(DamagedError, match=r"^error: a file of KServe's logger must be whole; got s3:.*not a Parquet file"):
        list(read_log(b"PAR1", "s3://b/1.parquet?endpoint=http://minio:9000"))


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[1]",
        b'{"Id": "1"}',
        b"[" * 200_000,
        json.dumps(event("1", b"") | {"Bytes": "%"}).encode(),
        json.dumps(event("1", b"") | {"InferenceService": "../../elsewhere"}).encode(),
    ],
)
def test_a_file_of_something_else_is_named(content):
    with pytest.raises(DamagedError, match=r"^error: a file of KServe's logger must be whole; got s3://b/1.json \("):
        list(read_log(content, "s3://b/1.json"))


def test_without_a_log_nothing_is_done(tmp_path):
    from kfp_vision.repository.version import Version

    assert collect_logged(Version(tmp_path), "", str(tmp_path), days=7, images=False) == {
        "files": 0,
        "answers": 0,
        "rejected": 0,
    }
