"""Trains in the pods of a cluster: starts the job, follows it to its end, and brings back what it made.

Records and outputs go through the folder `workers` in `checkpoint_dir`, a bucket that every worker reaches with the keys of the
stages.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kfp_vision.core import json_text
from kfp_vision.core.errors import AccessError, InputError, UnreachableError, format_value
from kfp_vision.core.subprocesses import SIGTERM_STATUS
from kfp_vision.records.records_folder import fingerprint_records
from kfp_vision.repository.registered import resolve
from kfp_vision.storage import atomic, reading, uris, writing
from kfp_vision.training import checkpointing, train_job
from kfp_vision.training.divergence import error_of_worker
from kfp_vision.training.job_client import JobClient
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.worker import LOST_STATUS, WorkerJob, download, upload

FOLDER = "workers"  # in checkpoint_dir
NAME_DIGITS = 16  # of the folder of records
POLL_SECONDS = 5.0
WAIT_SECONDS = (
    600.0  # for a cluster that does not answer while a job is started; one that runs is followed for as long as it takes
)
REFUSED_SECONDS = 60.0  # that a job may not be looked at, after which it is given up: a token may expire for a moment
SILENT_SECONDS = 20.0  # without a pod or a condition, after which the events are asked
OUTPUTS = ("model", "events", "page", "metrics")
MAX_ATTEMPTS = 99  # jobs of one stage, of all its tries

Answer = TypeVar("Answer")


def train(
    recipe: Recipe,
    nodes: Mapping[str, Any],
    train_records: Path,
    validation_records: Path,
    label_map: Path,
    *,
    model: Path,
    events: Path,
    page: Path,
) -> dict[str, float]:
    """Trains with the workers of a job on the cluster; see `workers.train`.

    A later try of a killed stage finds the job that runs, and follows it.

    Args:
        recipe: how to train.
        nodes: the fields gpu_type, node_selector and tolerations of the form.
        train_records: folder of records.
        validation_records: folder of records, maybe empty.
        label_map: folder with `labels.txt`.
        model: folder to write.
        events: folder to write for TensorBoard.
        page: page of learning curves to write (HTML).

    Returns:
        The metrics; see `train.train_classifier`.

    Raises:
        InputError: the job failed, or cannot be started; or an error of the cluster or the store.
        SystemExit: the process received SIGTERM; the job is deleted.
    """
    if recipe.fine_tune:  # the workers have the keys of the stores, and none of a registry
        recipe = replace(recipe, checkpoint_uri=resolve(recipe.checkpoint_uri))
    client = JobClient(recipe.advanced.training_api)
    stage, place = _ask_patiently(client.stage, threading.Event()), uris.join_uri(recipe.checkpoint_dir, FOLDER)
    inputs = {"train_records": train_records, "validation_records": validation_records, "label_map": label_map}
    inputs_uri = uris.join_uri(place, inputs_folder(stage.key, fingerprint_records(train_records)))
    _upload_inputs(inputs, inputs_uri)
    with checkpointing.sigterm_event() as stop:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            name = train_job.job_name(recipe.model_name, stage.key, attempt, recipe.workers)
            folder = uris.join_uri(place, name)
            files = {one: uris.join_uri(inputs_uri, one) for one in inputs} | {
                one: uris.join_uri(folder, one) for one in OUTPUTS
            }
            WorkerJob(recipe.to_form(), **files).write(uris.join_uri(folder, "job.json"))
            wanted = train_job.manifest(name, uris.join_uri(folder, "job.json"), recipe, nodes, stage)
            job = _ask_patiently(partial(_start_or_find, client, wanted), stop)
            if job and JobFollower(client, job, stop, recipe.workers).follow():
                break
        else:
            raise InputError("a stage must have a name left for its job", name, "Start the run again.")
    reached = _fetch_outputs(files, {"model": model, "events": events, "page": page})
    _clean_up(client, name, (folder, inputs_uri))
    return reached


def inputs_folder(key: str, fingerprint: str) -> str:
    """Returns the name of the folder of records of a stage, which its later tries find again.

    No other run has it, even with the same records and the same `checkpoint_dir`: each deletes its own at the end.

    Args:
        key: see `train_job.Stage`.
        fingerprint: of the records.
    """
    return f"records-{hashlib.sha256(f'{key}/{fingerprint}'.encode()).hexdigest()[:NAME_DIGITS]}"


def _ask_patiently(
    ask: Callable[[], Answer], stop: threading.Event, seconds: float = WAIT_SECONDS, poll_seconds: float = POLL_SECONDS
) -> Answer:
    """Asks the cluster again while it does not answer, until this process is told to stop.

    Raises:
        InputError: see `ask`; the cluster has not answered for so many seconds.
    """
    deadline, said = time.monotonic() + seconds, ""
    while True:
        try:
            return ask()
        except UnreachableError as error:
            if stop.is_set() or time.monotonic() >= deadline:
                raise
            if str(error) != said:
                said = str(error)
                print(f"asks again, since {said.removeprefix(InputError.PREFIX)}", flush=True)
        stop.wait(poll_seconds)


def _clean_up(client: JobClient, name: str, folders: Iterable[str]) -> None:
    """Deletes a job that is done, and its files; what stays is a line in the log, since the model is there."""
    try:
        client.delete(name)
        for used in folders:
            for file in reading.list_files(used):
                writing.delete_file(uris.join_uri(used, file.name))
    except InputError as error:
        print(f"warning: not all of the job {name} is deleted ({str(error).removeprefix(InputError.PREFIX)})", flush=True)


def _upload_inputs(inputs: Mapping[str, Path], uri: str) -> None:
    """Copies records and labels to where the workers read them, but for files that an earlier try has copied."""
    present = {file.name: file.size for file in reading.list_files(uri)}
    print(f"copies the records to {uris.Location.of_file(uri).place}, for the workers", flush=True)
    for name, folder in inputs.items():
        below = {key.removeprefix(f"{name}/"): size for key, size in present.items() if key.startswith(f"{name}/")}
        upload(folder, uris.join_uri(uri, name), below)


def _start_or_find(client: JobClient, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the job of this name, new or of an earlier try; None if the name is used up.

    Raises:
        InputError: a job of that name is not ours, or an error of the cluster.
    """
    name = wanted["metadata"]["name"]
    found = client.job(name)
    if found is None:
        if client.jobset(name) or client.pods(name):  # what is left of a deleted job: Trainer would take it for the new one's
            return None
        if created := client.create(wanted):
            print(f"{created['kind']} {name} in {client.namespace}: created", flush=True)
            return created
        found = client.job(name)
    if found is None:
        return None
    metadata = found["metadata"]
    spec = (metadata.get("annotations") or {}).get(train_job.SPEC_ANNOTATION)
    if spec is None:
        rule = f"a {found['kind']} with the name of the stage's must be one that kfp-vision created"
        raise InputError(rule, f"{name} in {client.namespace}", "Choose another model_name, or delete it.")
    is_over = metadata.get("deletionTimestamp") or train_job.FAILED in train_job.conditions(found)
    if is_over or spec != wanted["metadata"]["annotations"][train_job.SPEC_ANNOTATION]:
        return None
    print(f"{found['kind']} {name} in {client.namespace}: found, of an earlier try of this stage", flush=True)
    return found


class JobFollower:
    """Follows a job to its end: prints what its first worker prints, what it waits for, and why it starts again.

    Args:
        client: of the cluster.
        job: the TrainJob or TFJob.
        stop: set when this process is told to stop.
        workers: how many the job has.
        poll_seconds: between two looks.
        silent_seconds: without a pod or a condition, after which the events are asked.
        refused_seconds: that the job must not be looked at, after which it is deleted.
    """

    def __init__(
        self,
        client: JobClient,
        job: Mapping[str, Any],
        stop: threading.Event,
        workers: int,
        poll_seconds: float = POLL_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
        refused_seconds: float = REFUSED_SECONDS,
    ):
        self._client, self._job, self._stop, self._workers = client, job, stop, workers
        self._poll_seconds, self._silent_seconds, self._refused_seconds = poll_seconds, silent_seconds, refused_seconds
        self._name, self._uid = job["metadata"]["name"], job["metadata"]["uid"]
        self._said = set[str]()
        self._failures = list[train_job.PodFailure]()  # of all starts: each restart deletes the pods before it
        self._restarts = 0
        self._log: _LogFollower | None = None
        self._last_pod = self._last_look = time.monotonic()
        self._is_over = False

    def follow(self) -> bool:
        """Waits for the end.

        Returns:
            Whether the job is done; false if its name must not be used, since another job had it.

        Raises:
            InputError: it failed, or was deleted, or can have no pods.
            AccessError: it must not be looked at any more; it is deleted, if it may be.
            SystemExit: this process was told to stop; the job is deleted.
        """
        try:
            while True:
                try:
                    done = self._look()
                    self._last_look = time.monotonic()
                except UnreachableError as error:  # the API server may be away for a while; the job goes on
                    self._say(f"the cluster does not answer: {error}")
                    done = None
                except AccessError as error:  # the right to look was taken away, for good or for a moment
                    if time.monotonic() - self._last_look >= self._refused_seconds:
                        self._give_up("deleted {}, which can no longer be followed")
                        raise
                    self._say(f"looks again: {error}")
                    done = None
                if done is not None:
                    return done
                if self._stop.wait(self._poll_seconds):
                    self._give_up("told to stop: deleted {}, whose workers save their state")
                    raise SystemExit(SIGTERM_STATUS)
        finally:
            if self._log:
                self._log.join()

    def _give_up(self, line: str) -> None:
        """Deletes the job, which would keep its GPUs and whose model nobody would fetch.

        One that is over stays, for a later try of the stage, or for its log.

        Args:
            line: to print, with `{}` for the job.
        """
        if self._is_over:
            print(f"leaves {self._name}, which is over", flush=True)
            return
        try:
            self._delete(line)
        except InputError:
            self._name_what_stays()

    def _delete(self, line: str) -> None:
        """Deletes the job, and says so; one that must not be deleted is named, since its end is not the error to tell.

        Args:
            line: to print, with `{}` for the job.

        Raises:
            InputError: the cluster does not answer; the next look tries again.
        """
        try:
            self._client.delete(self._name)
            print(line.format(self._name), flush=True)
        except AccessError:
            self._name_what_stays()

    def _name_what_stays(self) -> None:
        command = f"kubectl -n {self._client.namespace} delete {self._job['kind'].lower()} {self._name}"
        print(f"warning: {self._name} goes on, and must be deleted by hand: {command}", flush=True)

    def _look(self) -> bool | None:
        """Looks once; returns whether the job is done, and None while it runs."""
        job = self._client.job(self._name)
        if job is None or job["metadata"]["uid"] != self._uid:
            rule = "a job must not be deleted before its end"
            raise InputError(rule, f"{self._name} in {self._client.namespace}", "See who deleted it, and start the run again.")
        self._is_over = bool(train_job.conditions(job).keys() & {*train_job.SUCCEEDED, train_job.FAILED})
        jobset, pods = self._client.jobset(self._name), self._client.pods(self._name)
        if pods:
            self._last_pod = time.monotonic()
        self._note_failures(pods)
        self._follow_log(pods)
        last = train_job.ending(job, jobset)
        if last is not None:
            if last["type"] in train_job.SUCCEEDED:
                return True
            raise self._failure(last)
        self._report(jobset, pods)
        return self._ask_events(job) if time.monotonic() - self._last_pod >= self._silent_seconds else None

    def _note_failures(self, pods: list[dict[str, Any]]) -> None:
        for failure in train_job.failures(pods, self._client.api):
            if failure not in self._failures:
                self._failures.append(failure)

    def _report(self, jobset: Mapping[str, Any] | None, pods: list[dict[str, Any]]) -> None:
        restarts = int(((jobset or {}).get("status") or {}).get("restarts") or 0)
        if restarts > self._restarts:
            self._restarts = restarts
            print(f"all workers start again ({restarts} so far): {self._cause() or 'a worker was lost'}", flush=True)
            self._failures.clear()
        for line in train_job.waits(pods, self._client.api):
            self._say(line)

    def _follow_log(self, pods: list[dict[str, Any]]) -> None:
        """Follows the log of the first worker, of each pod that it has had."""
        for pod in pods:
            is_first = train_job.rank(pod, self._client.api) == 0
            if is_first and (pod.get("status") or {}).get("phase", "Pending") != "Pending":
                name = pod["metadata"]["name"]
                if self._log and self._log.pod == name and self._log.is_alive():
                    return
                after = self._log.last if self._log and self._log.pod == name else ""
                self._log = _LogFollower(self._client, name, after)
                self._log.start()

    def _ask_events(self, job: Mapping[str, Any]) -> bool | None:
        """Says, or raises, why a job has no pods; returns false if it is taken for another's."""
        if train_job.conditions(job).keys() & {*train_job.SUCCEEDED, train_job.FAILED}:
            self._delete("deleted {}, which was taken for an earlier job of its name: takes another name")
            return False
        warning = train_job.newest_warning(self._client.events(), self._name)
        if not warning:
            self._say(f"{self._name} has no pods yet, and the cluster says nothing: suspended by a queue, perhaps")
            return None
        if train_job.QUOTA in warning:
            self._say(f"waits for room in the quota: {format_value(warning, 400)}")
            return None
        self._delete("deleted {}, which cannot start")
        remedy = "Change what it names, or ask the cluster's administrator."
        raise InputError("the cluster must be able to start the workers", format_value(warning, 600), remedy)

    def _failure(self, last: Mapping[str, Any]) -> InputError:
        first = self._first_failure()
        if first and (line := first.input_error()):
            return error_of_worker(line)
        reason = f"{last.get('reason', '')}: {last.get('message', '')}"
        with contextlib.suppress(AccessError):
            reason = self._client.failed_job_message(self._name) or reason
        why = "; ".join(filter(None, (self._cause(), reason)))
        remedy = f"See kubectl -n {self._client.namespace} logs -l {train_job.JOB_LABELS[self._client.api]}={self._name}."
        return InputError("all workers must stay until the end of the training", f"{self._name}: {why}", remedy)

    def _cause(self) -> str:
        """Describes the first failure of the current start; empty if none was seen."""
        first = self._first_failure()
        return first.describe() if first else ""

    def _first_failure(self) -> train_job.PodFailure | None:
        """Returns the cause: those that only say that another one is lost are not."""
        return min(self._failures, key=lambda one: (one.status == LOST_STATUS, one.at), default=None)

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            print(line, flush=True)


class _LogFollower(threading.Thread):
    """Prints the log of a pod, from after a time on; an error is left to the stage to print.

    Attributes:
        pod: its name.
        last: the time of the last line, as Kubernetes writes it.
    """

    def __init__(self, client: JobClient, pod: str, last: str):
        super().__init__(name=f"log of {pod}", daemon=True)
        self._client, self.pod, self.last = client, pod, last

    def run(self) -> None:
        """Follows until the stream ends."""
        for line in self._client.log(self.pod):
            at, _, text = line.partition(" ")
            if at > self.last:
                self.last = at
                if not text.startswith(InputError.PREFIX):
                    print(text, flush=True)

    def join(self, timeout: float | None = POLL_SECONDS) -> None:
        """Waits for the rest of the log.

        Args:
            timeout: in seconds.
        """
        super().join(timeout)


def _fetch_outputs(files: Mapping[str, str], outputs: Mapping[str, Path]) -> dict[str, float]:
    """Downloads what the first worker has written; the metrics are the last."""
    with reading.Reader() as reader:
        try:
            reached: dict[str, float] = json_text.parse(reader.read(files["metrics"]))
        except OSError as error:
            rule = "the first worker must have written the model"
            raise InputError(rule, str(error), "See its log, and start the run again.") from None
        with atomic.replacing(outputs["page"]) as beside:
            beside.write_bytes(reader.read(files["page"]))
    for name in ("model", "events"):
        with atomic.replacing(outputs[name]) as beside:
            download(files[name], beside)
    return reached
