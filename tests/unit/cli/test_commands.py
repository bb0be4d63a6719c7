"""The command line: output, error messages and exit codes, with each command in its own process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
import yaml
from support import colour_model, sample_images, zip_names

from kfp_vision import PLACEHOLDER, REGISTRY, __version__, components
from kfp_vision.cli.commands import main, parse_assignments, print_results
from kfp_vision.core.errors import InputError
from kfp_vision.pipelines import PIPELINES
from kfp_vision.storage import sample, several_sample

DONE, FAILED, WRONG_USE, NO_READER = 0, 1, 2, 141
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@dataclass(frozen=True)
class Case:
    """A command that must be rejected.

    Attributes:
        arguments: as typed; {data} is the folder of `data`, {real} that of the real data.
        code: the exit code.
        line: a pattern for the whole line on stderr: rule, value, remedy.
    """

    arguments: str
    code: int
    line: str


SCRATCH = "run -p fine_tune=false -p test_ratio=0"
REFUSED = {
    "an unknown field": Case(
        "run -p train_stepz=3", WRONG_USE, "a parameter must be .*; got train_stepz. Did you mean train_steps.*"
    ),
    "a ratio of 1.5": Case("run -p validation_ratio=1.5", WRONG_USE, "validation_ratio must be .*; got 1.5. Set it to 0.2.*"),
    "no partitions": Case(
        "run image_classification_partitioned -p partitions=0",
        WRONG_USE,
        "partitions must be a whole number from 1 to 100; got 0. Set it to 4, say.",
    ),
    "partitions where there are none": Case("run -p partitions=2", WRONG_USE, "a parameter must be .*; got partitions. .*"),
    "an unknown task": Case(
        "run prepare_records -p task=segmentation",
        WRONG_USE,
        "task must be one of classification, detection; got segmentation. Choose one, say classification.",
    ),
    "a training's field where nothing is trained": Case(
        "run prepare_records -p optimizer=sgd", WRONG_USE, "a parameter must be one of advanced, .*; got optimizer. Take .*"
    ),
    "a training's advanced field where nothing is trained": Case(
        'run prepare_records -p advanced={{"momentum":0.5}}',
        WRONG_USE,
        "advanced of prepare_records must hold known names only .*; got momentum. Take .*",
    ),
    "boxes on the sample": Case(
        "run prepare_records -p task=detection -p images_uri=sample",
        WRONG_USE,
        "images_uri of detection must be a folder or an archive; got sample. Put .*",
    ),
    "nothing with boxes": Case(
        "run prepare_records -p task=detection -p images_uri={data}/one_class",
        FAILED,
        "images_uri of detection must contain images with annotations; got none at {data}/one_class .3 files skipped: .*",
    ),
    "an engine for a server": Case(
        "predict --url http://127.0.0.1:1 --engine tensorflow photo.jpg",
        WRONG_USE,
        "--engine must be for a model folder or .*; got tensorflow for http://127.0.0.1:1. Give it to kfp-vision serve.",
    ),
    "an engine for an exported file": Case(
        "predict --model classifier.onnx --engine openvino-int8 photo.jpg",
        WRONG_USE,
        "--engine must be for a model folder or .*; got openvino-int8 for classifier.onnx. Leave it out: .*",
    ),
    "a field without a value": Case(
        "run -p train_steps", WRONG_USE, "a parameter must be .* NAME=VALUE; got train_steps. Write .*"
    ),
    "words for a number": Case("run -p train_steps=many", WRONG_USE, "train_steps must be a whole number; got many. Write .*"),
    "a path to nowhere": Case(
        f"{SCRATCH} -p images_uri={{data}}/nowhere", WRONG_USE, "images_uri must name .* exists; got {data}/nowhere. Check .*"
    ),
    "a checkpoint that is nowhere": Case(
        "run -p images_uri=sample -p checkpoint_uri={data}/nowhere",
        WRONG_USE,
        "checkpoint_uri must name something that exists; got {data}/nowhere. Check .*",
    ),
    "pictures to name that are nowhere": Case(
        f"{SCRATCH} -p images_uri=sample -p predict_uri={{data}}/nowhere",
        WRONG_USE,
        "predict_uri must name something that exists; got {data}/nowhere. Check .*",
    ),
    "a repository on a web server": Case(
        f"{SCRATCH} -p images_uri=sample -p deploy_to=https://example.org/flowers",
        WRONG_USE,
        "deploy_to must be none, kserve, or a model repository; got https://example.org/flowers. Name a folder, .*",
    ),
    "a service without a place to read from": Case(
        f"{SCRATCH} -p images_uri=sample -p deploy_to=kserve",
        WRONG_USE,
        "deploy_to=kserve must have a location .*; got neither service_repository nor service_account. Set service_.*",
    ),
    "a service that no address can name": Case(
        f"{SCRATCH} -p images_uri=sample -p deploy_to=kserve -p model_name=My_flowers",
        WRONG_USE,
        "model_name must be lower-case letters, .*; got My_flowers. Choose a name such as flowers.",
    ),
    "an unknown runtime": Case(
        f'{SCRATCH} -p images_uri=sample -p advanced={{{{"service_runtime":"torch"}}}}',
        WRONG_USE,
        "service_runtime of advanced must be one of kfp-vision, tensorflow; got torch. Leave it at kfp-vision.",
    ),
    "nothing to go back to": Case(
        "rollback {data}/empty",
        FAILED,
        "there must be a version to go back to; got the one before the newest in .*, which has no version. Give .*",
    ),
    "a file for a repository": Case(
        f"{SCRATCH} -p images_uri=sample -p deploy_to={{data}}/words.tgz",
        WRONG_USE,
        "deploy_to must .*; got {data}/words.tgz.*",
    ),
    "a quote where a condition looks": Case(
        f"{SCRATCH} -p images_uri=sample -p predict_uri={{data}}/jane's",
        WRONG_USE,
        "predict_uri of a local run must not contain a quote, .*; got {data}/jane's. Rename .*",
    ),
    "nothing to serve": Case("serve {data}/empty", FAILED, "there must be a model to serve; got none in {data}/empty. Give .*"),
    "a name that no address can hold": Case(
        "serve {data}/empty --name a/b", FAILED, "--name must be letters, digits, - and _; got a/b. Choose .*"
    ),
    "a port that is none": Case("serve {data}/empty --port x", WRONG_USE, "argument --port: invalid int value: 'x'. See .*"),
    "nobody to ask": Case(
        "predict {data}/words.tgz", WRONG_USE, "one of the arguments --url --model is required. See kfp-vision predict --help."
    ),
    "no model to ask": Case("predict --model {data}/empty x.jpg", FAILED, "there must be a model to serve; got none in .*"),
    "no exported file to ask": Case(
        "predict --model {data}/none.onnx x.jpg",
        FAILED,
        "a model file must exist on this machine; got {data}/none.onnx. Give .*",
    ),
    "an exported file in a bucket": Case(
        "predict --model s3://b/none.onnx x.jpg",
        FAILED,
        "a path must be one of this machine; got s3://b/none.onnx. Download it, or name the model repository it is from.",
    ),
    "labels to save in a bucket": Case(
        "review {data} --labels s3://b/labels.csv",
        WRONG_USE,
        "argument --labels: a path must be one of this machine; got s3://b/labels.csv. Give a file or a folder. See .*",
    ),
    "labels to save over the table of the images": Case(
        "review {data}/twice.csv --labels {data}/twice.csv",
        WRONG_USE,
        "the labels must be saved in another file than the table of the images; got {data}/twice.csv. Give --labels .*",
    ),
    "runs to keep in a bucket": Case(
        "run --output s3://b/runs -p images_uri=sample",
        WRONG_USE,
        "argument --output: a path must be one of this machine; got s3://b/runs. Give a file or a folder. See .*",
    ),
    "a server that is none": Case("predict --url here x.jpg", FAILED, "a server must be given by its .*; got here. Give .*"),
    "a server that does not answer": Case(
        "predict --url http://127.0.0.1:9 x.jpg", FAILED, "a server must answer; got ConnectionError at .* Start it.*"
    ),
    "an unknown pipeline": Case(
        "run segmentation", WRONG_USE, "the pipeline must be a known one; got segmentation. Choose one of .*"
    ),
    "an unknown option": Case("run --stepz=3", WRONG_USE, "unrecognized arguments: --stepz=3. See kfp-vision --help."),
    "an unknown command": Case("learn", WRONG_USE, "argument COMMAND: invalid choice: 'learn' .* See kfp-vision --help."),
    "no command": Case("", WRONG_USE, "the following arguments are required: COMMAND. See kfp-vision --help."),
    "a file to write runs into": Case(
        f"{SCRATCH} -p images_uri=sample --output {{data}}/words.tgz",
        WRONG_USE,
        "argument --output: must be a folder, .*; got {data}/words.tgz. See kfp-vision run --help.",
    ),
    "a single class": Case(
        f"{SCRATCH} -p images_uri={{data}}/one_class",
        FAILED,
        "images_uri must contain .* two classes; got one at {data}/one_class .* Put .*",
    ),
    "no pictures": Case(
        f"{SCRATCH} -p images_uri={{data}}/empty", FAILED, "images_uri must contain images; got none at {data}/empty .* Put .*"
    ),
    "a file that is no archive": Case(
        f"{SCRATCH} -p images_uri={{data}}/words.tgz",
        FAILED,
        "a data source .* must be an archive; got {data}/words.tgz. Give .*",
    ),
}
MISFITS = {
    "a GoogLeNet for Inception v1": Case(
        "run -p images_uri=sample -p network=inception_v1 -p checkpoint_uri={real}/googlenet/bvlc_googlenet.npz",
        WRONG_USE,
        "the checkpoint must fit network=inception_v1; got {real}.* missing .* Give .*network=googlenet.*",
    ),
    "an Inception v1 for GoogLeNet": Case(
        "run -p images_uri=sample -p network=googlenet -p checkpoint_uri={real}/slim/inception_v1.ckpt",
        WRONG_USE,
        "the checkpoint must fit network=googlenet; got {real}.* missing .* Give .*network=inception_v1.*",
    ),
}


@dataclass(frozen=True)
class Result:
    """The exit code and output of a command, and the folder it ran in."""

    code: int
    stdout: str
    stderr: str
    place: Path

    def made(self) -> list[Path]:
        """Lists all paths that the command left in its folder."""
        return list(self.place.rglob("*"))


def run_command(arguments: list[str], place: Path) -> Result:
    """Runs `kfp-vision` in a folder."""
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "kfp_vision.cli", *arguments]
    process = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return Result(process.returncode, process.stdout, process.stderr, place)


def run_cases(cases: Mapping[str, Case], root: Path, **places: Path) -> dict[str, Result]:
    """Runs the commands of all cases in parallel, each in its own empty folder."""
    typed = [case.arguments.format(**places).split() for case in cases.values()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(cases, pool.map(run_command, typed, [root / str(number) for number in range(len(typed))]), strict=True))


def assert_rejected(case: Case, results: Result, **places: Path) -> None:
    """Asserts that a command failed with one line and the expected code, and left no results."""
    assert results.code == case.code, results.stdout + results.stderr
    assert re.fullmatch(f"error: {case.line.format(**places)}\n", results.stderr), results.stderr
    assert "Traceback" not in results.stdout
    if case.code == WRONG_USE:
        assert results.made() == []
    assert not [path for path in results.made() if path.name in ("model", "report.html") or path.name.endswith(".partial")]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Writes data that cannot be trained on."""
    folder = tmp_path_factory.mktemp("data")
    sample_images.pictures(folder / "one_class", classes=1, each=3)
    (folder / "empty").mkdir()
    (folder / "words.tgz").write_text("not an archive\n")
    (folder / "twice.csv").write_text("path,label\n1.jpg,\n")
    return folder


@pytest.fixture(scope="module")
def results(data, tmp_path_factory) -> dict[str, Result]:
    return run_cases(REFUSED, tmp_path_factory.mktemp("cases"), data=data)


@pytest.fixture(scope="module")
def misfit_results(real_data, tmp_path_factory) -> dict[str, Result]:
    return run_cases(MISFITS, tmp_path_factory.mktemp("misfits"), real=real_data)


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_arguments_are_rejected_in_one_line(results, data, name):
    assert_rejected(REFUSED[name], results[name], data=data)


@pytest.mark.slow
@pytest.mark.parametrize("name", MISFITS)
def test_a_checkpoint_of_another_network_is_rejected(misfit_results, real_data, name):
    assert_rejected(MISFITS[name], misfit_results[name], real=real_data)


FORM = {
    "fine_tune": "BOOLEAN",
    "train_steps": "NUMBER_INTEGER",
    "learning_rate": "NUMBER_DOUBLE",
    "images_uri": "STRING",
    "advanced": "STRUCT",
    "tolerations": "LIST",
}


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("fine_tune=False", False),
        ("train_steps=300", 300),
        ("learning_rate=1e-3", 0.001),
        ("learning_rate=1", 1.0),
        ("images_uri=http://host/a=b", "http://host/a=b"),
        ("images_uri=/photos", "/photos"),
        ('advanced={"momentum": 0.5}', {"momentum": 0.5}),
        ('tolerations=[{"key": "gpu"}]', [{"key": "gpu"}]),
    ],
)
def test_parses_a_value_by_the_type_of_its_field(typed, value):
    (read,) = parse_assignments([typed], FORM).values()
    assert read == value
    assert type(read) is type(value)


def test_makes_a_local_path_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_assignments(["images_uri=photos"], FORM) == {"images_uri": str(tmp_path / "photos")}
    assert parse_assignments(["images_uri=sample"], FORM) == {"images_uri": "sample"}


@pytest.mark.parametrize(
    ("typed", "rule"),
    [
        ("train_steps=2.5", "train_steps must be a whole number; got 2.5. "),
        ("train_steps=true", "train_steps must be a whole number; got true. "),
        ("fine_tune=yes", "fine_tune must be true or false; got yes. "),
        ("fine_tune=1", "fine_tune must be true or false; got 1. "),
        ("advanced=[1]", "advanced must be a dictionary in JSON; got [1]. "),
        ("tolerations={}", "tolerations must be a list in JSON; got {}. "),
        ("learning_rate=", 'learning_rate must be a number; got "". '),
    ],
)
def test_a_value_of_another_type_is_rejected(typed, rule):
    with pytest.raises(InputError) as refused:
        parse_assignments([typed], FORM)
    assert str(refused.value).startswith(f"error: {rule}Write it as -p {typed.partition('=')[0]}=")


def test_a_failed_run_keeps_its_log(results):
    (log,) = results["a single class"].place.glob("runs/*/run.log")
    assert "error: images_uri must contain at least two classes" in log.read_text()
    assert "[3/14] ingest_images\n      failed in " in results["a single class"].stdout


@pytest.mark.slow
def test_only_debug_shows_the_traceback_of_a_failure(data, tmp_path):
    results = run_command([*SCRATCH.split(), "-p", f"images_uri={data}/empty", "--debug"], tmp_path)
    assert results.code == FAILED
    assert "Traceback" in results.stderr
    assert results.stderr.splitlines()[-1].startswith("error: images_uri must contain images; got none at ")
    assert "KFP Executor" in results.stdout


def test_sample_writes_images_of_several_labels_with_a_table_of_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(several_sample, "IMAGES", 2)
    main(["sample", str(tmp_path / "new"), "--labels", "several"])
    assert capsys.readouterr().out == f"2 images in 5 classes in {tmp_path / 'new'}\n"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["0001.jpg", "0002.jpg", "labels.csv"]


@pytest.mark.slow
def test_sample_writes_six_hundred_images(tmp_path):
    results = run_command(["sample", "new/flowers"], tmp_path)
    assert (results.code, results.stderr) == (DONE, "")
    assert results.stdout == "600 images in 5 classes in new/flowers\n"
    files = sorted(path.relative_to(tmp_path / "new" / "flowers") for path in tmp_path.glob("new/flowers/*/*"))
    assert [file.as_posix() for file in files] == sample.image_names()
    assert (tmp_path / "new" / "flowers" / "bellcup" / "0001.jpg").read_bytes() == sample.draw("bellcup/0001.jpg")


def test_sample_rejects_a_folder_that_is_not_empty(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear Ada")
    results = run_command(["sample", "mine"], tmp_path)
    assert (results.code, results.stdout) == (WRONG_USE, "")
    assert results.stderr == "error: the folder must be new or empty; got mine. Choose another one.\n"
    assert sorted(path.name for path in results.made()) == ["letter.txt", "mine"]


@pytest.mark.slow
def test_compile_writes_the_pipelines_for_a_registry(tmp_path):
    results = run_command(["compile", "--output", "mine", "--registry", "registry.example.org/team"], tmp_path)
    pipelines = [f"pipelines/{name}.yaml" for name in PIPELINES]
    files = [
        *pipelines,
        *(f"components/{name}.yaml" for name in components.__all__),
        *(f"manifests/{name}" for name in pipelines),
    ]
    assert (results.code, results.stdout) == (DONE, "".join(f"mine/{file}\n" for file in files))
    assert results.stderr == "note: the pipelines to upload are in mine/pipelines\n"
    spec, _ = yaml.safe_load_all((tmp_path / "mine" / "pipelines" / "image_classification.yaml").read_text())
    images = {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}
    ours = "registry.example.org/team/kfp-vision"
    assert images == {f"{ours}:{__version__}", f"{ours}-gpu:{__version__}"}


@pytest.mark.slow
def test_compile_checks_the_pipelines_of_a_queue(tmp_path):
    queue = ["--output", "mine", "--queue", "gpus", "--priority", "low"]
    assert run_command(["compile", *queue], tmp_path).code == DONE
    text = (tmp_path / "mine" / "pipelines" / "hyperparameter_sweep.yaml").read_text()
    assert "kueue.x-k8s.io/queue-name: gpus\n" in text and "kueue.x-k8s.io/priority-class: low\n" in text
    assert run_command(["compile", "--check", *queue], tmp_path).code == DONE
    assert run_command(["compile", "--check", *queue[:-2]], tmp_path).code == FAILED


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--priority", "low"], "error: --priority must be given with --queue; got low. Give the queue as well.\n"),
        (
            ["--queue", "My_Queue"],
            "error: argument --queue: must be the name of an object: lower-case letters, digits, - and ., 63",
        ),
        (
            ["--queue", "q" * 64],
            "error: argument --queue: must be the name of an object: lower-case letters, digits, - and ., 63",
        ),
    ],
)
def test_compile_rejects_what_kueue_would_not_take(tmp_path, options, line):
    results = run_command(["compile", "--output", "mine", *options], tmp_path)
    assert results.code == WRONG_USE and results.stderr.startswith(line)
    assert results.made() == []


@pytest.mark.slow
def test_predict_says_once_how_the_names_in_each_archive_are_read(tmp_path, capsys):
    colour_model.write_version(tmp_path / "colours" / "1")
    archives = {"sjis": {"花畑の写真/薔薇の写真.png".encode("shift-jis"): "red"}, "ascii": {b"blue.png": "blue"}}
    for name, files in archives.items():
        content = {path: colour_model.picture(colour) for path, colour in files.items()}
        archives[name] = str(zip_names.write_zip(tmp_path / f"{name}.zip", content))
    images = [archives["sjis"], archives["ascii"], archives["sjis"]]
    assert main(["predict", "--model", str(tmp_path / "colours"), "--json", *images]) == DONE
    printed = capsys.readouterr()
    assert [json.loads(line)["prediction"] for line in printed.out.splitlines()] == ["red", "blue", "red"]
    notes = [line for line in printed.err.splitlines() if line.startswith("The names in ")]
    (note,) = notes
    assert note.startswith(f"The names in {archives['sjis']} are not UTF-8, and are read as Shift JIS (")


def test_review_says_how_the_names_in_an_archive_are_read(tmp_path, capsys):
    files = {"花朵/玫瑰.png".encode("gbk"): colour_model.picture("red")}
    images = zip_names.write_zip(tmp_path / "gbk.zip", files)
    # It ends before the page is served, which no signal would end.
    assert main(["review", f"{images} ", "--labels", str(tmp_path / "labels.txt")]) == FAILED
    note, error = capsys.readouterr().err.splitlines()
    assert note.startswith(f"The names in {images} are not UTF-8, and are read as GBK (")
    assert "the labels must be saved in a file that ends in .csv" in error


@pytest.mark.slow
def test_compile_warns_of_images_that_no_cluster_can_pull(tmp_path):
    results = run_command(["compile", "--output", "mine"], tmp_path)
    assert results.code == DONE
    lines = results.stderr.splitlines()
    assert lines[0] == "note: the pipelines to upload are in mine/pipelines"
    warned = [
        line for line in lines if line.startswith(f"warning: they name container images in {PLACEHOLDER}, a placeholder.")
    ]
    assert len(warned) == (REGISTRY == PLACEHOLDER) and len(lines) == 1 + len(warned)


@pytest.mark.slow
def test_compile_check_reports_outdated_yaml_in_another_folder(tmp_path):
    results = run_command(["compile", "--check", "--output", "mine"], tmp_path)
    assert results.code == FAILED
    assert results.stderr.startswith(
        "error: every YAML must match the code; got outdated mine/pipelines/image_classification.yaml, "
    )
    assert results.made() == []


@pytest.mark.parametrize(
    "arguments",
    [["fields"], ["fields", "--json"], ["--help"], ["run", "-p", "images_uri=nowhere"]],
    ids=["at the end", "in between", "help", "flushed"],
)
def test_ends_quietly_once_nobody_reads_its_output(tmp_path, arguments):
    assert run_unread(arguments, tmp_path) == (NO_READER, "")


def test_ends_quietly_once_nobody_reads_its_errors(tmp_path):
    assert run_unread(["run", "nothing"], tmp_path, stderr=subprocess.STDOUT) == (NO_READER, None)


@pytest.mark.parametrize("arguments", [["compile", "--output", "/proc/none"], ["compile", "--output", "{}/file/below"]])
def test_a_path_that_cannot_be_written_is_named_with_a_remedy(tmp_path, capsys, arguments):
    (tmp_path / "file").write_text("")
    assert main([argument.format(tmp_path) for argument in arguments]) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: a path must be one that this user can read, and write where files are made; got /")
    assert line.endswith("). Check its permissions, or name another.\n") and line.count("\n") == 1 and "Errno" not in line


def test_a_full_disk_behind_the_output_is_named(tmp_path):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "kfp_vision.cli", "fields"]
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (FAILED, "error: [Errno 28] No space left on device\n")


def test_a_broken_connection_is_still_a_failure(capsys, monkeypatch):
    monkeypatch.setattr("kfp_vision.cli.models.manage", lambda _: raise_error(BrokenPipeError(32, "Broken pipe")))
    assert main(["models", "somewhere"]) == FAILED
    assert capsys.readouterr().err == "error: [Errno 32] Broken pipe\n"


def raise_error(error: Exception) -> NoReturn:
    raise error


def run_unread(arguments: list[str], place: Path, stderr: int = subprocess.PIPE) -> tuple[int, str | None]:
    """Runs `kfp-vision` with a buffered output that has no reader; returns its exit code and its errors."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "kfp_vision.cli", *arguments]
    done = subprocess.run(command, cwd=place, stdout=writing, stderr=stderr, env=BUFFERED, text=True, check=False)
    os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("images", "lines"),
    [
        (1, ["drift     no verdict, of 1 answer of flowers; 50 are needed"]),
        (
            50,
            [
                "drift     no, of 50 answers of flowers",
                "p value   0.5000 of all images, 0.2500 of few, 1.0000 of the classes",
            ],
        ),
    ],
)
def test_says_that_too_few_answers_give_no_verdict_on_drift(capsys, images, lines):
    found = {"drifted": False, "images": images, "model": "flowers", "embeddings_p": 0.5, "novel_p": 0.25, "shares_p": 1}
    print_results(found | {"skipped": [], "seconds": {"total": 1}})
    assert capsys.readouterr().out.splitlines() == ["", *lines, "done in 1 s"]


def test_prints_its_version(tmp_path):
    results = run_command(["--version"], tmp_path)
    assert (results.code, results.stdout.split("(")[0], results.stderr) == (DONE, f"kfp-vision {__version__} ", "")


def test_help_lists_the_commands(tmp_path):
    results = run_command(["--help"], tmp_path)
    assert (results.code, results.stderr) == (DONE, "")
    commands = ["run", "train", "serve", "predict", "search", "review"]
    commands += ["rollback", "models", "sample", "compile", "fields", "doctor"]
    assert re.findall(r"^    (\w+) ", results.stdout, re.MULTILINE) == commands


def test_help_of_a_command_lists_its_options(tmp_path):
    results = run_command(["run", "--help"], tmp_path)
    assert results.code == DONE
    for option in ("--parameter", "--output", "--json", "--debug"):
        assert option in results.stdout
