"""Deploys a model: skips an unchanged one, checks that it can be served, brings it to its target, and calls it there."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from kfp_vision.core import json_text, values
from kfp_vision.core.errors import InputError
from kfp_vision.deployment import model_card
from kfp_vision.prediction.classifier import Answer
from kfp_vision.prediction.client import ServingClient
from kfp_vision.reports import results
from kfp_vision.repository import bucket_repository, papers, publish
from kfp_vision.repository.version import Version, exported_version, fetch_version
from kfp_vision.serving import server
from kfp_vision.storage import atomic, base, unwritable, uris, writing

SECONDS_TO_TAKE_OVER = 120.0  # for the last server of the previous model to end; Kubernetes gives it 30
REPOSITORY = "repository"  # kind of an endpoint, besides `values.KSERVE`
PAUSE_SECONDS = 0.5  # between two calls of a deployed model


class Target(Protocol):
    """Where models are deployed."""

    def check(self, model_name: str, settings: Mapping[str, Any]) -> None:
        """Checks that a model can be deployed.

        Args:
            model_name: the model's name.
            settings: what `advanced.deployment_settings` returns.

        Raises:
            InputError: an invalid target, or an error of the store or the cluster.
        """

    def is_deployed(self, trained_from: str, model_name: str, settings: Mapping[str, Any]) -> bool:
        """Checks whether the deployed model was trained from the same images and fields.

        Args:
            trained_from: what `decide_training` returns.
            model_name: the model's name.
            settings: what `advanced.deployment_settings` returns.

        Returns:
            Whether it was.

        Raises:
            InputError: an error of the store or the cluster.
        """

    def serves(self, fingerprint: str, model_name: str, settings: Mapping[str, Any]) -> bool:
        """Checks whether the deployed model is a certain version.

        Args:
            fingerprint: the version's.
            model_name: the model's name.
            settings: what `advanced.deployment_settings` returns.

        Returns:
            Whether it is.

        Raises:
            InputError: an error of the store or the cluster.
        """

    def deploy(self, version: Version, model_uri: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Deploys a model; does nothing if it is deployed already.

        Args:
            version: the exported model.
            model_uri: the URI of its model folder, as an artifact's.
            settings: what `advanced.deployment_settings` returns.

        Returns:
            The endpoint: kind, model_name, and how to find the deployed model.

        Raises:
            InputError: an error of the store or the cluster.
        """

    def call(self, endpoint: Mapping[str, Any], image: bytes) -> tuple[Answer, str]:
        """Sends an image to a deployed model over HTTP.

        Args:
            endpoint: what `deploy` returned.
            image: encoded.

        Returns:
            The answer, and the URL that gave it.

        Raises:
            InputError: no server answers, or only those of another model.
        """


class _Repository:
    """A model repository, in a folder or a bucket; a deployed model becomes its newest version.

    Args:
        uri: path or URI of the repository.
    """

    def __init__(self, uri: str):
        self._uri = uri

    def check(self, model_name: str, settings: Mapping[str, Any]) -> None:
        """Checks that the repository can be written to, by a small object in a bucket, and holds no other model."""
        is_known = uris.scheme_of(self._uri) in ("", "file", *base.BUCKETS)
        if not self._uri or not is_known or Path(uris.absolute_uri(self._uri)).is_file():
            rule = f"deploy_to must be {values.NOWHERE}, {values.KSERVE}, or a model repository"
            remedy = "Name a folder, or one in a bucket as s3://bucket/folder; it need not exist."
            raise InputError(rule, self._uri, remedy)
        writing.check_writable(self._uri, "deploy_to")
        publish.check_repository_name(self._uri, model_name)

    def is_deployed(self, trained_from: str, model_name: str, settings: Mapping[str, Any]) -> bool:
        """Checks the newest version."""
        return publish.is_trained_from(uris.absolute_uri(self._uri), trained_from)

    def serves(self, fingerprint: str, model_name: str, settings: Mapping[str, Any]) -> bool:
        """Checks the newest version, which is downloaded from a bucket for it."""
        with atomic.temporary_folder() as scratch:
            return fetch_version(self._uri, scratch / "model").fingerprint == fingerprint

    def deploy(self, version: Version, model_uri: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Publishes the model as the newest version."""
        place = uris.absolute_uri(self._uri)
        number = publish.publish(version, place, int(settings["versions_kept"]))
        results.announce(f"{version.name} deployed as version {number} in {place}")
        return {"kind": REPOSITORY, "repository": place, "version": number, "model_name": version.name}

    def call(self, endpoint: Mapping[str, Any], image: bytes) -> tuple[Answer, str]:
        """Starts the real server on the repository, and sends it the image."""
        with bucket_repository.local_copy(self._uri) as path, server.run_server(path, endpoint["model_name"]) as url:
            service = ServingClient(url)
            (answer,) = service.classify([image])
            return answer, service.url


class _KServe:
    """An InferenceService of KServe, named after the model.

    `kserve` is imported where it is used: Kubernetes' client is large, and seldom needed.
    """

    def check(self, model_name: str, settings: Mapping[str, Any]) -> None:
        """Checks the name and the settings, with a dry run on the cluster."""
        from kfp_vision.deployment import kserve

        kserve.check_kserve(model_name, settings)

    def is_deployed(self, trained_from: str, model_name: str, settings: Mapping[str, Any]) -> bool:
        """Checks the model and the serving settings of the InferenceService."""
        from kfp_vision.deployment import kserve

        return kserve.is_deployed_from(model_name, trained_from, settings)

    def serves(self, fingerprint: str, model_name: str, settings: Mapping[str, Any]) -> bool:
        """Checks the InferenceService."""
        from kfp_vision.deployment import kserve

        return kserve.serves(model_name, fingerprint, settings)

    def deploy(self, version: Version, model_uri: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Creates or updates the InferenceService, and waits until the new model answers."""
        from kfp_vision.deployment import kserve

        endpoint = {"kind": values.KSERVE, **kserve.deploy(version, model_uri, settings)}
        results.announce(f"{version.name} deployed to KServe in {endpoint['namespace']}, where it answers at {endpoint['url']}")
        return endpoint

    def call(self, endpoint: Mapping[str, Any], image: bytes) -> tuple[Answer, str]:
        """Calls the InferenceService until the new model answers: a server of the previous one may still be ending.

        Our server states its version in a header. For other servers, and for earlier releases of ours, the pods tell.
        """
        from kfp_vision.deployment import kserve

        url, wanted = kserve.request_url(endpoint), endpoint["fingerprint"]
        reported, is_only_model = "", False
        deadline = time.monotonic() + SECONDS_TO_TAKE_OVER
        while True:
            service = ServingClient(url)  # a new connection for each call, since all requests of one reach the same server
            (answer,) = service.classify([image])
            if service.fingerprint == wanted or not endpoint["share"] or (is_only_model and not service.fingerprint):
                return answer, service.url
            if not service.fingerprint and kserve.has_only_its_pods(endpoint):
                is_only_model = True  # true of the next answer; this one may be from before
                continue
            other = f"one of {service.fingerprint[:12]}" if service.fingerprint else "one that does not state its model"
            if other != reported:
                print(f"POST {service.url} gave {other} instead of {wanted[:12]}; trying again", flush=True)
                reported = other
            if time.monotonic() > deadline:
                rule = f"the deployed model must answer within {SECONDS_TO_TAKE_OVER:g} s of being ready"
                remedy = f"See kubectl -n {endpoint['namespace']} get pods, and which of them the address leads to."
                raise InputError(rule, f"{other} for {wanted[:12]} at {service.url}", remedy)
            time.sleep(PAUSE_SECONDS)


def target_of(deploy_to: str) -> Target:
    """Returns the target that `deploy_to` names: `kserve`, or a repository."""
    uri = uris.from_field(deploy_to)
    return _KServe() if uri == values.KSERVE else _Repository(uri)


def check_target(deploy_to: str, model_name: str, settings: Mapping[str, Any]) -> None:
    """Checks that a model can be deployed to a target.

    Args:
        deploy_to: `none`, `kserve`, or a repository.
        model_name: the model's name.
        settings: what `advanced.deployment_settings` returns.

    Raises:
        InputError: an invalid deploy_to, or an error of the store or the cluster.
    """
    if deploy_to != values.NOWHERE:
        target_of(deploy_to).check(model_name, settings)


@unwritable.in_one_line("endpoint")
def deploy_model(
    model: Path,
    uri: str,
    verdict: Path,
    proof: Path,
    deploy_to: str,
    settings: Mapping[str, Any],
    endpoint: Path,
    sources: model_card.Sources | None = None,
) -> dict[str, Any]:
    """Deploys a model that is accepted and checked; does nothing if it is deployed already. A repository gets its papers, too.

    Args:
        model: the model folder.
        uri: its URI, as an artifact's, from which others can read it.
        verdict: the evaluation's verdict on this model.
        proof: that of `check_serving` for this model.
        deploy_to: `kserve`, or a repository.
        settings: what `advanced.deployment_settings` returns.
        endpoint: the file to write (JSON).
        sources: what the model's papers are written from; None for no papers.

    Returns:
        What is written: kind and model_name; for a repository also repository and version, for KServe also what
        `kserve.deploy` returns.

    Raises:
        InputError: the model is not accepted, the verdict or proof is of another model, the repository holds another model,
            or an error of the store or the cluster.
    """
    version, evaluation = exported_version(model), json_text.read_object(verdict)
    check_same(version, evaluation, "verdict")
    check_same(version, json_text.read_object(proof), "proof")
    if not evaluation["verdict"]["accepted"]:
        reasons = "; ".join(evaluation["verdict"]["reasons"])
        raise InputError("a model must be accepted to be deployed", reasons, "Train a better one, or ask for less.")
    check_target(deploy_to, version.name, settings)
    deployed = target_of(deploy_to).deploy(version, uri, settings)
    if sources:
        _publish_papers(version, deployed, sources)
    atomic.write_json(endpoint, deployed)
    return deployed


def _publish_papers(version: Version, deployed: Mapping[str, Any], sources: model_card.Sources) -> None:
    with atomic.temporary_folder() as scratch:
        folder = scratch / papers.PAPERS_FOLDER
        model_card.write_papers(version, json_text.read_object(sources.metrics), sources.origin, folder)
        if deployed["kind"] == REPOSITORY:
            papers.publish_papers(folder, deployed["repository"], deployed["version"])
        writing.write_file(folder / papers.CARD_FILE, str(sources.card))


def check_same(version: Version, judgement: Mapping[str, Any], kind: str) -> None:
    """Refuses a verdict or proof of another model.

    Args:
        version: the model.
        judgement: content of the verdict or proof.
        kind: "verdict" or "proof", for the error.

    Raises:
        InputError: the fingerprints differ.
    """
    if judgement["model_fingerprint"] != version.fingerprint:
        found = f"one of {judgement['model_fingerprint'][:12]} for {version.fingerprint[:12]}"
        raise InputError(f"the {kind} must be of the model it is used for", found, "Connect the stages of one training.")
