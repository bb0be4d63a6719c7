"""The command `kfp-vision`: runs, trains, serves, predicts, searches, compiles and examines on this machine.

Exit codes: 0 success, 1 failure, 2 invalid command, 141 nobody reads the output any more. An error is one line on stderr;
--debug adds a traceback.
"""

import argparse
import json
import os
import select
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from kfp_vision import PLACEHOLDER, REGISTRY, __version__
from kfp_vision.cli import completion, program
from kfp_vision.core import json_text
from kfp_vision.core.advanced import MAX_LABEL_VALUE, OBJECT_NAME, SERVING_ENGINES
from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.core.values import MAX_NEAREST, MIN_DRIFT_ANSWERS, ONE, SEVERAL, suggest_name
from kfp_vision.networks import IMAGENET
from kfp_vision.preflight import rules
from kfp_vision.reports.formatting import plural
from kfp_vision.storage import base, retry, uris

DONE, FAILED, USAGE_ERROR = 0, 1, 2
INTERRUPTED = 130
NO_READER = 141  # 128 + SIGPIPE, as the shell has it of other commands
LABEL_PORT = 8001
SERVE_PORT = 8000  # not 8080, to which Kubeflow's page is usually forwarded
PLACEHOLDER_REMEDY = (
    "No cluster can pull them: build and push your own (make image, make push), and compile with --registry HOST/PATH."
)
SPECIAL_VALUES = {"deploy_to": ("none", "kserve"), "checkpoint_uri": (IMAGENET,)}


class UsageError(Exception):
    """The command is not valid as typed."""


class OneLineErrorParser(argparse.ArgumentParser):
    """A parser whose errors are one line, like all others here, and whose help may have an ending that is made when shown.

    Attributes:
        ending: returns the last lines of the help.
    """

    ending: Callable[[], str] | None = None

    def format_help(self) -> str:
        """Returns the help."""
        return super().format_help() + (f"\n{self.ending()}\n" if self.ending else "")

    def error(self, message: str) -> NoReturn:
        """Exits with the message as one line.

        Args:
            message: the fault, from argparse.
        """
        command = program.typed_name() + self.prog.removeprefix(program.NAME)
        self.exit(USAGE_ERROR, f"error: {message}. See {command} --help.\n")


class VersionsAction(argparse.Action):
    """Prints the versions of this package and of those that it runs on; they are looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any):
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help="show the versions and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        """Prints the versions and exits.

        Args:
            parser: the parser.
        """
        from kfp_vision.cli import doctor

        print(f"kfp-vision {__version__} {doctor.versions_in_words()}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
        arguments: the arguments after the program's name; defaults to the process's own.

    Returns:
        The exit code.

    Example:
        ```python
        main(["run", "image_classification", "-p", "images_uri=sample"])
        ```
    """
    parser = build_parser()
    completion.complete(parser)
    try:
        try:
            return _run(parser.parse_args(arguments))
        finally:
            if sys.stdout:
                sys.stdout.flush()  # at the exit, Python could only print that it failed
    except OSError as error:
        _drop_unwritable_output()
        return NO_READER if isinstance(error, BrokenPipeError) else _fail(error, FAILED, debug=False)


def _run(options: argparse.Namespace) -> int:
    try:
        with retry.interactive():
            return options.command(options) or DONE
    except UsageError as error:
        return _fail(error, USAGE_ERROR, options.debug)
    except (InputError, OSError) as error:
        if isinstance(error, BrokenPipeError) and not _is_read(sys.stdout):
            raise
        return _fail(_named_path(error), FAILED, options.debug)
    except ModuleNotFoundError as error:
        rule = "the packages that the stages run on must be installed"
        return _fail(InputError(rule, str(error), "Install kfp-vision[cpu], or kfp-vision[gpu]."), FAILED, options.debug)
    except KeyboardInterrupt:
        return _fail(KeyboardInterrupt("error: interrupted"), INTERRUPTED, options.debug)


def _named_path(error: InputError | OSError) -> InputError | OSError:
    """Returns the error of a path in the form of all others; any other error as it is."""
    name = error.filename2 or error.filename if isinstance(error, OSError) else None
    if not isinstance(error, OSError) or not isinstance(name, str):
        return error
    rule, remedy = (
        "a path must be one that this user can read, and write where files are made",
        "Check its permissions, or name another.",
    )
    return InputError(rule, f"{name} ({error.strerror})", remedy).with_traceback(error.__traceback__)


def _is_read(stream: TextIO) -> bool:
    """Returns whether a stream has a reader, as anything but a pipe or a socket always has."""
    watch = select.poll()
    try:
        watch.register(stream, 0)  # errors are always told
    except (OSError, TypeError, ValueError):  # a stream without a file
        return True
    return not watch.poll(0)


def _drop_unwritable_output() -> None:
    """Drops what cannot be written, for Python tries once more at its exit."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of the command line."""
    top = OneLineErrorParser(prog=program.NAME, description="Image classification on Kubeflow Pipelines, without code.")
    top.add_argument("--version", action=VersionsAction)
    shared = OneLineErrorParser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show everything the stages print, and tracebacks")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str) -> OneLineErrorParser:
        command: OneLineErrorParser = commands.add_parser(name, parents=[shared], help=text)
        return command

    _define_run(add("run", "run a pipeline on this machine, without a cluster"))
    _define_train(add("train", "train on records, alone or as one of the workers in TF_CONFIG"))
    _define_serve(add("serve", "serve a model over HTTP, with a web page to drop images on"))
    _define_predict(add("predict", "classify images"))
    _define_search(add("search", "find the most similar images of an index"))
    _define_review(add("review", "label images on a page, one at a time"))
    _define_rollback(add("rollback", "publish an earlier version of a repository again, as the newest"))
    _define_models(add("models", "list the versions of a repository, show their cards, tag and import them"))
    _define_sample(add("sample", "write the built-in sample images into a folder"))
    _define_compile(add("compile", "compile every pipeline and stage to YAML, or check the YAML"))
    _define_fields(add("fields", "print the run form of a pipeline: each field, its default, and what it is"))
    _define_doctor(add("doctor", "look at what is here, and say what will work"))
    return top


def _define_run(command: OneLineErrorParser) -> None:
    command.ending = _list_pipelines
    _add_pipeline(command)
    _add_parameter(command)
    command.add_argument("--output", type=_folder, default=Path("runs"), metavar="DIR", help="folder of all runs (%(default)s)")
    command.add_argument("--runner", choices=("subprocess", "docker"), default="subprocess", help="default: %(default)s")
    command.add_argument("--registry", default="", metavar="HOST/PATH", help="registry of the container images, for docker")
    command.add_argument(
        "--network", default="bridge", metavar="NAME", help="container network, for docker with remote addresses (%(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print the results as JSON on the last line")
    command.set_defaults(command=run_pipeline)


def _list_pipelines() -> str:
    """Names each pipeline in a line of its own. Only the help asks for them, because KFP takes seconds to import."""
    from kfp_vision.cli import fields
    from kfp_vision.pipelines import PIPELINES

    width = max(map(len, PIPELINES))
    lines = [f"  {name:{width}}  {fields.summary(pipeline)}" for name, pipeline in PIPELINES.items()]
    return "\n".join(["pipelines:", *lines, "", f"{program.typed_name()} fields PIPELINE prints the fields of one."])


def _define_train(command: argparse.ArgumentParser) -> None:
    records = "folder made by prepare_records, with train, validation and labels.txt"
    command.add_argument("records", type=_path, metavar="RECORDS", help=records)
    command.add_argument("output", type=_path, metavar="DIR", help="folder for the model, events and curves.html")
    _add_parameter(command)
    command.set_defaults(command=train)


def _define_serve(command: argparse.ArgumentParser) -> None:
    model = "a run's model folder, a model repository, or a folder of these; local or s3://..."
    command.add_argument("model", metavar="MODEL_OR_REPOSITORY", help=model)
    command.add_argument("--name", default="", help="name of the single model in URLs (default: its own)")
    command.add_argument("--index", type=_path, metavar="DIR", help="index to search (default: the one next to the model)")
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for access from the network (%(default)s)")
    command.add_argument("--port", type=int, default=SERVE_PORT, help="0 for a free one (%(default)s)")
    command.add_argument("--grpc-port", type=int, default=0, help="port of the Open Inference Protocol over gRPC (off)")
    origins = "origins of pages elsewhere that may call the server, comma-separated, or * (KFP_VISION_CORS_ORIGINS)"
    command.add_argument("--cors-origins", metavar="ORIGINS", help=origins)
    _add_engine(command)
    _add_collect(command)
    command.set_defaults(command=serve_model)


def _add_collect(command: argparse.ArgumentParser) -> None:
    place = "collect a sample of the answers in this folder or bucket folder (off; KFP_VISION_COLLECT)"
    command.add_argument("--collect", metavar="URI", help=place)
    share = "share of the answers to collect (0.1; KFP_VISION_COLLECT_SHARE)"
    command.add_argument("--collect-share", type=float, metavar="SHARE", help=share)
    images = "collect the images as well, which may show people (off; KFP_VISION_COLLECT_IMAGES)"
    command.add_argument("--collect-images", action="store_true", default=None, help=images)
    days = "days after which what was collected is deleted (30; KFP_VISION_COLLECT_DAYS)"
    command.add_argument("--collect-days", type=float, metavar="DAYS", help=days)
    most = "megabytes that the collection may have; the oldest goes first (1000; KFP_VISION_COLLECT_MAX_MB)"
    command.add_argument("--collect-max-mb", type=float, metavar="MB", help=most)


def _define_review(command: argparse.ArgumentParser) -> None:
    images = "images to label: a folder, an archive, or the table of the pipeline review; local or s3://..."
    command.add_argument("images", metavar="FOLDER_OR_TABLE", help=images)
    saved = "list that the answers are saved in as they are given, and labels_uri takes; continued if it exists (%(default)s)"
    command.add_argument("--labels", type=_path, default=Path("labels.csv"), metavar="FILE", help=saved)
    classes = "classes to choose from, besides those that the table suggests; on the page, others can be typed"
    command.add_argument("--classes", default="", metavar="A,B,...", help=classes)
    command.add_argument("--several", action="store_true", help="an image may have any number of labels")
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to label on a phone in the same network (%(default)s)")
    command.add_argument("--port", type=int, default=LABEL_PORT, help="0 for a free one (%(default)s)")
    command.set_defaults(command=label_images)


def _define_predict(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="server to send the images to")
    source.add_argument(
        "--model", metavar="DIR_OR_FILE", help="use this model folder, repository or exported file without a server"
    )
    _add_engine(command)
    _add_images(command)
    command.set_defaults(command=predict)


def _add_engine(command: argparse.ArgumentParser) -> None:
    wish = "what computes (default: KFP_VISION_ENGINE, or as the model was trained for)"
    command.add_argument("--engine", choices=SERVING_ENGINES, default="", help=wish)


def _define_search(command: argparse.ArgumentParser) -> None:
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--url", help="server whose index to search")
    source.add_argument("--index", type=_path, metavar="DIR", help="index folder made by image_search")
    command.add_argument("--nearest", type=int, default=10, metavar="N", help="results per image (%(default)s)")
    command.add_argument("--label", default="", help="search images with this label only")
    _add_images(command)
    command.set_defaults(command=search)


def _define_rollback(command: argparse.ArgumentParser) -> None:
    command.add_argument("repository", metavar="REPOSITORY", help="model repository, local or in a bucket")
    command.add_argument("--to", default=0, metavar="VERSION", help="number or alias (default: the one before the newest)")
    command.set_defaults(command=roll_back)


def _define_models(command: argparse.ArgumentParser) -> None:
    command.add_argument("repository", metavar="REPOSITORY", help="model repository, local or in a bucket")
    verb = command.add_mutually_exclusive_group()
    verb.add_argument("--show", metavar="VERSION", help="print the model card of a version: a number, an alias or newest")
    pair: dict[str, Any] = {"nargs": 2, "action": "append", "metavar": ("VERSION", "TAG")}
    verb.add_argument("--tag", **pair, help="add a tag to a version; may be given several times")
    verb.add_argument("--untag", **pair, help="remove a tag from a version; may be given several times")
    verb.add_argument("--alias", nargs=2, metavar=("ALIAS", "VERSION"), help="name a version champion or challenger")
    verb.add_argument("--unalias", metavar="ALIAS", help="let an alias name no version")
    source = "publish a model as the newest version: a run's folder, a model repository, or with --force any model"
    verb.add_argument("--import", dest="source", metavar="MODEL", help=source)
    command.add_argument("--force", action="store_true", help="import a model that has no papers, or was not accepted")
    command.add_argument("--json", action="store_true", help="print JSON: one line per version")
    command.set_defaults(command=manage_models)


def _define_sample(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=_path, metavar="DIR", help="a folder that is new or empty")
    labels = "how many labels an image has; several writes the table labels.csv beside the images (%(default)s)"
    command.add_argument("--labels", choices=(ONE, SEVERAL), default=ONE, help=labels)
    command.set_defaults(command=write_sample)


def _define_compile(command: argparse.ArgumentParser) -> None:
    command.add_argument("--check", action="store_true", help="write nothing; fail if a file is outdated")
    command.add_argument("--output", type=_folder, metavar="DIR", help="root of the files (default: the project)")
    command.add_argument("--registry", default="", metavar="HOST/PATH", help="registry of the container images")
    command.add_argument("--queue", default="", type=_object_name, metavar="NAME", help="queue of Kueue for pods that train")
    command.add_argument("--priority", default="", type=_object_name, metavar="NAME", help="their priority class in the queue")
    command.set_defaults(command=compile_pipelines)


def _define_fields(command: argparse.ArgumentParser) -> None:
    _add_pipeline(command)
    command.add_argument("--json", action="store_true", help="print one line of JSON per field")
    command.set_defaults(command=print_fields)


def _define_doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument("uris", nargs="*", metavar="URI", help="addresses to read as well, such as s3://bucket/photos")
    command.add_argument("--endpoint", default="", metavar="URL", help="address of Kubeflow Pipelines (default: KFP_ENDPOINT)")
    command.add_argument("--webhook", action="store_true", help="send a test message to the webhook in KFP_VISION_WEBHOOK")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(command=diagnose)


def _add_pipeline(command: argparse.ArgumentParser) -> None:
    pipeline = command.add_argument("pipeline", nargs="?", default="image_classification", help="default: %(default)s")
    pipeline.completer = completion.pipeline_names  # type: ignore[attr-defined]  # as argcomplete wants it


def _add_parameter(command: argparse.ArgumentParser) -> None:
    parameter = command.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="a field of the run form"
    )
    parameter.completer = completion.assignments  # type: ignore[attr-defined]  # as above


def _add_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER", help="images, folders, archives or addresses of these")
    command.add_argument("--json", action="store_true", help="print one line of JSON per image")


def run_pipeline(options: argparse.Namespace) -> None:
    """Runs a pipeline on this machine and prints the results: `kfp-vision run`.

    Args:
        options: the parsed command line.

    Raises:
        WrongUse: the pipeline or a field is invalid.
        InputError: a stage failed.
    """
    from kfp_vision.cli import run
    from kfp_vision.pipelines import PIPELINES

    pipeline = _known_pipeline(options.pipeline)
    try:
        fixed = run.complete_form(pipeline, {}).keys()
        homes = {field: name for name in reversed(PIPELINES) for field in fixed & run.form_fields(PIPELINES[name]).keys()}
        arguments = parse_assignments(options.parameter, run.form_fields(pipeline), homes)
        values = run.complete_form(pipeline, run.form_defaults(pipeline) | arguments)
        print(f"{options.pipeline}: checking the fields", flush=True)
        run.check_conditions(pipeline, arguments)
        checked = run.check_fields(pipeline, values)
        unchanged = run.is_unchanged(values, checked.get("recipe", ""))
    except InputError as error:
        raise UsageError(error) from error
    if unchanged:
        print("\nimages and fields unchanged: keeping the deployed model")
        if options.json:
            print(json.dumps({"unchanged": True, "skipped": run.stage_names(pipeline)}))
        return
    runner = {"runner": options.runner, "registry": options.registry, "network": options.network}
    result = run.run(pipeline, arguments, options.output, **runner, debug=options.debug)
    print_results(result)
    if options.json:
        print(json_text.write(result))


def _known_pipeline(name: str) -> Any:
    from kfp_vision.pipelines import PIPELINES

    if name not in PIPELINES:
        rule, remedy = "the pipeline must be a known one", f"Choose one of {', '.join(PIPELINES)}."
        raise UsageError(InputError(rule, name, remedy))
    return PIPELINES[name]


def print_results(result: Mapping[str, Any]) -> None:
    """Prints the results of a run.

    Args:
        result: as `run.run` returns it.
    """
    if "records" in result:
        _show_records(result)
    elif "model_dir" in result:
        _show_model(result)
    elif "chosen" in result:
        print(f"\nchosen    {result['review']} of {result['pictures']} images: {result['chosen']}")
        several = " --several" if result["several"] else ""
        print(f"label     {program.typed_name()} review {shlex.quote(result['chosen'])}{several}")
    elif "index" in result:
        _show_index(result)
    elif "drifted" in result:
        _show_drift(result)
    else:
        _show_predictions(result)
    if report := result.get("report"):
        print(f"report    {report}")
    if result["skipped"]:
        print(f"skipped   {', '.join(result['skipped'])}")
    print(f"done in {result['seconds']['total']:.0f} s")


def _show_drift(result: Mapping[str, Any]) -> None:
    of = f"of {plural(result['images'], 'answer', 'answers')} of {result['model']}"
    if result["images"] < MIN_DRIFT_ANSWERS:
        print(f"\ndrift     no verdict, {of}; {MIN_DRIFT_ANSWERS} are needed")
        return
    print(f"\ndrift     {'yes' if result['drifted'] else 'no'}, {of}")
    of_images = f"{result['embeddings_p']:.4f} of all images, {result['novel_p']:.4f} of few"
    print(f"p value   {of_images}, {result['shares_p']:.4f} of the classes")


def _show_records(result: Mapping[str, Any]) -> None:
    print("\nrecords   " + ", ".join(f"{images} {split}" for split, images in result["pictures"].items()) + " images")
    if result["refused"]:
        print(f"rejected  {result['refused']}, listed in {result['records']}/refused.csv")
    print(f"folder    {result['records']}")


def _show_index(result: Mapping[str, Any]) -> None:
    print(f"\nindex     {result['pictures']} images, {result['refused']} rejected: {result['index']}")
    if "nearest" in result:
        print(f"nearest   {result['nearest']}")
    if "findings" in result:
        print(f"findings  {result['findings']}, report in {result['audit']}")
    if deployed := result.get("deployed"):
        print(f"deployed  next to version {deployed['version']} of {deployed['model_name']} in {deployed['repository']}")


def _show_predictions(result: Mapping[str, Any]) -> None:
    print(f"\npredicted {result['pictures']:.0f} images, {result['unreadable']:.0f} unreadable: {result['predictions']}")
    if "accuracy" in result:
        print(f"accuracy  {result['accuracy']:.4f} on images in folders named after their labels")
    if "exact_match_ratio" in result:
        print(f"exact     {result['exact_match_ratio']:.4f} of the images whose labels are given get exactly these")


def _show_model(result: Mapping[str, Any]) -> None:
    if "accuracy" in result:
        print(f"\naccuracy  {result['accuracy']:.4f} on held-out images")
    else:
        print(f"\nmAP       {result['mean_average_precision']:.4f} on held-out images (mean average precision)")
    print(f"model     {result['model_dir']}")
    if trials := result.get("trials"):
        print(f"trials    {trials}")
    if not result["accepted"]:
        print(f"verdict   rejected, not deployed: {'; '.join(result['reasons'])}")
    if endpoint := result.get("endpoint"):
        print(f"deployed  {_describe(endpoint)}")
    if answer := result.get("answer"):
        print(f"answer    {answer['picture']} is classified over HTTP as {_named(answer)}")
    if exports := result.get("exports"):
        print(f"exports   {exports}, compared in {exports}.html")
    if predictions := result.get("predictions"):
        print(f"predicted {predictions}")


def _named(answer: Mapping[str, Any]) -> str:
    """Describes what `call_endpoint` was told of an image."""
    if "labels" not in answer:
        return f"{answer['prediction']} ({answer['score']:.0%})"
    scores = [f" ({score:.0%})" for score in answer["scores"]] or [""] * len(answer["labels"])
    return ", ".join(map("".join, zip(answer["labels"], scores, strict=True))) or "none of the labels"


def _describe(endpoint: Mapping[str, Any]) -> str:
    if endpoint["kind"] == "kserve":
        return f"as InferenceService {endpoint['name']} in {endpoint['namespace']}, at {endpoint['url']}"
    return f"as version {endpoint['version']} of {endpoint['model_name']} in {endpoint['repository']}"


def train(options: argparse.Namespace) -> None:
    """Runs the training stage alone: `kfp-vision train`. Several workers train together if each has its `TF_CONFIG`.

    Args:
        options: the parsed command line.

    Raises:
        WrongUse: a field is invalid, or the records are incomplete.
    """
    from kfp_vision.cli import run
    from kfp_vision.pipelines import PIPELINES
    from kfp_vision.preflight import checks

    pipeline = PIPELINES["image_classification"]
    # After KFP, which inspects every loaded module; TensorFlow has thousands.
    from kfp_vision.storage import reading_settings
    from kfp_vision.training import recipe, workers

    form = recipe.Recipe.__dataclass_fields__
    try:
        known = {name: kind for name, kind in run.form_fields(pipeline).items() if name in form or name == "recipe"}
        values = run.form_defaults(pipeline) | parse_assignments(options.parameter, known)
        fields = {name: value for name, value in values.items() if name in form}
        fields |= {name: int(fields[name]) for name, kind in known.items() if kind == "NUMBER_INTEGER"}
        for name in ("train/records.json", "validation/records.json", "labels.txt"):
            if not (options.records / name).is_file():
                rule = "RECORDS must hold train, validation and labels.txt"
                raise InputError(rule, f"no {name} in {options.records}", "Use the folder made by prepare_records.")
        _, preset = checks.fill_in(values, rules.check_values(values))
    except InputError as error:
        raise UsageError(error) from error
    reading_settings.apply(fields["advanced"])  # as long as a stage does, since nobody watches a worker
    folders = (options.records / "train", options.records / "validation", options.records)
    outputs = {"model": options.output / "model", "events": options.output / "events", "page": options.output / "curves.html"}
    options.output.mkdir(parents=True, exist_ok=True)
    workers.train(recipe.Recipe.from_form(fields | {"preset": preset.to_json()}), *folders, **outputs)


def label_images(options: argparse.Namespace) -> None:
    """Serves a page to label images on.

    Args:
        options: the parsed command line.
    """
    from kfp_vision.review import label_page
    from kfp_vision.storage import reading

    images = label_page.read_images_to_label(options.images)
    for note in reading.notes_on_names(uris.from_field(options.images)):
        print(note, file=sys.stderr)
    if Path(options.images).exists() and options.labels.exists() and options.labels.samefile(options.images):
        rule, remedy = "the labels must be saved in another file than the table of the images", "Give --labels another name."
        raise UsageError(FieldError(rule, str(options.labels), remedy))
    labels = label_page.Labels(options.labels, several=options.several)
    classes = [name.strip() for name in options.classes.split(",") if name.strip()]
    page = label_page.LabelPage(images, labels, classes, several=options.several)
    label_page.serve_label_page(page, options.host, options.port)


def serve_model(options: argparse.Namespace) -> None:
    """Serves a model until interrupted: `kfp-vision serve`. A model in a bucket is downloaded first, and updates are followed.

    Args:
        options: the parsed command line.
    """
    from kfp_vision.collection.settings import read_settings
    from kfp_vision.engines import choice
    from kfp_vision.serving import server, sync

    if options.engine:
        os.environ[choice.ENGINE_VARIABLE] = options.engine  # for all models of this process
    collected = (options.collect_share, options.collect_images, options.collect_days, options.collect_max_mb)
    try:
        collect = read_settings(options.collect, *collected)
    except FieldError as error:
        raise UsageError(error) from error
    with sync.synced_copy(options.model, choice.exports_needed()) as path:
        address = {"host": options.host, "port": options.port, "grpc_port": options.grpc_port}
        shared = {"cors_origins": options.cors_origins, "collect": collect}
        server.serve(path, name=options.name, index=options.index, **shared, **address)


def predict(options: argparse.Namespace) -> int:
    """Classifies images: `kfp-vision predict`. Continues after an unreadable image.

    Args:
        options: the parsed command line.

    Returns:
        The exit code: a failure if any image was unreadable.

    Raises:
        WrongUse: --engine is given for what computes with its own.
    """
    from contextlib import ExitStack

    from kfp_vision.engines import choice
    from kfp_vision.exports import formats
    from kfp_vision.prediction import classifier, client
    from kfp_vision.repository import bucket_repository, version

    def line(uri: str, answer: classifier.Prediction) -> str:
        if not options.json:
            unlike = "  (unlike the images of the training)" if answer.known is False else ""
            named = answer.in_words() if answer.several else f"{answer.label}  {answer.score:.4f}"
            return f"{named}  {uri}{unlike}"
        told = {"labels": answer.labels, "scores": answer.scores} if answer.several else {}
        told |= {} if answer.known is None else {"known": answer.known, "known_score": answer.known_score}
        return json_text.write({"path": uri, "prediction": answer.label, "score": answer.score} | told)

    is_file = not options.url and formats.is_exported_file(options.model)
    if options.engine and (options.url or is_file):
        rule = "--engine must be for a model folder or a repository"
        remedy = "Leave it out: the format of a file says what computes." if is_file else "Give it to kfp-vision serve."
        raise UsageError(FieldError(rule, f"{options.engine} for {options.url or options.model}", remedy))
    namer: classifier.ImageClassifier
    with ExitStack() as stack:
        if options.url:
            namer = client.ServingClient(options.url)
        elif is_file:
            from kfp_vision.exports import classify

            namer = classify.FileClassifier(_local_path(options.model, "Download it, or name the model repository it is from."))
        else:
            needed = choice.exports_needed(options.engine)
            path = stack.enter_context(bucket_repository.local_copy(options.model, needed))
            newest = version.versions(version.find_repository(path))[-1]
            namer = classifier.Classifier(newest, engine=options.engine)
    return _print_answers(options.images, namer.classify, line)


def search(options: argparse.Namespace) -> int:
    """Searches an index for similar images: `kfp-vision search`. Continues after an unreadable image.

    Args:
        options: the parsed command line.

    Returns:
        The exit code: a failure if any image was unreadable.

    Raises:
        WrongUse: the number of results is out of range.
    """
    from kfp_vision.search.index import Index
    from kfp_vision.search.query import LocalSearcher, Neighbours, RemoteSearcher

    def line(uri: str, near: Neighbours) -> str:
        if not options.json:
            return "\n".join([uri, *(f"  {hit.similarity:.4f}  {hit.label}  {hit.path}" for hit in near.hits)])
        hits = [
            {"path": hit.path, "label": hit.label}
            | ({} if hit.labels is None else {"labels": hit.labels})
            | {"similarity": hit.similarity}
            for hit in near.hits
        ]
        return json_text.write({"path": uri, "nearest": hits})

    if not 0 < options.nearest <= MAX_NEAREST:
        rule = f"--nearest must be a whole number from 1 to {MAX_NEAREST}"
        raise UsageError(InputError(rule, options.nearest, "Choose 10, for example."))
    query = (options.nearest, options.label)
    searcher = RemoteSearcher(options.url, *query) if options.url else LocalSearcher(Index(options.index), *query)
    return _print_answers(options.images, searcher.nearest, line)


def _print_answers(uris: Sequence[str], ask: Callable[[list[bytes]], list[Any]], line: Callable[[str, Any], str]) -> int:
    """Asks about every image at some URIs, prints a line for each, and returns the exit code."""
    from itertools import chain

    from kfp_vision.dataset import image_files
    from kfp_vision.dataset.images import Rejected
    from kfp_vision.dataset.table import SkippedFiles
    from kfp_vision.prediction import batch
    from kfp_vision.storage import reading

    remedy = f"Check the path; images may be {image_files.FORMATS}."
    failed, total, skipped = 0, 0, SkippedFiles()
    images = chain.from_iterable(batch.read_images(uri, skipped=skipped) for uri in uris)
    for uri, _, answer in batch.apply_in_batches(ask, images):
        total += 1
        if isinstance(answer, Rejected):
            failed += 1
            print(InputError("an image must be readable", f"{uri} ({answer})", remedy), file=sys.stderr)
        else:
            print(line(uri, answer), flush=True)
    if not total:
        raise batch.no_images_error(", ".join(uris), skipped)
    notes = dict.fromkeys(note for uri in uris for note in reading.notes_on_names(uri))
    for told in [*notes, *skipped.lines()]:
        print(told, file=sys.stderr)
    return FAILED if failed else DONE


def roll_back(options: argparse.Namespace) -> None:
    """Publishes an earlier version again, as the newest: `kfp-vision rollback`.

    Args:
        options: the parsed command line.
    """
    from kfp_vision.repository import publish

    name, earlier, newest = publish.rollback(options.repository, options.to)
    if newest == earlier:
        print(f"{name}: version {earlier} is already the newest in {options.repository}")
    else:
        print(f"{name}: version {earlier} is the newest in {options.repository} again, as version {newest}")


def manage_models(options: argparse.Namespace) -> None:
    """Lists the versions of a repository, or shows, tags, names or imports one: `kfp-vision models`.

    Args:
        options: the parsed command line.

    Raises:
        WrongUse: --force without --import.
    """
    from kfp_vision.cli import models

    if options.force and not options.source:
        raise UsageError(InputError("--force must come with --import", "no --import", "Leave it out."))
    for line in models.manage(options):
        print(line)


def write_sample(options: argparse.Namespace) -> None:
    """Writes the sample images: `kfp-vision sample`.

    Args:
        options: the parsed command line.

    Raises:
        WrongUse: the folder exists and is not empty.
    """
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        raise UsageError(InputError("the folder must be new or empty", str(options.folder), "Choose another one."))
    from kfp_vision.storage import atomic, sample, several_sample

    with atomic.replacing(options.folder) as folder:
        count = (several_sample if options.labels == SEVERAL else sample).write_images(folder)
    print(f"{count} images in {len(sample.CLASSES)} classes in {options.folder}")


def compile_pipelines(options: argparse.Namespace) -> None:
    """Compiles every pipeline and stage, and the tables of `docs/reference`, or checks them: `kfp-vision compile`.

    Args:
        options: the parsed command line.

    Raises:
        InputError: with --check, a file is outdated.
    """
    from kfp_vision.pipelines import compiling, reference

    if options.priority and not options.queue:
        raise UsageError(FieldError("--priority must be given with --queue", options.priority, "Give the queue as well."))
    given = options.output, options.registry, compiling.Queue(options.queue, options.priority)
    if not options.check:
        files = compiling.compile_all(*given)
        pages = [] if options.output else reference.write_pages(build_parser())
        for file in [*files, *pages]:
            print(file)
        folder = next(file.parent for file in files if file.parent.name == "pipelines")
        print(f"note: the pipelines to upload are in {folder}", file=sys.stderr)  # stdout lists the files
        if options.output and not options.registry and REGISTRY == PLACEHOLDER:
            print(f"warning: they name container images in {REGISTRY}, a placeholder. {PLACEHOLDER_REMEDY}", file=sys.stderr)
        return
    stale = {"every YAML must match the code": compiling.out_of_date(*given)}
    if not options.output:
        stale["every table of a page must match the code"] = reference.out_of_date(build_parser())
    for rule, files in stale.items():
        if files:
            names = ", ".join(str(file) for file in files)
            raise InputError(rule, f"outdated {names}", f"Run {program.typed_name()} compile, and commit.")
    print("every YAML is up to date")


def print_fields(options: argparse.Namespace) -> None:
    """Prints the run form of a pipeline: `kfp-vision fields`.

    Args:
        options: the parsed command line.

    Raises:
        WrongUse: the pipeline is unknown.
    """
    from dataclasses import asdict

    from kfp_vision.cli import fields
    from kfp_vision.pipelines.form import read_form

    pipeline = _known_pipeline(options.pipeline)
    form = read_form(pipeline)
    if options.json:
        for field in form:
            print(json.dumps(asdict(field), ensure_ascii=False))
        return
    width = shutil.get_terminal_size((120, 24)).columns
    print(fields.description(pipeline), end="\n\n")
    for line in fields.table(form, width):
        print(line)


def diagnose(options: argparse.Namespace) -> int:
    """Says what is here and what will work: `kfp-vision doctor`.

    Args:
        options: the parsed command line.

    Returns:
        The exit code: a failure if nothing works, an address cannot be read, or the webhook was not notified.
    """
    from kfp_vision.cli import doctor

    if options.webhook:
        from kfp_vision.reports import outcome

        if not os.environ.get(outcome.WEBHOOK, "").strip():
            remedy = "Set it to the address of the webhook, as the secret kfp-vision-webhook does."
            raise UsageError(InputError(f"{outcome.WEBHOOK} must be set for a test message", "nothing", remedy))
        return DONE if outcome.send_test_message() else FAILED
    diagnosis = doctor.examine(options.uris, options.endpoint)
    if options.json:
        print(json.dumps(diagnosis.as_json(), ensure_ascii=False))
    else:
        print("What is here", *diagnosis.here, "", "What will work", *diagnosis.will_work, sep="\n")
    unread = [
        finding for finding in diagnosis.here if finding.works == doctor.NO and finding.what in doctor.asked_for(options.uris)
    ]
    return DONE if diagnosis.anything_works and not unread else FAILED


def parse_assignments(
    assignments: Sequence[str], fields: Mapping[str, str], other_forms: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Parses `NAME=VALUE` assignments by the types of the fields.

    Args:
        assignments: as typed.
        fields: type of each field by name, as KFP names it: STRING, NUMBER_INTEGER, NUMBER_DOUBLE, BOOLEAN, LIST or STRUCT.
        other_forms: the pipeline that has it in its form, for each field that this pipeline sets itself.

    Returns:
        The values by name; local paths are absolute.

    Raises:
        InputError: not an assignment, an unknown field, or a value of another type.
    """
    from kfp_vision.storage.uris import absolute_uri, from_field

    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError("a parameter must be written NAME=VALUE", assignment, "Write -p train_steps=300, for example.")
        if name not in fields:
            rule = f"a parameter must be one of {', '.join(sorted(fields))}"
            home = (other_forms or {}).get(name)
            raise InputError(rule, name, f"It is a field of {home}." if home else suggest_name(name, fields))
        values[name] = _value(name, text, fields[name])
        if name in rules.URI_FIELDS:
            address = from_field(values[name])
            values[name] = address if address in SPECIAL_VALUES.get(name, ()) else absolute_uri(address)
    return values


def _value(name: str, text: str, kind: str) -> Any:
    if kind == "STRING":
        return text
    if kind == "BOOLEAN" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    kinds: dict[str, tuple[Any, str]] = {"NUMBER_INTEGER": (int, "a whole number"), "NUMBER_DOUBLE": ((int, float), "a number")}
    kinds |= {"LIST": (list, "a list in JSON"), "STRUCT": (dict, "a dictionary in JSON"), "BOOLEAN": ((), "true or false")}
    wanted, words = kinds[kind]
    try:
        value = json_text.parse(text)
    except ValueError:
        value = None
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise InputError(f"{name} must be {words}", text, f"Write it as -p {name}=..., with {words}.")
    return float(value) if kind == "NUMBER_DOUBLE" else value  # KFP rejects an integer for a double


def _local_path(text: str, remedy: str) -> Path:
    """Returns a path of this machine; that of a URI would be one of a folder `s3:`."""
    if not uris.scheme_of(text):
        return Path(text)
    place = uris.absolute_uri(text)
    if uris.scheme_of(place):
        raise FieldError("a path must be one of this machine", base.redact_uri(place), remedy)
    return Path(place)


def _path(text: str) -> Path:
    try:
        return _local_path(text, "Give a file or a folder.")
    except FieldError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix(FieldError.PREFIX).removesuffix(".")) from None


def _folder(text: str) -> Path:
    path = _path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, or a name for a new one; got {text}")
    return path


def _object_name(text: str) -> str:
    if text and not (OBJECT_NAME.fullmatch(text) and len(text) <= MAX_LABEL_VALUE):
        rule = f"must be the name of an object: lower-case letters, digits, - and ., {MAX_LABEL_VALUE} at most"
        raise argparse.ArgumentTypeError(f"{rule}; got {text}")
    return text


def _fail(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    text = str(error)
    print(text if text.startswith("error: ") else f"error: {text}", file=sys.stderr)
    return code
