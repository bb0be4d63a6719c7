"""The engine is the one asked for, or the fastest that the model and the machine have."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import exported_model

from kfp_vision import __version__
from kfp_vision.core import hardware
from kfp_vision.core.advanced import ENGINES
from kfp_vision.core.errors import DamagedError, InputError
from kfp_vision.engines import choice
from kfp_vision.engines.engine import OPENVINO, OPENVINO_FILE, OPENVINO_FLOAT32, OPENVINO_INT8, TENSORFLOW, TENSORFLOW_BFLOAT16
from kfp_vision.repository.version import VERSION_FILE, Version

FAST_BFLOAT16 = {True: {"avx2", "amx_bf16"}, False: {"avx2"}}


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine without a GPU, whose processor is fast at bfloat16."""
    monkeypatch.delenv(choice.ENGINE_VARIABLE, raising=False)
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    monkeypatch.setattr(hardware, "cpu_flags", lambda: FAST_BFLOAT16[True])


def version(folder: Path, *, has_openvino: bool = True, **about: object) -> Version:
    found = exported_model.version(folder, **about)
    if has_openvino:
        (folder / OPENVINO_FILE).parent.mkdir()
        (folder / OPENVINO_FILE).write_text("<net/>")
    return found


def test_openvino_computes_in_bfloat16_where_the_processor_is_fast_at_it(tmp_path, monkeypatch):
    found = version(tmp_path / "1")
    assert choice.choose_engine(found) == OPENVINO
    monkeypatch.setattr(hardware, "cpu_flags", lambda: FAST_BFLOAT16[False])
    assert choice.choose_engine(found) == OPENVINO_FLOAT32


def test_tensorflow_computes_what_has_no_file_for_openvino(tmp_path):
    assert choice.choose_engine(version(tmp_path / "1", has_openvino=False)) == TENSORFLOW


def test_tensorflow_computes_where_there_is_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    for is_fast, expected in ((False, TENSORFLOW), (True, TENSORFLOW_BFLOAT16)):
        monkeypatch.setattr(hardware, "is_gpu_fast_at_bfloat16", lambda is_fast=is_fast: is_fast)
        found = version(tmp_path / expected)
        assert choice.choose_engine(found) == expected
        assert choice.choose_engine(found, TENSORFLOW) == TENSORFLOW  # as for KServe's stock runtime


def test_a_gpu_is_found_by_its_device_file(tmp_path, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "nvidiactl").touch()
    assert not hardware.has_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert hardware.has_gpu(tmp_path)


@pytest.mark.parametrize(
    ("has_openvino", "about", "line"),
    [
        (False, {}, "there is no openvino/model.xml in {folder}. Train it again with this release, or"),
        (
            True,
            {"advanced": {"engine": "tensorflow"}},
            "the engine tensorflow is chosen for {folder}. Train it again with this release for another engine, or",
        ),
    ],
)
def test_without_tensorflow_a_model_that_needs_it_is_refused_in_one_line(tmp_path, monkeypatch, has_openvino, about, line):
    found = version(tmp_path / "1", has_openvino=has_openvino, **about)
    monkeypatch.setattr(choice, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name))
    with pytest.raises(InputError) as raised:
        choice.choose_engine(found)
    assert str(raised.value) == (
        "error: a model that TensorFlow computes must be served where TensorFlow is installed; got "
        f"{line.format(folder=found.folder)} serve it with the container image kfp-vision:{__version__} "
        "(service_image of advanced)."
    )


@pytest.mark.parametrize("wish", sorted(set(ENGINES) - {"auto"}))
def test_an_argument_goes_before_the_environment_and_that_before_the_settings_of_the_model(tmp_path, monkeypatch, wish):
    other = TENSORFLOW if wish != TENSORFLOW else OPENVINO_FLOAT32
    assert choice.choose_engine(version(tmp_path / "1"), wish) == wish
    assert choice.choose_engine(version(tmp_path / "2", advanced={"engine": wish})) == wish
    monkeypatch.setenv(choice.ENGINE_VARIABLE, other)
    assert choice.choose_engine(version(tmp_path / "3", advanced={"engine": wish})) == other
    assert choice.choose_engine(version(tmp_path / "4", advanced={"engine": other}), wish) == wish


def test_a_wrong_name_is_rejected_with_where_it_is(tmp_path, monkeypatch):
    found = version(tmp_path / "1", advanced={"engine": "torch"})
    with pytest.raises(InputError, match=r"error: engine in .*model\.json must be one of auto, .*; got torch\. Give one"):
        choice.choose_engine(found)
    monkeypatch.setenv(choice.ENGINE_VARIABLE, "fast")
    with pytest.raises(InputError, match=r"KFP_VISION_ENGINE must be one of .*; got fast"):
        choice.choose_engine(found)
    with pytest.raises(InputError, match=r"the engine must be one of .*; got faster"):
        choice.choose_engine(found, "faster")


def test_openvino_is_not_asked_of_a_model_without_a_file_for_it(tmp_path):
    with pytest.raises(InputError, match=r"a model for the engine openvino must hold openvino/model\.xml; got none in "):
        choice.load_engine(version(tmp_path / "1", has_openvino=False), OPENVINO)


def write_int8(repository: Path, fingerprint: str) -> Path:
    """Writes what `export_model` copies to a repository, without a model in it."""
    file = repository / "exports" / "openvino_int8" / "classifier.xml"
    file.parent.mkdir(parents=True)
    file.write_text("<net/>")
    (repository / "exports" / "exports.json").write_text(json.dumps({"model_fingerprint": fingerprint}))
    return file


def test_int8_is_taken_from_the_exports_of_the_same_version_if_asked_for(tmp_path, monkeypatch):
    found = version(tmp_path / "1")
    file = write_int8(tmp_path, found.fingerprint)
    assert choice.choose_engine(found) == OPENVINO
    assert choice.choose_engine(found, OPENVINO_INT8) == OPENVINO_INT8 and choice.find_int8(found) == file
    monkeypatch.setenv(choice.ENGINE_VARIABLE, OPENVINO_INT8)
    assert choice.choose_engine(found) == OPENVINO_INT8


def test_int8_of_another_version_is_rejected_and_so_is_none(tmp_path):
    found = version(tmp_path / "1")
    rule = r"a model for the engine openvino-int8 must have an export of its own as openvino_int8; got "
    with pytest.raises(InputError, match=rf"{rule}none in .*exports\. Train it with formats=openvino_int8"):
        choice.choose_engine(found, OPENVINO_INT8)
    file = write_int8(tmp_path, "another")
    with pytest.raises(InputError, match=rf"{rule}one of another model in "):
        choice.choose_engine(found, OPENVINO_INT8)
    (tmp_path / "exports" / "exports.json").write_text(json.dumps({"model_fingerprint": found.fingerprint}))
    file.unlink()  # refused by the gate
    with pytest.raises(InputError, match=rf"{rule}none in "):
        choice.choose_engine(found, OPENVINO_INT8)


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b'"text"', b"{}", b'{"model_fingerprint": ["x"]}', b'{"model_', b"\xff", b"[" * 100_000],
    ids=["list", "null", "text", "empty", "type", "truncated", "bytes", "nested"],
)
def test_a_damaged_table_of_exports_is_refused_in_one_line(tmp_path, content):
    found = version(tmp_path / "1")
    write_int8(tmp_path, found.fingerprint)
    (tmp_path / "exports" / "exports.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"; got a damaged .*exports\.json\. Train it with formats=openvino_int8"):
        choice.choose_engine(found, OPENVINO_INT8)


def test_a_model_is_not_trained_for_int8_which_is_made_afterwards(tmp_path):
    with pytest.raises(InputError, match=r"engine in .*model\.json must be one of .*; got openvino-int8"):
        choice.choose_engine(version(tmp_path / "1", advanced={"engine": OPENVINO_INT8}))


def test_the_stock_runtime_is_computed_by_tensorflow(tmp_path):
    assert choice.choose_serving_engine(version(tmp_path / "1", advanced={"service_runtime": "tensorflow"})) == TENSORFLOW
    assert choice.choose_serving_engine(version(tmp_path / "2")) == ""


def test_the_settings_are_read_from_the_file_of_the_version(tmp_path):
    found = version(tmp_path / "1")
    about = json.loads((found.folder / VERSION_FILE).read_text()) | {"advanced": {"engine": TENSORFLOW}}
    (found.folder / VERSION_FILE).write_text(json.dumps(about))
    assert choice.choose_engine(Version(shutil.copytree(found.folder, tmp_path / "copy" / "1"))) == TENSORFLOW
