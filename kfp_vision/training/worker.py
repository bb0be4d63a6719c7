"""One worker of a training over several machines: `python -m kfp_vision.training.worker JOB`.

Every worker runs the same command. The job is a JSON file, local or in a bucket, that says how to train, where the records lie
and where the first worker is to write the outputs.
"""

import argparse
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from kfp_vision.core import children, json_text
from kfp_vision.core.errors import InputError, UnreachableError
from kfp_vision.core.subprocesses import SIGTERM_STATUS
from kfp_vision.storage import atomic, base, reading, reading_settings, uris, writing
from kfp_vision.training import tf_config
from kfp_vision.training.recipe import Recipe

# Exit statuses, by which the controllers of a cluster, and `workers`, tell what to do. Any other is a failure to try again.
INPUT_ERROR_STATUS = 3  # wrong fields or missing GPUs: every other try would end the same
LOST_STATUS = 138  # another worker has ended: start all again. Kubeflow's training operator tries again after it, too
INTERRUPTED_STATUS = 130


@dataclass(frozen=True)
class WorkerJob:
    """What all workers of a training are told; every place is a path or a URI.

    Attributes:
        recipe: how to train, as `Recipe.to_form` returns it.
        train_records: folder of records.
        validation_records: folder of records.
        label_map: folder with `labels.txt`.
        model: folder to write, see `train.train_classifier`.
        events: folder to write, for TensorBoard.
        page: page of learning curves to write.
        metrics: file to write last: the metrics as JSON.
    """

    recipe: Mapping[str, Any]
    train_records: str
    validation_records: str
    label_map: str
    model: str
    events: str
    page: str
    metrics: str

    @classmethod
    def read(cls, uri: str) -> Self:
        """Reads a job.

        Args:
            uri: of the file.

        Raises:
            InputError: it cannot be read, or is no job.
        """
        try:
            with reading.Reader() as reader:
                return cls(**json_text.parse(reader.read(uri)))
        except (OSError, ValueError, TypeError) as error:
            remedy = "Start the training by its pipeline, which writes it."
            raise InputError("a worker must be given a job", f"{base.redact_uri(uri)} ({error})", remedy) from None

    def write(self, uri: str) -> None:
        """Writes the job.

        Args:
            uri: of the file.

        Raises:
            InputError: see `writing.write_file`.
        """
        writing.write_file(json.dumps(asdict(self), sort_keys=True).encode(), uri)


def train(job: WorkerJob) -> None:
    """Trains as one worker of a job; the first one writes the outputs. Needs `TF_CONFIG`.

    Args:
        job: what to do.

    Raises:
        InputError: see `train.train_classifier`; or a place cannot be read or written.
        SystemExit: a worker received SIGTERM.
    """
    recipe = Recipe.from_form(job.recipe)
    reading_settings.apply(recipe.advanced.changed())
    with atomic.temporary_folder() as scratch:
        folders = (job.train_records, job.validation_records, job.label_map)
        inputs = [
            _local_copy(uri, scratch / name) for uri, name in zip(folders, ("train", "validation", "labels"), strict=True)
        ]
        places = {"model": job.model, "events": job.events, "page": job.page}
        written = {name: _local_place(uri, scratch / "outputs" / name) for name, uri in places.items()}
        (scratch / "outputs").mkdir()
        from kfp_vision.training import devices, train  # TensorFlow reads TF_CONFIG

        reached = train.train_classifier(recipe, *inputs, **written)
        if devices.rank_and_size()[0] == 0:
            for name, uri in places.items():
                if written[name] != Path(uri):
                    upload(written[name], uri)
            writing.write_file(json_text.write(reached).encode(), job.metrics)


def upload(path: Path, uri: str, present: Mapping[str, int] | None = None) -> None:
    """Copies a file, or a folder with all that is in it.

    Args:
        path: to copy.
        uri: to copy to.
        present: sizes in bytes of files that are there already, by name below the folder; these are not copied again.

    Raises:
        InputError: see `writing.write_file`.
    """
    if path.is_file():
        writing.write_file(path, uri)
        return
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name = file.relative_to(path).as_posix()
        if (present or {}).get(name) != file.stat().st_size:
            writing.write_file(file, uris.join_uri(uri, name))


def download(uri: str, folder: Path) -> None:
    """Downloads a folder.

    Args:
        uri: of the folder.
        folder: to write to.

    Raises:
        InputError: a file cannot be read.
    """
    folder.mkdir(parents=True)
    for item in reading.walk(uri):
        reading.save_item(item, folder / item.name, "the files of a training")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one worker, and ends the process with one of the statuses above, or 0.

    Args:
        arguments: the command line; by default that of the process.
    """
    parser = argparse.ArgumentParser(description="Trains as one of the workers of a job.")
    parser.add_argument("job", metavar="JOB", help="the job's file, local or in a bucket")
    options = children.parse_arguments(parser, arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_STATUS))  # else the first process of a container ignores it
    status = _run(options.job)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # TensorFlow's own end waits for the other workers, and aborts the process where one is lost


def _run(job: str) -> int:
    """Returns the exit status."""
    try:
        os.environ[tf_config.TF_CONFIG] = config = tf_config.of_pod()
        tf_config.resolve_hosts(config)
        train(WorkerJob.read(job))
    except InputError as error:
        print(error, file=sys.stderr)
        return _status(error)
    except SystemExit as error:
        return int(error.code or 0)
    except KeyboardInterrupt:  # a terminal tells all processes; the command says so
        return INTERRUPTED_STATUS
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _status(error: InputError) -> int:
    if isinstance(error, tf_config.WorkerLost):
        return LOST_STATUS
    return 1 if isinstance(error, UnreachableError) else INPUT_ERROR_STATUS


def _local_copy(uri: str, folder: Path) -> Path:
    """Returns a folder that is here: itself, or a copy."""
    location = uris.Location.of_file(uri)
    if location.is_local:
        return location.path
    download(uri, folder)
    return folder


def _local_place(uri: str, path: Path) -> Path:
    """Returns where to write what is to go to a URI."""
    location = uris.Location.of_file(uri)
    return location.path if location.is_local else path


if __name__ == "__main__":
    main()
