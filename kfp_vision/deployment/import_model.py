"""Imports a model into a repository: a run's, or the newest version of another repository, with its papers."""

from pathlib import Path
from typing import Any, NamedTuple

from kfp_vision.core import json_text
from kfp_vision.core.errors import InputError
from kfp_vision.deployment import model_card
from kfp_vision.repository import papers, publish, version
from kfp_vision.repository.registered import resolve
from kfp_vision.storage import atomic, base, uris

METRICS_OF_A_RUN = "*/evaluate-classifier/metrics"  # below the folder of a local run
CHECK_OF_A_RUN = "*/check-*/executor_output.json"


class Imported(NamedTuple):
    """A model that was imported.

    Attributes:
        name: Name of the model.
        number: Number of the version in the repository.
    """

    name: str
    number: int


def import_model(source: str, place: str, *, force: bool = False) -> Imported:
    """Publishes a model as the newest version of a repository, with its papers.

    Args:
        source: Folder of a local run, a model repository whose newest version to take, or any model as
            `version.fetch_version` takes it, which has no papers; or a registered one of these.
        place: Path or URI of the repository.
        force: Whether to import a model that has no papers, or that was not accepted.

    Returns:
        The version, which is the newest as it was if that is the same model.

    Raises:
        InputError: There is no model, it has no papers or was not accepted, the repository holds another one, or the store
            denies access or does not answer.
    """
    source = resolve(uris.from_field(source))
    with atomic.temporary_folder() as scratch:
        folder = scratch / papers.PAPERS_FOLDER
        found = _find_model(uris.absolute_uri(source), scratch, folder)
        _check_papers(folder, source, force)
        number = publish.publish(found, place)
        if folder.exists():
            papers.publish_papers(folder, place, number)
        return Imported(found.name, number)


def _find_model(source: str, scratch: Path, folder: Path) -> version.Version:
    """Makes a model available on this machine, and writes its papers to a folder if it has any."""
    if uris.scheme_of(source) in ("", *base.BUCKETS) and (published := publish.repository_at(source).versions()):
        newest = published[-1]
        papers.download_papers(source, newest, folder)
        return newest.download(scratch)
    metrics = next(Path(source).glob(METRICS_OF_A_RUN), None) if not uris.scheme_of(source) else None
    if metrics is None:
        return version.fetch_version(source, scratch / "model")
    found = version.exported_version(Path(source) / "model")
    evaluation = json_text.read_object(metrics)
    if evaluation.get("model_fingerprint") != found.fingerprint:
        rule, of = "the evaluation of a run must be of its model", str(evaluation.get("model_fingerprint"))[:12]
        raise InputError(rule, f"one of {of} in {source}", "Import from the run as it was left.")
    model_card.write_papers(found, evaluation, _origin(Path(source), metrics.parents[1].name), folder)
    return found


def _origin(run: Path, run_name: str) -> model_card.Origin:
    """Reads where the model of a local run comes from, as far as the run tells."""
    outputs: dict[str, Any] = {}
    for file in (*run.glob(CHECK_OF_A_RUN), *run.glob("*/decide-training/executor_output.json")):
        outputs |= json_text.read_object(file).get("parameterValues", {})
    pipeline = next((name for name in _pipelines() if run_name.startswith(name)), "")
    return model_card.Origin(pipeline, outputs.get("form", {}), outputs.get("fingerprint", ""), run_name)


def _pipelines() -> list[str]:
    """Lists the names of the pipelines that train, the longest first, since one may begin with another."""
    names = ("image-classification", "quick-classification", "train-only", "hyperparameter-sweep")
    return sorted((*names, "image-classification-partitioned"), key=len, reverse=True)


def _check_papers(folder: Path, source: str, force: bool) -> None:
    if force:
        return
    if not folder.exists():
        remedy = "Name the folder of a run or a repository with papers, or add --force to import it without."
        raise InputError("a model must have papers to be imported", f"none with {source}", remedy)
    verdict = json_text.read_object(folder / papers.PAPERS_FILE).get("verdict", {})
    if not verdict.get("accepted"):
        reasons = "; ".join(verdict.get("reasons", [])) or "no verdict"
        raise InputError("a model must be accepted to be imported", reasons, "Import a better one, or add --force.")
