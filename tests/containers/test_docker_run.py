"""Pipelines in the stages' own images: as nobody special, on a read-only root, with no network but a store they are to read."""

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
from support import colour_model, sample_images
from support.model_servers import ended, until

from kfp_vision import __version__
from kfp_vision.components.images import CPU_IMAGE, GPU_IMAGE
from kfp_vision.prediction import client
from kfp_vision.records.folder import read_examples
from kfp_vision.reports import outcome
from kfp_vision.repository.version import versions
from kfp_vision.serving.server import run_server

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
CLOSING = "\naccuracy "  # begins what is said after the stages
SPLITS = {"train": 108, "validation": 36, "test": 36}
# Learns three of the sample's flowers in a minute on two cores.
FORM = {
    "fine_tune": "false",
    "image_size": "64",
    "validation_ratio": "0.2",
    "test_ratio": "0.2",
    "train_steps": "160",
    "optimizer": "adam",
    "learning_rate": "0.002",
    "learning_rate_schedule": "cosine",
    "gpu_count": "1",  # so that the image for GPUs trains; without a GPU, and with a warning
    "advanced": '{"depth_multiplier": 0.25, "opt_epsilon": 1e-7, "warmup_steps": 10}',
}
# From one training to the next, and with what else the machine does.
VARIES = re.compile(r" step |accuracy|reaches|POST http|is classified as|as the evaluation did|waits for its images")
MOST_BYTES = 2.3e9  # of the small image, unpacked
PASSING = ("/tmp", "/kfp-workspace")  # what the stages of a run share, and what is gone with it
STRANGER = 1234
# Another user, who may read whatever this one may: the tests and what they import can lie anywhere.
AS_STRANGER = (
    [
        "setpriv",
        f"--reuid={STRANGER}",
        f"--regid={STRANGER}",
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
        output: the folder it was to write to.
        code: its exit code.
        lines: what it printed to stdout.
        stderr: and to stderr.
        containers: what the engine said of each container that was seen while it ran.
    """

    output: Path
    code: int
    lines: list[str]
    stderr: str
    containers: list[dict[str, Any]]

    @property
    def result(self) -> dict[str, Any]:
        """The last line, parsed."""
        return json.loads(self.lines[-1])

    @property
    def stages(self) -> list[str]:
        """The stages that were started, in order."""
        return [line.split("] ")[1] for line in self.lines if line.startswith("[")]

    @property
    def artifacts(self) -> Path:
        """Where the stages' outputs lie."""
        (folder,) = Path(self.result["run_dir"]).glob("*/evaluate-classifier")
        return folder.parent


def carry_out(
    engine,
    output: Path,
    form: dict[str, Any],
    *options: str,
    pipeline: str = "image_classification",
    caller: list[str] | None = None,
    environment: dict[str, str] | None = None,
) -> Run:
    """Runs a pipeline through the command line, and watches the containers meanwhile."""
    fields = [part for name, value in form.items() for part in ("-p", f"{name}={value}")]
    command = [sys.executable, "-m", "kfp_vision.cli", "run", pipeline, *fields, *options, "--json", "--output", str(output)]
    whole = engine.environment | (environment or {})
    with (output.parent / "stdout").open("w+") as stdout, (output.parent / "stderr").open("w+") as stderr:
        containers = {}
        with ended(subprocess.Popen([*(caller or []), *command], env=whole, stdout=stdout, stderr=stderr)) as process:
            while process.poll() is None:
                containers |= {about["Id"]: about for about in running(engine, output)}
                time.sleep(1)
        stdout.seek(0)
        stderr.seek(0)
        return Run(output, process.returncode, stdout.read().splitlines(), stderr.read(), list(containers.values()))


def running(engine, output: Path) -> list[dict[str, Any]]:
    """What the engine says of the containers that write below a folder; one may end while it is asked."""
    ids = engine.tell("ps", "-q").split()
    done = subprocess.run([engine.program, "inspect", *ids], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout) if ids and done.returncode == 0 else []
    return [about for about in found if any(mount["Destination"].startswith(str(output)) for mount in about["Mounts"])]


def stage_of(about: dict[str, Any]) -> str:
    """The stage that a container runs: the name of the function that KFP is told to call."""
    called = about["Config"]["Cmd"]
    return called[called.index("--function_to_execute") + 1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return sample_images.pictures(tmp_path_factory.mktemp("data") / "pictures", classes=3, each=60)


@pytest.fixture(scope="module")
def run(engine, registry, pictures, tmp_path_factory) -> Run:
    """The pipeline in containers, its training in the image for GPUs."""
    output = tmp_path_factory.mktemp("containers") / "runs"
    form = FORM | {"images_uri": pictures, "deploy_to": output.parent / "repository"}
    done = carry_out(engine, output, form, "--runner", "docker", "--registry", registry)
    assert done.code == 0, "\n".join([*done.lines, done.stderr])
    return done


@pytest.fixture(scope="module")
def plain(engine, pictures, tmp_path_factory) -> Run:
    """The same as plain processes."""
    output = tmp_path_factory.mktemp("plain") / "runs"
    done = carry_out(engine, output, FORM | {"images_uri": pictures, "deploy_to": output.parent / "repository"})
    assert done.code == 0, "\n".join([*done.lines, done.stderr])
    return done


def test_the_image_holds_this_version_and_is_nobody_special(engine, image):
    said = engine.tell("run", "--rm", "--network=none", "--read-only", image, "sh", "-c", "id -u; id -g; kfp-vision --version")
    assert said.splitlines() == ["10001", "0", f"kfp-vision {__version__}"]


def test_the_image_is_started_as_the_same_by_a_cluster(engine, image):
    (about,) = json.loads(engine.tell("inspect", image))
    assert about["Config"]["User"] == "10001:0"  # a number: Kubernetes cannot tell of a name whether it is root


@pytest.mark.parametrize("name", [CPU_IMAGE, GPU_IMAGE])
def test_the_labels_say_what_an_image_is(engine, registry, name):
    (about,) = json.loads(engine.tell("inspect", f"{registry}/{name}"))
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in about["Config"]["Labels"].items()}
    assert labels["title"] == name.partition(":")[0]
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"] == os.environ["KFP_VISION_BASE"]
    assert labels["description"]


def test_the_image_is_whole_from_the_inside(engine, image):
    engine.build("image-check")


def test_the_look_from_the_inside_sees_what_is_not_as_locked(engine, image, tmp_path):
    lock = tmp_path / "lock"
    lock.write_text((ROOT / "images" / "cpu" / "requirements.lock").read_text().replace("\npillow==", "\npillow==0."))
    lock.chmod(0o644)
    mounts = ["--volume", f"{ROOT / 'images' / 'check.py'}:/check.py:ro", "--volume", f"{lock}:/lock:ro", "--user=0"]
    command = [engine.program, "run", "--rm", "--network=none", *mounts, image, "python3", "/check.py", "/lock", __version__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "error: installed packages must be those of the lock file, and kfp-vision; got {'pillow': '" in done.stderr
    assert " instead of {'pillow': '0." in done.stderr


def test_an_image_of_another_version_than_the_librarys_is_not_built(engine, image):
    done = engine.make("image-cpu", VERSION="9.9.9")
    assert done.returncode
    assert "error: VERSION must be the one in kfp_vision/__init__.py; got 9.9.9." in done.stdout + done.stderr


def test_the_small_image_is_small_and_holds_nothing_of_its_building(engine, image):
    (about,) = json.loads(engine.tell("inspect", image))
    assert about["Size"] <= MOST_BYTES
    assert engine.tell("run", "--rm", "--network=none", image, "ls", "/opt").split() == ["venv"]


def test_every_stage_runs_in_the_image(run):
    assert run.stages == STAGES
    assert list(run.result["seconds"]) == [*STAGES, "total"]
    assert run.stderr == ""


def test_training_runs_in_the_image_for_gpus_and_all_else_in_the_small_one(run, registry):
    images = {stage_of(about): about["Config"]["Image"].removeprefix(f"{registry}/") for about in run.containers}
    assert images.pop("train_classifier") == GPU_IMAGE
    assert set(images.values()) == {CPU_IMAGE}
    assert any("warning: gpu_count=1 and 0 visible: training on the CPU" in line for line in run.lines)


def test_the_stages_are_not_root_cannot_write_to_the_image_and_have_no_network(run):
    assert run.containers
    for about in run.containers:
        assert about["Config"]["User"] == ("10001:0" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}")
        assert about["HostConfig"]["ReadonlyRootfs"] is True
        assert about["HostConfig"]["NetworkMode"] == "none"


def test_the_stages_see_the_pictures_read_only_and_write_to_the_runs_folder(run, pictures):
    for about in run.containers:
        writable = {mount["Destination"]: mount["RW"] for mount in about["Mounts"] if mount["Type"] == "bind"}
        assert writable[str(pictures)] is False
        assert writable[run.result["run_dir"]] is True
        assert writable["/tmp"] is True


def test_no_container_and_no_scratch_folder_stays_behind(engine, run):
    assert not set(engine.tell("ps", "-aq", "--no-trunc").split()) & {about["Id"] for about in run.containers}
    for about in run.containers:
        (scratch,) = [mount["Source"] for mount in about["Mounts"] if mount["Destination"] == "/tmp"]
        assert not Path(scratch).exists()


def test_what_came_out_lies_where_it_always_does(run):
    run_dir = Path(run.result["run_dir"])
    assert (run_dir / "model" / "serving" / "1" / "saved_model.pb").read_bytes()
    assert (run_dir / "model" / "labels.txt").read_text() == "0:bellcup\n1:globelet\n2:raybloom\n"
    assert "evaluation" in (run_dir / "report.html").read_text()
    assert "Executing task" in (run_dir / "run.log").read_text()


def test_what_is_deployed_answers_as_it_did_in_the_containers(run):
    (version,) = versions(run.output.parent / "repository")
    assert version.number == run.result["endpoint"]["version"] == 1
    (asked_about,) = [
        encoded
        for name, encoded, _ in read_examples(run.artifacts / "write-tfrecords" / "test_records")
        if name == run.result["answer"]["picture"]
    ]
    with run_server(run.output.parent / "repository") as url:
        (said,) = client.ServingClient(url).classify([asked_about])
    assert (said.label, said.score) == (
        run.result["answer"]["prediction"],
        pytest.approx(run.result["answer"]["score"], abs=1e-3),
    )


def test_prints_what_plain_processes_print(run, plain):
    def told(of: Run) -> list[str]:
        stages = "\n".join(of.lines).partition(CLOSING)[0].splitlines()
        return [line.split(" in ")[0] for line in stages if not VARIES.search(line)]

    assert told(run) == told(plain)
    assert any("step 160/160" in line for line in run.lines)
    assert run.result.keys() == plain.result.keys()


@pytest.mark.parametrize("part", SPLITS)
def test_splits_as_plain_processes_do(run, plain, part):
    tables = []
    for folder in (run.artifacts, plain.artifacts):
        with (folder / "split-images" / "tables" / f"{part}.csv").open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    assert tables[0] == tables[1]
    assert len(tables[0]) == SPLITS[part]


@pytest.mark.parametrize("part", SPLITS)
def test_writes_the_records_of_plain_processes_byte_for_byte(run, plain, part):
    folders = [of.artifacts / "write-tfrecords" / f"{part}_records" for of in (run, plain)]
    contents = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders]
    assert contents[0].keys() == {f"{part}-00000-of-00001.tfrecord", "records.json"}
    assert contents[0] == contents[1]


def test_learns_as_well_as_in_plain_processes(run, plain):
    accuracies = [run.result["accuracy"], plain.result["accuracy"]]
    assert min(accuracies) > 0.75  # chance is a third
    mean = sum(accuracies) / 2
    assert abs(accuracies[0] - accuracies[1]) <= 3 * math.sqrt(2 * mean * (1 - mean) / SPLITS["test"])


def test_the_health_check_is_of_a_server_and_stages_are_not_asked(engine, image, run):
    assert all(about["Config"]["Healthcheck"]["Test"] == ["NONE"] for about in run.containers)
    models = f"{run.output.parent / 'repository'}:/models:ro"
    sealed = ["--network=none", "--read-only", "--tmpfs=/tmp", "--user=4321:0"]
    server = engine.tell("run", "--detach", *sealed, "--volume", models, image, "kfp-vision", "serve", "/models").strip()
    try:
        (about,) = json.loads(engine.tell("inspect", server))
        kind, *check = about["Config"]["Healthcheck"]["Test"]
        assert kind == "CMD"

        def healthy() -> bool:
            return subprocess.run([engine.program, "exec", server, *check], capture_output=True, check=False).returncode == 0

        until(healthy, seconds=120)
    finally:
        engine.tell("rm", "--force", server)
    unserved = subprocess.run([engine.program, "run", "--rm", *sealed, image, *check], capture_output=True, check=False)
    assert unserved.returncode == 1


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A model repository whose right answers are known."""
    folder = tmp_path_factory.mktemp("models") / "colours"
    colour_model.write_version(folder / "1")
    return folder


@pytest.fixture(scope="module")
def batch(engine, image, store, models, tmp_path_factory) -> Run:
    """Pictures in a store named by a model of this machine, two machines' worth."""
    names = {f"{colour}/{number}.jpg": colour_model.picture(colour) for colour in colour_model.RGB for number in range(4)}
    bucket = store.bucket("pictures", names | {"blue/broken.jpg": b"no picture"})
    output = tmp_path_factory.mktemp("batch") / "runs"
    form = {"model_uri": models, "predict_uri": f"s3://{bucket}", "partitions": 2}
    options = ("--runner", "docker", "--network", f"container:{store.container}")
    before = [contents(folder) for folder in (models, store.folder)]
    done = carry_out(engine, output, form, *options, pipeline="batch_prediction", environment=store.environment)
    assert done.code == 0, "\n".join([*done.lines, done.stderr])
    assert [contents(folder) for folder in (models, store.folder)] == before
    return done


def test_batch_prediction_names_the_pictures_of_a_store(batch):
    assert sorted(batch.stages) == sorted(BATCH_STAGES)  # which of two that wait for the same is first, KFP leaves open
    with Path(batch.result["predictions"]).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert {row["path"] for row in rows if row["prediction"] != row["label"]} == {"s3://pictures/blue/broken.jpg"}
    assert (batch.result["pictures"], batch.result["unreadable"]) == (13, 1)


def test_batch_prediction_has_no_network_but_the_store(engine, batch, store):
    (about,) = json.loads(engine.tell("inspect", store.container))
    assert about["HostConfig"]["NetworkMode"] == "none"
    assert "predict_images" in map(stage_of, batch.containers)
    for stage in batch.containers:
        assert stage["HostConfig"]["NetworkMode"] == f"container:{store.container}"
        assert stage["HostConfig"]["ReadonlyRootfs"] is True
        assert stage["Config"]["User"] == ("10001:0" if os.getuid() == 0 else f"{os.getuid()}:{os.getgid()}")
        environment = dict(line.split("=", 1) for line in stage["Config"]["Env"])
        assert environment.items() >= store.environment.items()


def test_batch_prediction_writes_nothing_but_its_artifacts(batch, models):
    run_dir = Path(batch.result["run_dir"])
    for stage in batch.containers:
        writable = {mount["Destination"] for mount in stage["Mounts"] if mount["Type"] == "bind" and mount["RW"]}
        assert writable == {str(run_dir), *PASSING}
        passing = [mount["Source"] for mount in stage["Mounts"] if mount["Destination"] in PASSING]
        assert not any(Path(folder).exists() for folder in passing)
    written = [path.relative_to(run_dir) for path in run_dir.rglob("*") if path.is_file()]
    assert {path.name for path in written if len(path.parts) == 1} == {"run.log", "predictions.csv", outcome.RESULTS_FILE}
    (artifacts,) = {path.parts[0] for path in written if len(path.parts) > 1}
    stages = {name.split(" ")[0].replace("_", "-") for name in BATCH_STAGES}
    below = [set(path.parts[1:-1]) for path in written if path.parts[0] == artifacts]
    assert below and all(folders & stages for folders in below)


@pytest.fixture(scope="module")
def failed(engine, image, tmp_path_factory) -> Run:
    """Pictures that are torn, called by somebody who is not root; the small image is all that there is."""
    root = tmp_path_factory.mktemp("failed")
    torn = sample_images.pictures(root / "torn")
    for picture in torn.rglob("*.jpg"):
        picture.write_bytes(picture.read_bytes()[:600])
    output = root / "runs"
    output.mkdir()
    if AS_STRANGER:
        os.chown(output, STRANGER, STRANGER)
    form = FORM | {"images_uri": torn, "gpu_count": "0"}
    return carry_out(engine, output, form, "--runner", "docker", caller=AS_STRANGER)


def test_a_stage_that_fails_ends_the_run_with_its_one_line(failed):
    assert failed.code == 1
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("error: at most 5% of the images may be rejected; got 20 of 20. Fix or remove them, ")
    assert failed.stages == [*STAGES[: STAGES.index("write_tfrecords") + 1], "report_outcome"]


def test_what_the_stages_write_belongs_to_who_called(failed):
    owner = STRANGER if AS_STRANGER else os.getuid()
    (table,) = failed.output.glob("*/*/split-images/tables")
    assert table.stat().st_uid == owner


def test_a_missing_image_is_one_line(engine, pictures, tmp_path):
    options = ("--runner", "docker", "--registry", "localhost:1/nowhere")
    form = FORM | {"images_uri": pictures, "gpu_count": "0"}
    done = carry_out(engine, tmp_path / "runs", form, *options)
    assert done.code == 1
    assert done.stderr == (
        "error: every container image must exist locally or in its registry; "
        f"got localhost:1/nowhere/kfp-vision:{__version__}. "
        "Build it with make image, or set --registry to the registry that holds it.\n"
    )
    assert done.stages == []
    assert not (tmp_path / "runs").exists()
