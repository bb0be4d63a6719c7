"""Pipelines in container images: unprivileged, with a read-only root, and without a network except to a store."""

import csv
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import colour_model, sample_images, several_labels
from support.model_servers import ended, until

from kfp_vision import __version__
from kfp_vision.components.container_images import CPU_NAME, GPU_NAME
from kfp_vision.prediction import client
from kfp_vision.records.records_folder import read_examples
from kfp_vision.reports import outcome
from kfp_vision.repository.version import versions
from kfp_vision.serving.server import run_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
STAGES = [
    "check_run",
    "decide_training",
    "ingest_images",
    "split_images",
    "write_tfrecords",
    "train_classifier",
    "evaluate_classifier",
    "check_serving",
    "deploy_model",
    "call_endpoint",
    "report_outcome",
]
BATCH_STAGES = [
    "check_prediction",
    "partition_records",
    "fetch_model",
    "predict_images",
    "predict_images (2)",
    "join_predictions",
    "report_outcome",
]
FIRST_LINE_AFTER_STAGES = "\naccuracy "  # the first line after those of the stages
SPLITS = {"train": 108, "validation": 36, "test": 36}
# Learns three classes of the sample in a minute on two cores.
FORM = {
    "fine_tune": "false",
    "image_size": "64",
    "validation_ratio": "0.2",
    "test_ratio": "0.2",
    "train_steps": "160",
    "optimizer": "adam",
    "learning_rate": "0.002",
    "learning_rate_schedule": "cosine",
    "gpu_count": "1",  # selects the GPU image, which trains on the CPU with a warning
    "advanced": '{"depth_multiplier": 0.25, "warmup_steps": 10}',
}
# Learns the squares of three colours, any number of them on an image.
SEVERAL_FORM = FORM | {"labels": "several", "image_size": "48", "gpu_count": "0"}
# Lines that differ between trainings or with the load of the machine.
VARYING_LINES = re.compile(r" step |accuracy|reaches|POST http|is classified as|as the evaluation did|waits for its images")
MAX_BYTES = 2.8e9  # of the CPU image, unpacked
SHARED_FOLDERS = ("/tmp", "/kfp-workspace")  # shared by the stages of a run, and removed after it
OTHER_USER = 1234
# Another user with read access to all files, since the tests and their imports may be in any folder.
AS_OTHER_USER = (
    [
        "setpriv",
        f"--reuid={OTHER_USER}",
        f"--regid={OTHER_USER}",
        "--clear-groups",
        "--inh-caps=+dac_read_search",
        "--ambient-caps=+dac_read_search",
    ]
    if os.getuid() == 0
    else []
)


@dataclass(frozen=True)
class Run:
    """A command that ended.

    Attributes:
        output: the output folder.
        code: its exit code.
        lines: its standard output.
        stderr: its standard error.
        containers: the inspection of each container observed while it ran.
    """

    output: Path
    code: int
    lines: list[str]
    stderr: str
    containers: list[dict[str, Any]]

    @property
    def result(self) -> dict[str, Any]:
        """Parses the last line of the output."""
        return json.loads(self.lines[-1])

    @property
    def stages(self) -> list[str]:
        """Lists the stages that were started, in order."""
        return [line.split("] ")[1] for line in self.lines if line.startswith("[")]

    @property
    def artifacts(self) -> Path:
        """Finds the folder of the outputs of the stages."""
        (folder,) = Path(self.result["run_dir"]).glob("*/evaluate-classifier")
        return folder.parent


def run_pipeline(
    engine,
    output: Path,
    form: dict[str, Any],
    *options: str,
    pipeline: str = "image_classification",
    caller: list[str] | None = None,
    environment: dict[str, str] | None = None,
) -> Run:
    """Runs a pipeline with the command line, and inspects its containers meanwhile."""
    fields = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", pipeline, *fields, *options, "--json", "--output", str(output)]
    variables = engine.environment | (environment or {})
    with (output.parent / "stdout").open("w+") as stdout, (output.parent / "stderr").open("w+") as stderr:
        containers = {}
        with ended(subprocess.Popen([*(caller or []), *command], env=variables, stdout=stdout, stderr=stderr)) as process:
            while process.poll() is None:
                containers |= {info["Id"]: info for info in inspect_containers(engine, output)}
                time.sleep(1)
        stdout.seek(0)
        stderr.seek(0)
        return Run(output, process.returncode, stdout.read().splitlines(), stderr.read(), list(containers.values()))


def inspect_containers(engine, output: Path) -> list[dict[str, Any]]:
    """Inspects the containers with a mount below a folder; a container may end during the inspection."""
    ids = engine.run("ps", "-q").split()
    process = subprocess.run([engine.program, "inspect", *ids], capture_output=True, text=True, check=False)
    containers = json.loads(process.stdout) if ids and process.returncode == 0 else []
    return [info for info in containers if any(mount["Destination"].startswith(str(output)) for mount in info["Mounts"])]


def stage_name(info: dict[str, Any]) -> str:
    """Returns the stage of a container: the name of the function that KFP calls."""
    called = info["Config"]["Cmd"]
    return called[called.index("--function_to_execute") + 1]


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory) -> Path:
    return sample_images.pictures(tmp_path_factory.mktemp("data") / "pictures", classes=3, each=60)


@pytest.fixture(scope="module")
def run(engine, registry, image_folder, tmp_path_factory) -> Run:
    """Runs the pipeline in containers, with the training in the GPU image."""
    output = tmp_path_factory.mktemp("containers") / "runs"
    form = FORM | {"images_uri": image_folder, "deploy_to": output.parent / "repository"}
    result = run_pipeline(engine, output, form, "--runner", "docker", "--registry", registry)
    assert result.code == 0, "\n".join([*result.lines, result.stderr])
    return result


@pytest.fixture(scope="module")
def subprocess_run(engine, image_folder, tmp_path_factory) -> Run:
    """Runs the same pipeline in subprocesses."""
    output = tmp_path_factory.mktemp("plain") / "runs"
    result = run_pipeline(engine, output, FORM | {"images_uri": image_folder, "deploy_to": output.parent / "repository"})
    assert result.code == 0, "\n".join([*result.lines, result.stderr])
    return result


def test_the_image_has_this_version_and_an_unprivileged_user(engine, image):
    prediction = engine.run(
        "run", "--rm", "--network=none", "--read-only", image, "sh", "-c", "id -u; id -g; kfp-vision --version"
    )
    user, group, version = prediction.splitlines()
    assert (user, group) == ("10001", "0") and version.startswith(f"kfp-vision {__version__} (kfp ")


def test_the_image_has_a_numeric_user(engine, image):
    (info,) = json.loads(engine.run("inspect", image))
    assert info["Config"]["User"] == "10001:0"  # numeric, since Kubernetes cannot check whether a user name is root


@pytest.mark.parametrize("name", [CPU_NAME, GPU_NAME])
def test_the_images_have_oci_labels(engine, registry, name):
    (info,) = json.loads(engine.run("inspect", f"{registry}/{name}"))
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in info["Config"]["Labels"].items()}
    assert labels["title"] == name.partition(":")[0]
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"] == os.environ["KFP_VISION_BASE"]
    assert labels["description"]


def test_the_image_passes_its_check(engine, image):
    engine.build("image-check")


def test_the_image_check_detects_packages_that_differ_from_the_lock_file(engine, image, tmp_path):
    lock = tmp_path / "lock"
    lock.write_text((ROOT / "images" / "cpu" / "requirements.lock").read_text().replace("\npillow==", "\npillow==0."))
    lock.chmod(0o644)
    mounts = ["--volume", f"{ROOT / 'images' / 'check.py'}:/check.py:ro", "--volume", f"{lock}:/lock:ro", "--user=0"]
    command = [engine.program, "run", "--rm", "--network=none", *mounts, image, "python3", "/check.py", "/lock", __version__]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "error: installed packages must be those of the lock file, and kfp-vision; got {'pillow': '" in process.stderr
    assert " instead of {'pillow': '0." in process.stderr


def test_an_image_with_another_version_is_not_built(engine, image):
    process = engine.make_target("image-cpu", VERSION="9.9.9")
    assert process.returncode
    assert "error: VERSION must be the one in kfp_vision/__init__.py; got 9.9.9." in process.stdout + process.stderr


def test_the_cpu_image_is_small_and_has_no_build_files(engine, image):
    (info,) = json.loads(engine.run("inspect", image))
    assert info["Size"] <= MAX_BYTES
    filled = ["find", "/opt", "-mindepth", "1", "-maxdepth", "1", "!", "-empty"]  # a builder's own mounts leave empty folders
    assert engine.run("run", "--rm", "--network=none", image, *filled).split() == ["/opt/venv"]


def test_every_stage_runs_in_the_image(run):
    assert run.stages == STAGES
    assert list(run.result["seconds"]) == [*STAGES, "total"]
    assert run.stderr == ""


def test_only_training_runs_in_the_gpu_image(run, registry):
    images = {stage_name(info): info["Config"]["Image"].removeprefix(f"{registry}/") for info in run.containers}
    assert images.pop("train_classifier") == GPU_NAME
    assert set(images.values()) == {CPU_NAME}
    assert any("warning: gpu_count=1 and 0 visible: training on the CPU" in line for line in run.lines)


def test_stages_run_unprivileged_read_only_and_without_network(run):
    assert run.containers
    for info in run.containers:
        assert info["Config"]["User"] == ("10001:0" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}")
        assert info["HostConfig"]["ReadonlyRootfs"] is True
        assert info["HostConfig"]["NetworkMode"] == "none"


def test_only_the_run_folder_and_tmp_are_writable(run, image_folder):
    for info in run.containers:
        writable = {mount["Destination"]: mount["RW"] for mount in info["Mounts"] if mount["Type"] == "bind"}
        assert writable[str(image_folder)] is False
        assert writable[run.result["run_dir"]] is True
        assert writable["/tmp"] is True


def test_containers_and_scratch_folders_are_removed(engine, run):
    assert not set(engine.run("ps", "-aq", "--no-trunc").split()) & {info["Id"] for info in run.containers}
    for info in run.containers:
        (scratch,) = [mount["Source"] for mount in info["Mounts"] if mount["Destination"] == "/tmp"]
        assert not Path(scratch).exists()


def test_the_run_folder_has_model_report_and_log(run):
    run_dir = Path(run.result["run_dir"])
    assert (run_dir / "model" / "serving" / "1" / "saved_model.pb").read_bytes()
    assert (run_dir / "model" / "labels.txt").read_text() == "0:bellcup\n1:globelet\n2:raybloom\n"
    assert "evaluation" in (run_dir / "report.html").read_text()
    assert "Executing task" in (run_dir / "run.log").read_text()


def test_the_deployed_model_answers_as_in_the_run(run):
    (version,) = versions(run.output.parent / "repository")
    assert version.number == run.result["endpoint"]["version"] == 1
    (test_image,) = [
        encoded
        for name, encoded, _ in read_examples(run.artifacts / "write-tfrecords" / "test_records")
        if name == run.result["answer"]["picture"]
    ]
    with run_server(run.output.parent / "repository") as url:
        (prediction,) = client.ServingClient(url).classify([test_image])
    assert (prediction.label, prediction.score) == (
        run.result["answer"]["prediction"],
        pytest.approx(run.result["answer"]["score"], abs=1e-3),
    )


def test_prints_the_same_as_a_run_in_subprocesses(run, subprocess_run):
    def stable_lines(result: Run) -> list[str]:
        stages = "\n".join(result.lines).partition(FIRST_LINE_AFTER_STAGES)[0].splitlines()
        return [line.split(" in ")[0] for line in stages if not VARYING_LINES.search(line)]

    assert stable_lines(run) == stable_lines(subprocess_run)
    assert any("step 160/160" in line for line in run.lines)
    assert run.result.keys() == subprocess_run.result.keys()


@pytest.mark.parametrize("part", SPLITS)
def test_splits_equal_those_of_a_run_in_subprocesses(run, subprocess_run, part):
    tables = []
    for folder in (run.artifacts, subprocess_run.artifacts):
        with (folder / "split-images" / "tables" / f"{part}.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert tables[0] == tables[1]
    assert len(tables[0]) == SPLITS[part]


@pytest.mark.parametrize("part", SPLITS)
def test_records_equal_those_of_a_run_in_subprocesses(run, subprocess_run, part):
    folders = [result.artifacts / "write-tfrecords" / f"{part}_records" for result in (run, subprocess_run)]
    contents = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders]
    assert contents[0].keys() == {f"{part}-00000-of-00001.tfrecord", "records.json"}
    assert contents[0] == contents[1]


def test_accuracy_is_that_of_a_run_in_subprocesses(run, subprocess_run):
    accuracies = [run.result["accuracy"], subprocess_run.result["accuracy"]]
    assert min(accuracies) > 0.6  # chance is a third; on some processors, 13 of 18
    mean = sum(accuracies) / 2
    assert abs(accuracies[0] - accuracies[1]) <= 3 * math.sqrt(2 * mean * (1 - mean) / SPLITS["test"])


def test_only_a_server_has_a_health_check(engine, image, run):
    assert all(info["Config"]["Healthcheck"]["Test"] == ["NONE"] for info in run.containers)
    model_repository = f"{run.output.parent / 'repository'}:/models:ro"
    options = ["--network=none", "--read-only", "--tmpfs=/tmp", "--user=4321:0"]
    server = engine.run(
        "run", "--detach", *options, "--volume", model_repository, image, "kfp-vision", "serve", "/models", "--port", "8080"
    ).strip()
    try:
        (info,) = json.loads(engine.run("inspect", server))
        kind, *check = info["Config"]["Healthcheck"]["Test"]
        assert kind == "CMD"

        def healthy() -> bool:
            return subprocess.run([engine.program, "exec", server, *check], capture_output=True, check=False).returncode == 0

        until(healthy, seconds=120)
    finally:
        engine.run("rm", "--force", server)
    unserved = subprocess.run([engine.program, "run", "--rm", *options, image, *check], capture_output=True, check=False)
    assert unserved.returncode == 1


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def model_repository(tmp_path_factory) -> Path:
    """Writes a model repository with known answers."""
    folder = tmp_path_factory.mktemp("models") / "colours"
    colour_model.write_version(folder / "1")
    return folder


@pytest.fixture(scope="module")
def batch(engine, image, store, model_repository, tmp_path_factory) -> Run:
    """Classifies the images of a store with a local model, in two partitions."""
    names = {f"{colour}/{number}.jpg": colour_model.picture(colour) for colour in colour_model.RGB for number in range(4)}
    bucket = store.bucket("pictures", names | {"blue/broken.jpg": b"no picture"})
    output = tmp_path_factory.mktemp("batch") / "runs"
    form = {"model_uri": model_repository, "predict_uri": f"s3://{bucket}", "partitions": 2}
    options = ("--runner", "docker", "--network", f"container:{store.container}")
    before = [contents(folder) for folder in (model_repository, store.folder)]
    result = run_pipeline(engine, output, form, *options, pipeline="batch_prediction", environment=store.environment)
    assert result.code == 0, "\n".join([*result.lines, result.stderr])
    assert [contents(folder) for folder in (model_repository, store.folder)] == before
    return result


def test_batch_prediction_classifies_the_images_of_a_store(batch):
    assert sorted(batch.stages) == sorted(BATCH_STAGES)  # KFP does not define the order of independent stages
    with Path(batch.result["predictions"]).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert {row["path"] for row in rows if row["prediction"] != row["label"]} == {"s3://pictures/blue/broken.jpg"}
    assert (batch.result["pictures"], batch.result["unreadable"]) == (13, 1)


def test_batch_prediction_reaches_only_the_store(engine, batch, store):
    (info,) = json.loads(engine.run("inspect", store.container))
    assert info["HostConfig"]["NetworkMode"] == "none"
    assert "predict_images" in map(stage_name, batch.containers)
    for stage in batch.containers:
        assert stage["HostConfig"]["NetworkMode"] == f"container:{store.container}"
        assert stage["HostConfig"]["ReadonlyRootfs"] is True
        assert stage["Config"]["User"] == ("10001:0" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}")
        environment = dict(line.split("=", 1) for line in stage["Config"]["Env"])
        assert environment.items() >= store.environment.items()


def test_batch_prediction_writes_only_its_artifacts(batch, model_repository):
    run_dir = Path(batch.result["run_dir"])
    for stage in batch.containers:
        writable = {mount["Destination"] for mount in stage["Mounts"] if mount["Type"] == "bind" and mount["RW"]}
        assert writable == {str(run_dir), *SHARED_FOLDERS}
        shared = [mount["Source"] for mount in stage["Mounts"] if mount["Destination"] in SHARED_FOLDERS]
        assert not any(Path(folder).exists() for folder in shared)
    written = [path.relative_to(run_dir) for path in run_dir.rglob("*") if path.is_file()]
    assert {path.name for path in written if len(path.parts) == 1} == {"run.log", "predictions.csv", outcome.RESULTS_FILE}
    (artifacts,) = {path.parts[0] for path in written if len(path.parts) > 1}
    stages = {name.split(" ")[0].replace("_", "-") for name in BATCH_STAGES}
    artifact_folders = [set(path.parts[1:-1]) for path in written if path.parts[0] == artifacts]
    assert artifact_folders and all(folders & stages for folders in artifact_folders)


@pytest.fixture(scope="module")
def several_run(engine, image, tmp_path_factory) -> Run:
    """Runs the pipeline in containers on a COCO file, whose images have any number of labels."""
    output = tmp_path_factory.mktemp("several") / "runs"
    coco = several_labels.write_coco(output.parent / "images", 160)
    form = SEVERAL_FORM | {"images_uri": coco, "deploy_to": output.parent / "repository"}
    result = run_pipeline(engine, output, form, "--runner", "docker")
    assert result.code == 0, "\n".join([*result.lines, result.stderr])
    return result


def test_every_stage_runs_in_the_image_where_images_have_several_labels(several_run):
    assert several_run.stages == STAGES
    assert several_run.stderr == ""
    assert {info["HostConfig"]["NetworkMode"] for info in several_run.containers} == {"none"}


def test_a_model_of_several_labels_is_learned_deployed_and_answers_in_containers(several_run):
    assert several_run.result["mean_average_precision"] >= 0.9  # scores that know nothing of the image reach about 0.5
    (version,) = versions(several_run.output.parent / "repository")
    assert version.several and version.labels == several_labels.LABELS
    answer = several_run.result["answer"]
    examples = read_examples(several_run.artifacts / "write-tfrecords" / "test_records")
    (test_image,) = [encoded for name, encoded, _ in examples if name == answer["picture"]]
    with run_server(several_run.output.parent / "repository") as url:
        (prediction,) = client.ServingClient(url).classify([test_image])
    assert prediction.labels == answer["labels"]


@pytest.fixture(scope="module")
def failed_run(engine, image, tmp_path_factory) -> Run:
    """Runs the pipeline on truncated images as an unprivileged user, with only the CPU image available."""
    root = tmp_path_factory.mktemp("failed")
    truncated = sample_images.pictures(root / "torn")
    for file in truncated.rglob("*.jpg"):
        file.write_bytes(file.read_bytes()[:600])
    output = root / "runs"
    output.mkdir()
    if AS_OTHER_USER:
        os.chown(output, OTHER_USER, OTHER_USER)
    form = FORM | {"images_uri": truncated, "gpu_count": "0"}
    return run_pipeline(engine, output, form, "--runner", "docker", caller=AS_OTHER_USER)


def test_a_failed_stage_ends_the_run_with_one_line(failed_run):
    assert failed_run.code == 1
    assert failed_run.stderr.count("\n") == 1
    assert failed_run.stderr.startswith("error: at most 5% of the images may be rejected; got 20 of 20. Fix or remove them, ")
    assert failed_run.stages == [*STAGES[: STAGES.index("write_tfrecords") + 1], "report_outcome"]


def test_outputs_belong_to_the_calling_user(failed_run):
    owner = OTHER_USER if AS_OTHER_USER else os.getuid()
    (table,) = failed_run.output.glob("*/*/split-images/tables")
    assert table.stat().st_uid == owner


def test_a_missing_container_image_is_rejected_in_one_line(engine, image_folder, tmp_path):
    options = ("--runner", "docker", "--registry", "localhost:1/nowhere")
    form = FORM | {"images_uri": image_folder, "gpu_count": "0"}
    result = run_pipeline(engine, tmp_path / "runs", form, *options)
    assert result.code == 1
    assert result.stderr == (
        "error: every container image must exist locally or in its registry; "
        f"got localhost:1/nowhere/kfp-vision:{__version__}. "
        "Build it with make image, or set --registry to the registry that holds it.\n"
    )
    assert result.stages == []
    assert not (tmp_path / "runs").exists()
