"""What a run in containers may see and do, and what it says where there is nothing to run containers with."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support import sample_images
from support.skip import leave_out

from kfp_vision.cli import containers
from kfp_vision.components.images import CPU_IMAGE, GPU_IMAGE
from kfp_vision.core.errors import InputError
from kfp_vision.storage import base

CALLER = "1000:1000"
LOCAL = {"images_uri": "/photos", "fine_tune": False, "checkpoint_uri": "http://example.org/a.tgz", "test_image_uri": ""}


def seen(values: dict, user: str = CALLER) -> dict[str, bool]:
    """Path to whether it can only be read."""
    found = {mount["Target"]: mount for mount in containers.mounts(values, user)}
    assert all(mount["Source"] == target and mount["Type"] == "bind" for target, mount in found.items())
    return {target: mount["ReadOnly"] for target, mount in found.items()}


@pytest.mark.parametrize(
    ("registry", "gpus", "image"),
    [
        ("", 1, GPU_IMAGE),
        ("", 0, CPU_IMAGE),
        ("registry.example.org/team/", 2, f"registry.example.org/team/{GPU_IMAGE}"),
        ("localhost", 0, f"localhost/{CPU_IMAGE}"),
    ],
)
def test_training_without_a_gpu_takes_the_small_image(registry, gpus, image):
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
    ],
)
def test_there_is_a_network_where_a_field_that_is_read_names_an_address(changed, needed):
    assert containers.needs_network(LOCAL | changed) is needed


def test_what_a_field_names_can_be_read_and_nothing_beside_it(tmp_path):
    pictures = sample_images.pictures(tmp_path / "pictures", each=1)
    (tmp_path / "others.zip").write_bytes(b"")
    values = LOCAL | {"images_uri": f"file://{pictures}", "test_image_uri": f"{tmp_path}/others.zip#rose/1.jpg"}
    assert seen(values) == {str(pictures): True, str(tmp_path / "others.zip"): True}
    assert seen(LOCAL | {"images_uri": str(pictures), "test_image_uri": str(next(pictures.rglob("*.jpg")))}) == {
        str(pictures): True
    }
    assert seen(LOCAL | {"images_uri": "sample"}) == {}


def test_the_model_of_a_batch_prediction_can_be_read(tmp_path):
    (tmp_path / "models").mkdir()
    assert seen({"model_uri": str(tmp_path / "models"), "predict_uri": "sample"}) == {str(tmp_path / "models"): True}


def test_of_an_import_file_the_folders_of_its_pictures_can_be_read(tmp_path):
    pictures = sample_images.pictures(tmp_path / "pictures", each=1)
    (tmp_path / "lists").mkdir()
    listing = tmp_path / "lists" / "images.csv"
    listing.write_text(f"{pictures}/bellcup/0001.jpg,bell\n../pictures/globelet/0001.jpg,globe\n")
    values = LOCAL | {"images_uri": str(listing)}
    assert seen(values) == {str(listing): True, f"{pictures}/bellcup": True, f"{pictures}/globelet": True}
    assert not containers.needs_network(values)
    listing.write_text("s3://bucket/1.jpg,bell\n")
    assert containers.needs_network(values)


def test_a_list_of_pictures_to_leave_out_can_be_read_and_is_no_import_file(tmp_path):
    listing = tmp_path / "list.csv"
    listing.write_text("path\ndaisy/1.jpg\n")
    assert seen(LOCAL | {"images_uri": "sample", "leave_out_uri": str(listing)}) == {str(listing): True}
    assert containers.needs_network(LOCAL | {"images_uri": "sample", "leave_out_uri": "s3://bucket/list.csv"})


def test_the_stages_have_the_credentials_of_this_environment_and_nothing_else_of_it(monkeypatch, tmp_path):
    key = tmp_path / "key.json"
    key.write_text("{}")
    for name in (*base.ENVIRONMENT_VARIABLES, "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    assert containers.credentials() == {}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("SOMETHING_ELSE", "else")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    expected = {"AWS_SECRET_ACCESS_KEY": "secret", "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    assert containers.credentials() == expected
    assert seen(LOCAL | {"images_uri": "s3://bucket/photos"}) == {str(key): True}


def test_of_a_checkpoint_named_by_its_prefix_the_files_can_be_read(tmp_path):
    for name in ("model.ckpt.index", "model.ckpt.data-00000-of-00001", "model.ckpt-2.index"):
        (tmp_path / name).write_bytes(b"")
    values = LOCAL | {"images_uri": "sample", "fine_tune": True, "checkpoint_uri": str(tmp_path / "model.ckpt")}
    assert seen(values) == {str(tmp_path / "model.ckpt.index"): True, str(tmp_path / "model.ckpt.data-00000-of-00001"): True}


def test_imagenet_is_an_address_and_no_file():
    values = LOCAL | {"images_uri": "sample", "fine_tune": True, "checkpoint_uri": "imagenet"}
    assert seen(values) == {}
    assert containers.needs_network(values) is True
    assert containers.needs_network(values | {"fine_tune": False}) is False


def test_a_folder_to_write_to_is_made_and_can_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "WRITTEN_FIELDS", ("deploy_to",))
    values = LOCAL | {"images_uri": "sample", "deploy_to": str(tmp_path / "models" / "flowers")}
    assert seen(values) == {str(tmp_path / "models" / "flowers"): False}
    assert (tmp_path / "models" / "flowers").is_dir()
    assert seen(values | {"deploy_to": "none"}) == {}
    assert containers.needs_network(values) is False
    assert containers.needs_network(values | {"deploy_to": "s3://models/flowers"}) is True


def test_called_by_root_the_group_of_the_images_user_can_write(tmp_path, monkeypatch):
    if os.getuid():
        leave_out("only root may give a folder to another group")
    monkeypatch.setattr(containers, "WRITTEN_FIELDS", ("deploy_to",))
    folder = tmp_path / "models"
    assert seen(LOCAL | {"images_uri": "sample", "deploy_to": str(folder)}, containers.IMAGE_USER) == {str(folder): False}
    assert folder.stat().st_gid == 0
    assert stat.S_IMODE(folder.stat().st_mode) & 0o070 == 0o070


def test_called_by_root_refuses_what_the_images_user_cannot_read(tmp_path):
    (tmp_path / "secret").mkdir(mode=0o700)
    values = LOCAL | {"images_uri": str(tmp_path / "secret")}
    with pytest.raises(InputError, match=r"must be readable for .*; got '?.*secret'?.*\. Make it readable: chmod -R o\+rX "):
        containers.mounts(values, containers.IMAGE_USER)
    assert seen(values) == {str(tmp_path / "secret"): True}


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
def test_says_in_one_line_what_is_missing(tmp_path, program, environment, line):
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
    whole = f"import sys\n{program}\nfrom kfp_vision.cli import main\nsys.exit(main({arguments!r}))"
    command = [sys.executable, "-c", whole]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {line}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_lines_come_whole_however_they_arrive():
    text = "one\nthe accuracy is 89 \N{PER MILLE SIGN}\nlast"
    encoded = text.encode()
    for size in (1, 2, 7, len(encoded)):
        chunks = (encoded[at : at + size] for at in range(0, len(encoded), size))
        assert list(containers._lines(chunks)) == text.split("\n")


def test_the_scratch_folder_is_laid_out_by_the_caller(tmp_path):
    file = tmp_path / "data" / "a.zip"
    file.parent.mkdir()
    file.write_bytes(b"1")
    scratch = tmp_path / "scratch"
    containers._create_targets(scratch, [file.parent, file, Path("/etc")])
    if tmp_path.is_relative_to("/tmp"):
        assert (scratch / file.relative_to("/tmp")).is_file()
    assert not (scratch / "etc").exists()
