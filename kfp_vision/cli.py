"""The command `kfp-vision`: runs a pipeline on this machine, writes the sample pictures, compiles the pipelines.

Exit codes: 0 done, 1 the work failed, 2 wrong use. An error is one line on stderr; a traceback comes only with --debug.
"""

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from kfp_vision import __version__, parameters
from kfp_vision.errors import InputError
from kfp_vision.networks import IMAGENET
from kfp_vision.stores import patience

DONE, FAILED, WRONG_USE = 0, 1, 2
INTERRUPTED = 130
NO_PATHS = {"deploy_to": ("none", "kserve"), "checkpoint_uri": (IMAGENET,)}
URI_FIELDS = (
    "images_uri",
    "leave_out_uri",
    "records_uri",
    "checkpoint_uri",
    "test_image_uri",
    "predict_uri",
    "model_uri",
    "index_uri",
    "queries_uri",
    "deploy_to",
    "log_uri",
    "checkpoint_dir",
)


class WrongUse(Exception):
    """A command that cannot be carried out as it was typed."""


class Grammar(argparse.ArgumentParser):
    """A parser that refuses in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USE, f"error: {message}. See {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out a command line and gives its exit code."""
    options = parser().parse_args(arguments)
    try:
        with patience.for_a_person():
            return options.command(options) or DONE
    except WrongUse as error:
        return _say(error, WRONG_USE, options.debug)
    except (InputError, OSError) as error:
        return _say(error, FAILED, options.debug)
    except ModuleNotFoundError as error:
        rule = "this command must find what the stages run on"
        return _say(InputError(rule, str(error), "Install kfp-vision[cpu], or kfp-vision[gpu]."), FAILED, options.debug)
    except KeyboardInterrupt:
        return _say(KeyboardInterrupt("error: interrupted"), INTERRUPTED, options.debug)


def parser() -> argparse.ArgumentParser:
    """The grammar of the command line."""
    top = Grammar(prog="kfp-vision", description="Image classification on Kubeflow Pipelines, without code.")
    top.add_argument("--version", action="version", version=f"kfp-vision {__version__}")
    shared = Grammar(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show everything the stages print, and tracebacks")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", parents=[shared], help="run a pipeline on this machine, without a cluster")
    run.add_argument("pipeline", nargs="?", default="image_classification", help="default: %(default)s")
    run.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="a field of the run form")
    run.add_argument(
        "--output", type=_folder, default=Path("runs"), metavar="DIR", help="where run folders are made (%(default)s)"
    )
    run.add_argument("--runner", choices=("subprocess", "docker"), default="subprocess", help="default: %(default)s")
    run.add_argument("--registry", default="", metavar="HOST/PATH", help="with --runner docker, where the images lie")
    run.add_argument(
        "--network", default="bridge", metavar="NAME", help="with --runner docker, for runs that name an address (%(default)s)"
    )
    run.add_argument("--json", action="store_true", help="print one last line of JSON about what came out")
    run.set_defaults(command=run_pipeline)

    learn = commands.add_parser("train", parents=[shared], help="train on records, alone or as a worker that TF_CONFIG names")
    learn.add_argument(
        "records", type=Path, metavar="RECORDS", help="a folder of prepare_records: train, validation, labels.txt"
    )
    learn.add_argument("output", type=Path, metavar="DIR", help="a folder for model, events and curves.html")
    learn.add_argument("-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="a field of the run form")
    learn.set_defaults(command=train)

    serve = commands.add_parser("serve", parents=[shared], help="answer over HTTP, with a page to drop pictures on")
    serve.add_argument(
        "model",
        metavar="MODEL_OR_REPOSITORY",
        help="a run's model folder, numbered versions, or a folder of such; also s3://...",
    )
    serve.add_argument("--name", default="", help="of the one model in addresses; by default its own")
    serve.add_argument(
        "--index", type=Path, metavar="DIR", help="of pictures to search in; by default what lies with the model"
    )
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for everybody in the network (%(default)s)")
    serve.add_argument("--port", type=int, default=8080, help="0 for a free one (%(default)s)")
    serve.add_argument("--grpc-port", type=int, default=0, help="answer the Open Inference Protocol over gRPC there as well")
    serve.set_defaults(command=serve_model)

    name = commands.add_parser("predict", parents=[shared], help="say what is on pictures")
    by = name.add_mutually_exclusive_group(required=True)
    by.add_argument("--url", help="ask the server there")
    by.add_argument("--model", metavar="DIR", help="ask this model folder or repository, here or in a bucket, without a server")
    name.add_argument("pictures", nargs="+", metavar="IMAGE_OR_FOLDER")
    name.add_argument("--json", action="store_true", help="one line of JSON a picture")
    name.set_defaults(command=predict)

    near = commands.add_parser("search", parents=[shared], help="find the pictures of an index that are like others")
    by = near.add_mutually_exclusive_group(required=True)
    by.add_argument("--url", help="ask the server there, with whose model an index lies")
    by.add_argument("--index", type=Path, metavar="DIR", help="the folder of an index, as image_search makes it")
    near.add_argument("--nearest", type=int, default=10, metavar="N", help="how many are wanted of each (%(default)s)")
    near.add_argument("--label", default="", help="of the pictures that alone count")
    near.add_argument("pictures", nargs="+", metavar="IMAGE_OR_FOLDER")
    near.add_argument("--json", action="store_true", help="one line of JSON a picture")
    near.set_defaults(command=search)

    back = commands.add_parser("rollback", parents=[shared], help="make an earlier version of a repository the newest again")
    back.add_argument("repository", metavar="REPOSITORY", help="numbered versions, here or in a bucket")
    back.add_argument("--to", type=int, default=0, metavar="N", help="which one; by default the one before the newest")
    back.set_defaults(command=roll_back)

    draw = commands.add_parser("sample", parents=[shared], help="write the embedded sample pictures into a folder")
    draw.add_argument("folder", type=Path, metavar="DIR")
    draw.set_defaults(command=write_sample)

    build = commands.add_parser("compile", parents=[shared], help="write the YAML of every pipeline and stage, or check it")
    build.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    build.add_argument("--output", type=_folder, metavar="DIR", help="where to write; by default where they lie")
    build.add_argument("--registry", default="", metavar="HOST/PATH", help="the registry that holds the images")
    build.set_defaults(command=compile_pipelines)
    return top


def run_pipeline(options: argparse.Namespace) -> None:
    """`kfp-vision run`."""
    from kfp_vision import local_run
    from kfp_vision.pipelines import PIPELINES

    if options.pipeline not in PIPELINES:
        raise WrongUse(InputError("there must be a pipeline of that name", options.pipeline, f"Take {', '.join(PIPELINES)}."))
    pipeline = PIPELINES[options.pipeline]
    try:
        given = parsed(options.parameter, local_run.fields(pipeline))
        values = local_run.defaults(pipeline) | given
        print(f"{options.pipeline}: checking the fields", flush=True)
        local_run.check_conditions(pipeline, given)
        checked = local_run.preflight(pipeline, values)
        unchanged = local_run.unchanged(values, checked.get("recipe", ""))
    except InputError as error:
        raise WrongUse(error) from error
    if unchanged:
        print("\nunchanged pictures and fields: the deployed model stays")
        if options.json:
            print(json.dumps({"unchanged": True, "skipped": local_run.stage_names(pipeline)}))
        return
    with_images = {"runner": options.runner, "registry": options.registry, "network": options.network}
    result = local_run.run(pipeline, given, options.output, **with_images, debug=options.debug)
    show(result)
    if options.json:
        print(json.dumps(result, ensure_ascii=False))


def show(result: Mapping[str, Any]) -> None:
    """What came out of a run, for a person."""
    if "records" in result:
        _show_records(result)
    elif "model_dir" in result:
        _show_model(result)
    elif "index" in result:
        print(f"\nindex     {result['pictures']} pictures, {result['refused']} refused: {result['index']}")
        if "nearest" in result:
            print(f"nearest   {result['nearest']}")
        if "findings" in result:
            print(f"findings  {result['findings']}, shown in {result['audit']}")
        if deployed := result.get("deployed"):
            print(f"deployed  with version {deployed['version']} of {deployed['model_name']} in {deployed['repository']}")
    else:
        _show_predictions(result)
    if report := result.get("report"):
        print(f"report    {report}")
    if result["skipped"]:
        print(f"skipped   {', '.join(result['skipped'])}")
    print(f"done in {result['seconds']['total']:.0f} s")


def _show_records(result: Mapping[str, Any]) -> None:
    print("\nrecords   " + ", ".join(f"{pictures} pictures to {split}" for split, pictures in result["pictures"].items()))
    if result["refused"]:
        print(f"refused   {result['refused']}, named in {result['records']}/refused.csv")
    print(f"folder    {result['records']}")


def _show_predictions(result: Mapping[str, Any]) -> None:
    print(f"\nnamed     {result['pictures']:.0f} pictures, {result['unreadable']:.0f} unreadable: {result['predictions']}")
    if "accuracy" in result:
        print(f"accuracy  {result['accuracy']:.4f} on those in a folder of a known name")


def _show_model(result: Mapping[str, Any]) -> None:
    print(f"\naccuracy  {result['accuracy']:.4f} on pictures that the training never saw")
    print(f"model     {result['model_dir']}")
    if trials := result.get("trials"):
        print(f"trials    {trials}")
    if not result["accepted"]:
        print(f"          refused: {'; '.join(result['reasons'])}; so it is not deployed")
    if endpoint := result.get("endpoint"):
        print(f"deployed  {_shown(endpoint)}")
    if answer := result.get("answer"):
        print(f"answer    over HTTP, {answer['picture']} is called {answer['prediction']}, {answer['score']:.0%}")
    if predictions := result.get("predictions"):
        print(f"named     {predictions}")


def _shown(endpoint: Mapping[str, Any]) -> str:
    """Where a model was deployed to."""
    if endpoint["kind"] == "kserve":
        return f"as InferenceService {endpoint['name']} in {endpoint['namespace']}, at {endpoint['url']}"
    return f"as version {endpoint['version']} of {endpoint['model_name']} in {endpoint['repository']}"


def train(options: argparse.Namespace) -> None:
    """`kfp-vision train`: the training stage alone. Several workers train together where each has its `TF_CONFIG`."""
    from kfp_vision import local_run
    from kfp_vision.pipelines import PIPELINES

    pipeline = PIPELINES["image_classification"]
    # After KFP, which looks through every module in memory, and TensorFlow has thousands.
    from kfp_vision import storage, training

    form = training.Recipe.__dataclass_fields__
    try:
        known = {name: kind for name, kind in local_run.fields(pipeline).items() if name in form}
        given = parsed(options.parameter, known)
        fields = {name: value for name, value in (local_run.defaults(pipeline) | given).items() if name in form}
        fields |= {name: int(fields[name]) for name, kind in known.items() if kind == "NUMBER_INTEGER"}
        for name in ("train/records.json", "validation/records.json", "labels.txt"):
            if not (options.records / name).is_file():
                rule = "RECORDS must hold train, validation and labels.txt"
                raise InputError(rule, f"no {name} in {options.records}", "Take the folder that prepare_records has made.")
        parameters.check_values(local_run.defaults(pipeline) | given)
    except InputError as error:
        raise WrongUse(error) from error
    storage.wait_for_stores(fields["advanced"])  # a worker is a stage: nobody sits before it
    folders = (options.records / "train", options.records / "validation", options.records)
    made = {"model": options.output / "model", "events": options.output / "events", "page": options.output / "curves.html"}
    options.output.mkdir(parents=True, exist_ok=True)
    training.train_classifier(training.Recipe.from_form(fields), *folders, **made)


def serve_model(options: argparse.Namespace) -> None:
    """`kfp-vision serve`; what lies in a bucket is copied here first, and followed."""
    from kfp_vision import stored
    from kfp_vision.serving import server

    with stored.followed(options.model) as path:
        where = {"host": options.host, "port": options.port, "grpc_port": options.grpc_port}
        server.serve(path, name=options.name, index=options.index, **where)


def predict(options: argparse.Namespace) -> int:
    """`kfp-vision predict`; what cannot be named does not keep the rest from it, but is a failure in the end."""
    from contextlib import ExitStack

    from kfp_vision import prediction, repository, stored

    def line(uri: str, answer: prediction.Prediction) -> str:
        if not options.json:
            return f"{answer.label}  {answer.score:.4f}  {uri}"
        return json.dumps({"path": uri, "prediction": answer.label, "score": answer.score}, ensure_ascii=False)

    namer: prediction.Namer
    with ExitStack() as stack:
        if options.url:
            namer = prediction.Service(options.url)
        else:
            path = stack.enter_context(stored.brought(options.model))
            namer = prediction.Classifier(repository.versions(repository.located(path))[-1])
    return _say_of_each(options.pictures, namer.classify, line)


def search(options: argparse.Namespace) -> int:
    """`kfp-vision search`; what cannot be read does not keep the rest from it, but is a failure in the end."""
    from kfp_vision.search import Index, queries

    def line(uri: str, near: queries.Near) -> str:
        if not options.json:
            return "\n".join([uri, *(f"  {hit.similarity:.4f}  {hit.label}  {hit.path}" for hit in near.hits)])
        hits = [{"path": hit.path, "label": hit.label, "similarity": hit.similarity} for hit in near.hits]
        return json.dumps({"path": uri, "nearest": hits}, ensure_ascii=False)

    if not 0 < options.nearest <= parameters.MOST_NEAREST:
        rule = f"--nearest must be a whole number from 1 to {parameters.MOST_NEAREST}"
        raise WrongUse(InputError(rule, options.nearest, "Take 10, say."))
    wanted = (options.nearest, options.label)
    searcher = queries.Remote(options.url, *wanted) if options.url else queries.Local(Index(options.index), *wanted)
    return _say_of_each(options.pictures, searcher.nearest, line)


def _say_of_each(places: Sequence[str], ask: Callable[[list[bytes]], list[Any]], line: Callable[[str, Any], str]) -> int:
    """Asks about every picture at some places, prints a line for each, and gives the exit code."""
    from itertools import chain

    from kfp_vision import prediction
    from kfp_vision.pictures import Refused

    failed, asked = 0, 0
    for uri, _, answer in prediction.each(ask, chain.from_iterable(map(prediction.pictures_at, places))):
        asked += 1
        if isinstance(answer, Refused):
            failed += 1
            print(InputError("a picture must be readable", f"{uri} ({answer})", "Give a JPEG or a PNG."), file=sys.stderr)
        else:
            print(line(uri, answer), flush=True)
    if not asked:
        raise prediction.no_pictures(", ".join(places))
    return FAILED if failed else DONE


def roll_back(options: argparse.Namespace) -> None:
    """`kfp-vision rollback`."""
    from kfp_vision import publishing

    name, earlier, newest = publishing.rollback(options.repository, options.to)
    if newest == earlier:
        print(f"{name}: version {earlier} is the newest in {options.repository} already")
    else:
        print(f"{name}: version {earlier} is the newest in {options.repository} again, as version {newest}")


def write_sample(options: argparse.Namespace) -> None:
    """`kfp-vision sample`."""
    if options.folder.exists() and (not options.folder.is_dir() or any(options.folder.iterdir())):
        raise WrongUse(InputError("the folder must be new or empty", str(options.folder), "Name another one."))
    from kfp_vision import sample, storage

    with storage.replacing(options.folder) as beside:
        count = sample.write(beside)
    print(f"{count} pictures in {len(sample.CLASSES)} classes at {options.folder}")


def compile_pipelines(options: argparse.Namespace) -> None:
    """`kfp-vision compile`."""
    from kfp_vision.pipelines import compiling

    if not options.check:
        for file in compiling.compile_all(options.output, options.registry):
            print(file)
        return
    stale = compiling.out_of_date(options.output, options.registry)
    if stale:
        names = ", ".join(str(file) for file in stale)
        raise InputError("every YAML must be what is compiled now", names, "Run kfp-vision compile, and commit.")
    print("every YAML is up to date")


def parsed(assignments: Sequence[str], fields: Mapping[str, str]) -> dict[str, Any]:
    """Values of `name=value` assignments, by the fields' types.

    Args:
        assignments: as typed.
        fields: name to type, as KFP calls it: STRING, NUMBER_INTEGER, NUMBER_DOUBLE, BOOLEAN, LIST, STRUCT.

    Raises:
        InputError: not an assignment, an unknown field, or a value that is not of its type.
    """
    from kfp_vision import storage

    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise InputError("a parameter must be written NAME=VALUE", assignment, "Write it as -p train_steps=300, say.")
        if name not in fields:
            known = f"a parameter must be one of {', '.join(sorted(fields))}"
            raise InputError(known, name, parameters.did_you_mean(name, fields))
        values[name] = _value(name, text, fields[name])
        if name in URI_FIELDS and values[name] not in NO_PATHS.get(name, ()):
            values[name] = storage.absolute(values[name])
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
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise InputError(f"{name} must be {words}", text, f"Write it as -p {name}=..., with {words}.")
    return float(value) if kind == "NUMBER_DOUBLE" else value  # KFP takes no whole number for one


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder, or a name for a new one; got {text}")
    return path


def _say(error: BaseException, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    text = str(error)
    print(text if text.startswith("error: ") else f"error: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
