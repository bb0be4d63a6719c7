"""One version number joins library, images and YAML; and what is released under it stays as it is."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_vision import __version__

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = [ROOT / "images" / "cpu" / "Dockerfile", ROOT / "Dockerfile.gpu"]
YAMLS = sorted(
    [*(ROOT / "pipelines").glob("*.yaml"), *(ROOT / "components").glob("*.yaml"), *(ROOT / "manifests").rglob("*.yaml")]
)


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of the project whose version is released."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("setup.py", "Dockerfile.gpu"):
        shutil.copy(ROOT / name, root / name)
    for name in (".ci", "images", "kfp_vision", "components", "pipelines"):
        shutil.copytree(ROOT / name, root / name)
    (root / "CHANGELOG.md").write_text(f"# Changes\n\n## {__version__}\n\n- Everything.\n")
    (root / "releases").write_text("# None yet.\n")
    assert release(root, "record").returncode == 0
    return root


def release(root: Path, what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / ".ci" / "release", what]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_this_version_is_what_was_released_or_is_not_released():
    done = release(ROOT, "check")
    assert done.returncode == 0, done.stderr


def test_what_is_released_is_let_pass_and_so_is_a_change_of_prose_alone(tree):
    rewrite(tree / "CHANGELOG.md", "Everything", "All of it")
    (tree / "images" / "README.md").write_text("Anew.\n")
    (tree / "kfp_vision" / "__pycache__").mkdir(exist_ok=True)
    (tree / "kfp_vision" / "__pycache__" / "storage.cpython-399.pyc").write_bytes(b"compiled")
    done = release(tree, "check")
    assert (done.returncode, done.stdout) == (0, f"version {__version__} is as it was released\n")


@pytest.mark.parametrize(
    "changed",
    [
        "kfp_vision/dataset/split.py",
        "kfp_vision/networks/layers.py",
        "kfp_vision/reports/templates/base.html.j2",
        "components/split_images.py",
        "pipelines/pods.py",
        "pipelines/image_classification.yaml",
        "images/gpu/requirements.lock",
        "Dockerfile.gpu",
        "setup.py",
    ],
)
def test_code_that_changes_under_a_released_version_is_refused(tree, changed):
    with (tree / changed).open("a") as file:
        file.write("\n")
    done = release(tree, "check")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: version {__version__} is released, so its code must stay as it was; got another. ")
    assert done.stderr.count("\n") == 1


def test_a_module_more_or_less_is_a_change(tree):
    (tree / "kfp_vision" / "another.py").write_text("")
    assert release(tree, "check").returncode == 1
    (tree / "kfp_vision" / "another.py").unlink()
    assert release(tree, "check").returncode == 0
    (tree / "kfp_vision" / "records" / "statistics.py").unlink()
    assert release(tree, "check").returncode == 1


def test_under_the_next_version_all_may_change(tree):
    rewrite(tree / "kfp_vision" / "__init__.py", __version__, "99.0.0")
    done = release(tree, "check")
    assert (done.returncode, done.stdout) == (0, "version 99.0.0 is not released, and may change\n")


def test_a_version_that_the_changes_do_not_begin_with_is_not_released(tree):
    before = (tree / "releases").read_text()
    rewrite(tree / "kfp_vision" / "__init__.py", __version__, "99.0.0")
    rewrite(tree / "CHANGELOG.md", f"## {__version__}", f"## 99.0.0, unreleased\n\n- More.\n\n## {__version__}")
    done = release(tree, "record")
    assert done.returncode == 1
    assert done.stderr.startswith("error: CHANGELOG.md must begin with the section 99.0.0; got 99.0.0, unreleased.")
    assert (tree / "releases").read_text() == before
    rewrite(tree / "CHANGELOG.md", ", unreleased", "")
    assert release(tree, "record").returncode == 0
    assert [line.split()[0] for line in (tree / "releases").read_text().splitlines()[1:]] == [__version__, "99.0.0"]


def test_a_version_is_not_released_twice(tree):
    rewrite(tree / "kfp_vision" / "records" / "statistics.py", "import", "\nimport")
    before = (tree / "releases").read_text()
    done = release(tree, "record")
    assert done.returncode == 1 and "is released" in done.stderr
    assert (tree / "releases").read_text() == before


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_a_dockerfile_builds_the_librarys_version(file):
    stated = re.findall(r"^ARG VERSION=(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert stated and set(stated) == {__version__}


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_yaml_names_images_of_the_librarys_version(file):
    named = re.findall(r"image: (?:\S+/)?kfp-vision(?:-gpu)?:(\S+)", file.read_text(encoding="utf-8"))
    assert set(named) <= {__version__}
    assert named or "manifests/" in file.as_posix()


def test_up_to_the_library_both_images_are_built_alike():
    parts = [
        file.read_text(encoding="utf-8").partition("AS packages")[2].partition("\nFROM installed\n")[0] for file in DOCKERFILES
    ]
    assert parts[0] == parts[1] and "AS test" in parts[0]
