"""Library, container images and YAML share one version number, and released code stays unchanged."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_vision import PLACEHOLDER, __version__
from kfp_vision.networks import NETWORKS
from kfp_vision.training.choose_network import PACKAGED_FOR_PROCESSOR

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = [ROOT / "images" / "cpu" / "Dockerfile", ROOT / "Dockerfile.gpu", ROOT / "images" / "serve" / "Dockerfile"]
YAMLS = sorted(
    [*(ROOT / "pipelines").glob("*.yaml"), *(ROOT / "components").glob("*.yaml"), *(ROOT / "manifests").rglob("*.yaml")]
)


@pytest.fixture
def released_project(tmp_path) -> Path:
    """Returns a copy of the project whose version is released."""
    root = tmp_path / "project"
    root.mkdir()
    for name in ("setup.py", "Dockerfile.gpu"):
        shutil.copy(ROOT / name, root / name)
    for name in (".ci", "images", "kfp_vision", "components", "pipelines"):
        shutil.copytree(ROOT / name, root / name)
    (root / "CHANGELOG.md").write_text(f"# Changes\n\n## {__version__}\n\n- Everything.\n")
    (root / "releases").write_text("# None yet.\n")
    assert run_release_script(root, "fill", "ghcr.io/team").returncode == 0
    assert run_release_script(root, "record").returncode == 0
    return root


def run_release_script(root: Path, *action: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / ".ci" / "release", *action]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_this_version_is_unreleased_or_unchanged_since_its_release():
    done = run_release_script(ROOT, "check")
    assert done.returncode == 0, done.stderr


def test_accepts_changes_outside_the_code_of_a_released_version(released_project):
    rewrite(released_project / "CHANGELOG.md", "Everything", "All of it")
    (released_project / "images" / "README.md").write_text("Anew.\n")
    (released_project / "kfp_vision" / "__pycache__").mkdir(exist_ok=True)
    (released_project / "kfp_vision" / "__pycache__" / "storage.cpython-399.pyc").write_bytes(b"compiled")
    done = run_release_script(released_project, "check")
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
        "images/serve/requirements.lock",
        "images/serve/Dockerfile",
        "Dockerfile.gpu",
        "setup.py",
    ],
)
def test_rejects_changed_code_under_a_released_version(released_project, changed):
    with (released_project / changed).open("a") as file:
        file.write("\n")
    done = run_release_script(released_project, "check")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: version {__version__} is released, so its code must stay as it was; got another. ")
    assert done.stderr.count("\n") == 1


def test_rejects_added_and_removed_modules_under_a_released_version(released_project):
    (released_project / "kfp_vision" / "another.py").write_text("")
    assert run_release_script(released_project, "check").returncode == 1
    (released_project / "kfp_vision" / "another.py").unlink()
    assert run_release_script(released_project, "check").returncode == 0
    (released_project / "kfp_vision" / "records" / "statistics.py").unlink()
    assert run_release_script(released_project, "check").returncode == 1


def test_code_may_change_under_an_unreleased_version(released_project):
    rewrite(released_project / "kfp_vision" / "__init__.py", __version__, "99.0.0")
    done = run_release_script(released_project, "check")
    assert (done.returncode, done.stdout) == (0, "version 99.0.0 is not released, and may change\n")


def test_a_version_is_released_only_if_the_changelog_begins_with_it(released_project):
    before = (released_project / "releases").read_text()
    rewrite(released_project / "kfp_vision" / "__init__.py", __version__, "99.0.0")
    rewrite(released_project / "CHANGELOG.md", f"## {__version__}", f"## 99.0.0, unreleased\n\n- More.\n\n## {__version__}")
    done = run_release_script(released_project, "record")
    assert done.returncode == 1
    assert done.stderr.startswith("error: CHANGELOG.md must begin with the section 99.0.0; got 99.0.0, unreleased.")
    assert (released_project / "releases").read_text() == before
    rewrite(released_project / "CHANGELOG.md", ", unreleased", "")
    assert run_release_script(released_project, "record").returncode == 0
    assert [line.split()[0] for line in (released_project / "releases").read_text().splitlines()[1:]] == [__version__, "99.0.0"]


def test_a_version_is_released_only_with_a_registry_that_can_be_pulled_from(released_project):
    rewrite(released_project / "kfp_vision" / "__init__.py", __version__, "99.0.0")
    rewrite(released_project / "CHANGELOG.md", f"## {__version__}", "## 99.0.0")
    rewrite(released_project / "kfp_vision" / "__init__.py", '\nREGISTRY = "ghcr.io/team"', f'\nREGISTRY = "{PLACEHOLDER}"')
    done = run_release_script(released_project, "record")
    assert done.returncode == 1
    assert done.stderr.endswith(f"got {PLACEHOLDER}. Say make release REGISTRY=ghcr.io/team, for example.\n")
    assert run_release_script(released_project, "fill", "ghcr.io/Team").returncode == 1
    assert run_release_script(released_project, "fill", "registry.example.org:5000/team/ml").returncode == 0
    assert run_release_script(released_project, "record").returncode == 0


def test_filling_the_registry_names_it_in_package_and_manifests(tmp_path):
    for name in (".ci", "manifests", "kfp_vision"):
        shutil.copytree(ROOT / name, tmp_path / name)
    done = run_release_script(tmp_path, "fill", "registry.example.org:5000/team")
    assert (done.returncode, done.stdout) == (0, "the container images are named in registry.example.org:5000/team\n")
    script = "import sys; sys.path.insert(0, '.'); from kfp_vision import PLACEHOLDER, REGISTRY; print(PLACEHOLDER, REGISTRY)"
    names = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert names == [PLACEHOLDER, "registry.example.org:5000/team"]
    for suffix, image in (("", "serve"), ("-gpu", "gpu")):
        runtime = (tmp_path / "manifests" / "runtime" / f"serving-runtime{suffix}.yaml").read_text(encoding="utf-8")
        assert f"image: registry.example.org:5000/team/kfp-vision-{image}:{__version__}\n" in runtime


def test_a_version_is_not_released_twice(released_project):
    rewrite(released_project / "kfp_vision" / "records" / "statistics.py", "import", "\nimport")
    before = (released_project / "releases").read_text()
    done = run_release_script(released_project, "record")
    assert done.returncode == 1 and "is released" in done.stderr
    assert (released_project / "releases").read_text() == before


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_dockerfile_builds_the_librarys_version(file):
    versions = re.findall(r"^ARG VERSION=(.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert versions and set(versions) == {__version__}


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_a_yaml_names_images_of_the_librarys_version(file):
    versions = re.findall(r"image: (?:\S+/)?kfp-vision(?:-gpu|-serve)?:(\S+)", file.read_text(encoding="utf-8"))
    assert set(versions) <= {__version__}
    assert versions or "manifests/" in file.as_posix()


def test_both_dockerfiles_of_the_stages_share_the_steps_that_install_the_library():
    parts = [
        file.read_text(encoding="utf-8").partition("AS packages")[2].partition("\nFROM installed\n")[0]
        for file in DOCKERFILES[:2]
    ]
    assert parts[0] == parts[1] and "AS test" in parts[0]


def test_the_server_installs_the_library_by_the_same_steps_as_the_stages():
    parts = [
        file.read_text(encoding="utf-8").partition("AS library")[2].partition("\nFROM packages AS installed\n")[0]
        for file in DOCKERFILES
    ]
    assert "--prefix /opt/library" in parts[0]
    assert [part.partition("\n# ")[0].strip() for part in parts] == [parts[0].partition("\n# ")[0].strip()] * 3


def pinned(lock: str) -> dict[str, str]:
    """Returns the versions that a lock file pins, by package."""
    text = (ROOT / "images" / lock / "requirements.lock").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE))


def test_the_images_of_the_stages_hold_the_weights_that_the_recipe_quick_starts_from():
    package, _, version = NETWORKS[PACKAGED_FOR_PROCESSOR[0]].weights_package.partition("==")
    assert [pinned(lock).get(package) for lock in ("cpu", "gpu")] == [version, version]


def test_a_model_is_served_with_the_versions_that_it_was_trained_and_evaluated_with():
    stages, server = pinned("cpu"), pinned("serve")
    assert {name: stages.get(name) for name in server} == server
    assert {"kserve", "openvino", "faiss-cpu", "simplejpeg", "pillow-heif"} <= server.keys()
    assert server.keys().isdisjoint({"tensorflow-cpu", "keras", "kfp", "opencv-python-headless", "scipy", "pandas"})


def test_the_image_for_gpus_is_built_only_with_the_assembler_that_xla_looks_for(tmp_path):
    """Runs the command of the Dockerfile in a folder of packages; a script stands in for the assembler."""
    (command,) = re.findall(
        r"^RUN cd \S+ \\\n    && (if ls .*?\n    fi)$", DOCKERFILES[1].read_text(), re.MULTILINE | re.DOTALL
    )

    def build() -> int:
        return subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False).returncode

    (tmp_path / "tensorflow").mkdir()
    assert build() == 0  # the packages of the small image, as in the tests of the containers
    (name,) = re.findall(
        r"^nvidia-cuda-nvcc-cu12==(\S+)", (ROOT / "images" / "gpu" / "requirements.lock").read_text(), re.MULTILINE
    )
    (tmp_path / f"nvidia_cuda_nvcc_cu12-{name}.dist-info").mkdir()
    assert build() != 0
    for name in ("bin/ptxas", "nvvm/libdevice/libdevice.10.bc"):
        file = tmp_path / "nvidia" / "cuda_nvcc" / name
        file.parent.mkdir(parents=True)
        file.write_text("#!/bin/sh\nexit 0\n")
        file.chmod(0o755)
    assert build() == 0
    (tmp_path / "nvidia" / "cuda_nvcc" / "bin" / "ptxas").write_text("#!/bin/sh\nexit 1\n")
    assert build() != 0
