"""Runs in containers: mounts, network and credentials, and the error without a container engine."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support import sample_images, several_labels
from support.skip import leave_out

from kfp_vision.cli import containers
from kfp_vision.components.container_images import CPU_NAME, GPU_IMAGE, GPU_NAME
from kfp_vision.core.errors import InputError
from kfp_vision.repository import registries
from kfp_vision.storage import base

CALLER = "1000:1000"
LOCAL = {"images_uri": "/photos", "fine_tune": False, "checkpoint_uri": "http://example.org/a.tgz", "test_image_uri": ""}


def mounts(values: dict, user: str = CALLER) -> dict[str, bool]:
    """Returns, for each mounted path, whether it is mounted read-only."""
    found = {mount["Target"]: mount for mount in containers.mounts(values, user)}
    assert all(mount["Source"] == target and mount["Type"] == "bind" for target, mount in found.items())
    return {target: mount["ReadOnly"] for target, mount in found.items()}


@pytest.mark.parametrize(
    ("registry", "gpus", "image"),
    [
        ("", 1, GPU_NAME),
        ("", 0, CPU_NAME),
        ("registry.example.org/team/", 2, f"registry.example.org/team/{GPU_NAME}"),
        ("localhost", 0, f"localhost/{CPU_NAME}"),
    ],
)
def test_training_without_a_gpu_uses_the_cpu_image(registry, gpus, image):
    assert containers.image_name(GPU_IMAGE, registry, gpus) == image


@pytest.mark.parametrize(
    ("changed", "needed"),
    [
        ({}, False),
        ({"images_uri": "sample"}, False),
        ({"test_image_uri": "sample://bellcup/0001.jpg"}, False),
        ({"test_image_uri": "file:///photos/1.jpg"}, False),
        ({"images_uri": "https://example.org/photos.tgz"}, True),
        ({"fine_tune": True}, True),
        ({"images_uri": "s3://bucket/photos"}, True),
        ({"predict_uri": "gs://bucket/photos"}, True),
        ({"model_uri": "/models"}, False),
        ({"model_uri": "s3://bucket/models"}, True),
        ({"logged_uri": "s3://bucket/logs"}, True),
    ],
)
def test_containers_get_a_network_if_a_field_names_a_remote_address(changed, needed):
    assert containers.needs_network(LOCAL | changed) is needed


def test_only_the_paths_named_by_fields_are_mounted_read_only(tmp_path):
    pictures = sample_images.pictures(tmp_path / "pictures", each=1)
    (tmp_path / "others.zip").write_bytes(b"")
    values = LOCAL | {"images_uri": f"file://{pictures}", "test_image_uri": f"{tmp_path}/others.zip#rose/1.jpg"}
    assert mounts(values) == {str(pictures): True, str(tmp_path / "others.zip"): True}
    assert mounts(LOCAL | {"images_uri": str(pictures), "test_image_uri": str(next(pictures.rglob("*.jpg")))}) == {
        str(pictures): True
    }
    assert mounts(LOCAL | {"images_uri": "sample"}) == {}


def test_the_model_of_a_batch_prediction_is_mounted(tmp_path):
    (tmp_path / "models").mkdir()
    assert mounts({"model_uri": str(tmp_path / "models"), "predict_uri": "sample"}) == {str(tmp_path / "models"): True}


def test_the_checkpoint_of_a_search_is_used_if_it_names_no_model(tmp_path):
    (tmp_path / "weights.npz").write_bytes(b"")
    search = {"images_uri": "sample", "model_uri": "", "checkpoint_uri": str(tmp_path / "weights.npz")}
    assert mounts(search) == {str(tmp_path / "weights.npz"): True}
    (tmp_path / "models").mkdir()
    assert mounts(search | {"model_uri": str(tmp_path / "models")}) == {str(tmp_path / "models"): True}
    assert containers.needs_network(search | {"checkpoint_uri": "imagenet"})


def test_a_collection_is_mounted_writable_only_if_logged_requests_are_added_to_it(tmp_path):
    (tmp_path / "collected").mkdir()
    (tmp_path / "logs").mkdir()
    values = {"collected_uri": str(tmp_path / "collected"), "logged_uri": ""}
    assert mounts(values) == {values["collected_uri"]: True}
    values |= {"logged_uri": str(tmp_path / "logs")}
    assert mounts(values) == {values["collected_uri"]: False, values["logged_uri"]: True}


def test_the_image_folders_of_an_import_file_are_mounted(tmp_path):
    pictures = sample_images.pictures(tmp_path / "pictures", each=1)
    (tmp_path / "lists").mkdir()
    listing = tmp_path / "lists" / "images.csv"
    listing.write_text(f"{pictures}/bellcup/0001.jpg,bell\n../pictures/globelet/0001.jpg,globe\n")
    values = LOCAL | {"images_uri": str(listing)}
    assert mounts(values) == {str(listing): True, f"{pictures}/bellcup": True, f"{pictures}/globelet": True}
    assert not containers.needs_network(values)
    listing.write_text("s3://bucket/1.jpg,bell\n")
    assert containers.needs_network(values)


def test_the_image_folders_of_an_import_file_of_several_labels_are_mounted(tmp_path):
    listing = several_labels.write_folder(tmp_path / "photos", 3)
    (tmp_path / "list.jsonl").write_text('{"uri": "photos/0001.jpg", "label": ["blue", "red"]}\n')
    values = LOCAL | {"images_uri": str(tmp_path / "list.jsonl"), "labels": "several"}
    assert mounts(values) == {str(tmp_path / "list.jsonl"): True, str(listing.parent): True}
    (tmp_path / "list.jsonl").write_text('{"uri": "photos/0001.jpg", "label": "blue\\tred"}\n')
    values["advanced"] = {"label_separator": "tab"}
    assert mounts(values) == {str(tmp_path / "list.jsonl"): True, str(listing.parent): True}


def test_the_folder_of_an_import_file_is_mounted_if_images_must_be_looked_for(tmp_path):
    sample_images.pictures(tmp_path / "pictures", each=1)
    listing = tmp_path / "images.csv"
    listing.write_text("id,label\npictures/bellcup/0001.jpg,bell\nglobelet/0001,globe\ngone/0001,globe\n")
    assert mounts(LOCAL | {"images_uri": str(listing)}) == {str(tmp_path): True}


def test_an_exclusion_list_is_mounted_and_not_treated_as_an_import_file(tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("path\ndaisy/1.jpg\n")
    assert mounts(LOCAL | {"images_uri": "sample", "leave_out_uri": str(listing)}) == {str(listing): True}
    assert containers.needs_network(LOCAL | {"images_uri": "sample", "leave_out_uri": "s3://bucket/list.csv"})


def test_the_images_that_a_list_of_labels_adds_are_mounted(tmp_path):
    sample_images.pictures(tmp_path / "new", each=1)
    listing = tmp_path / "labels" / "labels.csv"
    listing.parent.mkdir()
    listing.write_text("path,label\n../new/bellcup/0001.jpg,globelet\n")
    values = LOCAL | {"images_uri": "sample", "labels_uri": str(listing)}
    assert mounts(values) == {str(listing): True, f"{tmp_path}/new/bellcup": True}


def test_containers_get_only_the_credentials_of_the_environment(monkeypatch, tmp_path):
    key = tmp_path / "key.json"
    key.write_text("{}")
    for name in (*base.ENVIRONMENT_VARIABLES, *registries.ENVIRONMENT, "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    assert containers.credentials() == {}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("SOMETHING_ELSE", "else")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    expected = {"AWS_SECRET_ACCESS_KEY": "secret", "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    expected["MLFLOW_TRACKING_URI"] = "http://mlflow:5000"
    assert containers.credentials() == expected
    assert mounts(LOCAL | {"images_uri": "s3://bucket/photos"}) == {str(key): True}


def test_the_files_of_a_checkpoint_prefix_are_mounted(tmp_path):
    for name in ("model.ckpt.index", "model.ckpt.data-00000-of-00001", "model.ckpt-2.index"):
        (tmp_path / name).write_bytes(b"")
    values = LOCAL | {"images_uri": "sample", "fine_tune": True, "checkpoint_uri": str(tmp_path / "model.ckpt")}
    assert mounts(values) == {str(tmp_path / "model.ckpt.index"): True, str(tmp_path / "model.ckpt.data-00000-of-00001"): True}


def test_imagenet_needs_a_network_and_no_mount():
    values = LOCAL | {"images_uri": "sample", "fine_tune": True, "checkpoint_uri": "imagenet"}
    assert mounts(values) == {}
    assert containers.needs_network(values) is True
    assert containers.needs_network(values | {"fine_tune": False}) is False


def test_an_output_folder_is_created_and_mounted_writable(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "WRITTEN_FIELDS", ("deploy_to",))
    values = LOCAL | {"images_uri": "sample", "deploy_to": str(tmp_path / "models" / "flowers")}
    assert mounts(values) == {str(tmp_path / "models" / "flowers"): False}
    assert (tmp_path / "models" / "flowers").is_dir()
    assert mounts(values | {"deploy_to": "none"}) == {}
    assert containers.needs_network(values) is False
    assert containers.needs_network(values | {"deploy_to": "s3://models/flowers"}) is True


def test_for_root_output_folders_are_writable_for_the_group_of_the_container_user(tmp_path, monkeypatch):
    if os.getuid():
        leave_out("only root may give a folder to another group")
    monkeypatch.setattr(containers, "WRITTEN_FIELDS", ("deploy_to",))
    folder = tmp_path / "models"
    assert mounts(LOCAL | {"images_uri": "sample", "deploy_to": str(folder)}, containers.IMAGE_USER) == {str(folder): False}
    assert folder.stat().st_gid == 0
    assert stat.S_IMODE(folder.stat().st_mode) & 0o070 == 0o070


def test_for_root_paths_that_the_container_user_cannot_read_are_rejected(tmp_path):
    (tmp_path / "secret").mkdir(mode=0o700)
    values = LOCAL | {"images_uri": str(tmp_path / "secret")}
    with pytest.raises(InputError, match=r"must be readable for .*; got '?.*secret'?.*\. Make it readable: chmod -R o\+rX "):
        containers.mounts(values, containers.IMAGE_USER)
    assert mounts(values) == {str(tmp_path / "secret"): True}


@pytest.mark.parametrize(
    ("program", "environment", "line"),
    [
        ("", {"DOCKER_HOST": "unix:///nowhere.sock"}, "a container engine must answer; got unix:///nowhere.sock ("),
        (
            "sys.modules['docker'] = None",
            {},
            "the Python package docker must be installed for --runner docker; got none. Install kfp-vision[d",
        ),
    ],
    ids=["no engine", "no package"],
)
def test_a_missing_engine_or_package_is_rejected_in_one_line(tmp_path, program, environment, line):
    arguments = [
        "run",
        "--runner",
        "docker",
        "-p",
        "images_uri=sample",
        "-p",
        "fine_tune=false",
        "--output",
        str(tmp_path / "runs"),
    ]
    program_text = f"import sys\n{program}\nfrom kfp_vision.cli import main\nsys.exit(main({arguments!r}))"
    command = [sys.executable, "-c", program_text]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_log_lines_are_assembled_from_chunks_of_any_size():
    text = "one\nthe accuracy is 89 \N{PER MILLE SIGN}\nlast"
    encoded = text.encode()
    for size in (1, 2, 7, len(encoded)):
        chunks = (encoded[at : at + size] for at in range(0, len(encoded), size))
        assert list(containers._lines(chunks)) == text.split("\n")


def test_mount_targets_are_created_below_the_scratch_folder(tmp_path):
    file = tmp_path / "data" / "a.zip"
    file.parent.mkdir()
    file.write_bytes(b"1")
    scratch = tmp_path / "scratch"
    containers._create_targets(scratch, [file.parent, file, Path("/etc")])
    if tmp_path.is_relative_to("/tmp"):
        assert (scratch / file.relative_to("/tmp")).is_file()
    assert not (scratch / "etc").exists()
