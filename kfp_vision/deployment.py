"""From a judged model to one that answers: the proof that it can be served, its way into a repository, and a first question."""

import contextlib
import hashlib
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kfp_vision import catalog, publishing, records, repository, results, storage, stored, stores
from kfp_vision.errors import InputError
from kfp_vision.pictures import Refused
from kfp_vision.prediction import Answer, Prediction, Service
from kfp_vision.repository import Version
from kfp_vision.serving import server

NOWHERE, KSERVE = "none", "kserve"
SECONDS_TO_TAKE_OVER = 120.0  # in which the last server of a model before has ended; Kubernetes gives it 30
PAUSE_SECONDS = 0.5  # before a deployed model is asked again
LARGEST_DIFFERENCE = 1e-3  # between the server's probabilities and the evaluation's


def check_target(deploy_to: str, model_name: str, settings: Mapping[str, Any]) -> None:
    """Refuses a target that a model of that name cannot be deployed to.

    Args:
        deploy_to: `none`, `kserve`, or a repository; one in a bucket is tried with an object that is made and removed.
        model_name: the model's.
        settings: what `parameters.of_deployment` gives.

    Raises:
        InputError: naming deploy_to, or what the store or the cluster says.
    """
    if deploy_to == NOWHERE:
        return
    if deploy_to == KSERVE:
        from kfp_vision import inference_service  # Kubernetes' client is large, and seldom needed

        inference_service.check(model_name, settings)
        return
    known = storage.scheme(deploy_to) in ("", "file", *stores.BUCKETS)
    if not deploy_to or not known or Path(storage.absolute(deploy_to)).is_file():
        rule = f"deploy_to must be {NOWHERE}, {KSERVE}, or a model repository"
        raise InputError(rule, deploy_to, "Name a folder, or one in a bucket as s3://bucket/folder; it need not be there.")
    storage.check_writable(deploy_to, "deploy_to")
    publishing.check_name(deploy_to, model_name)


class Decision(NamedTuple):
    """What a model is to be trained from.

    Attributes:
        fingerprint: of the pictures; see `catalog.fingerprint`.
        trained_from: a hash of the fingerprint and of the fields that decide what the model becomes.
        unchanged: whether the deployed model was trained from the very same; false where nobody asked.
    """

    fingerprint: str
    trained_from: str
    unchanged: bool


class Proven(NamedTuple):
    """What `check_serving` found.

    Attributes:
        figures: pictures asked about, largest_difference to the evaluation, and median_seconds of a request; empty where
            nothing was proven.
        to_be_deployed: whether the model is accepted, proven and new, and is to be deployed somewhere.
    """

    figures: dict[str, Any]
    to_be_deployed: bool


def decide_training(
    images_uri: str,
    leave_out_uri: str,
    recipe: str,
    skip_unchanged: bool,
    deploy_to: str,
    model_name: str,
    settings: Mapping[str, Any],
) -> Decision:
    """Says what a model would be trained from, and whether the one that is deployed was trained from the very same.

    Args:
        images_uri, leave_out_uri: of the pictures, as `catalog.fingerprint` takes them.
        recipe: a hash of the fields that decide what the model becomes, as `parameters.check_run` gives it.
        skip_unchanged: whether to look at what is deployed.
        deploy_to: where, `kserve` or a repository.
        model_name: the model's.
        settings: what `parameters.of_deployment` gives.

    Raises:
        InputError: what the store or the cluster says.
    """
    fingerprint = catalog.fingerprint(images_uri, leave_out_uri)
    trained_from = hashlib.sha256(f"{fingerprint} {recipe}".encode()).hexdigest()
    unchanged = skip_unchanged and _is_deployed(trained_from, deploy_to, model_name, settings)
    if unchanged:
        results.announce(f"nothing new: neither the images nor the fields have changed since {model_name} was deployed")
    elif skip_unchanged:
        print(f"pictures or fields have changed since {model_name} was deployed, or it was not")
    return Decision(fingerprint, trained_from, unchanged)


def _is_deployed(trained_from: str, deploy_to: str, model_name: str, settings: Mapping[str, Any]) -> bool:
    if deploy_to == KSERVE:
        from kfp_vision import inference_service  # as in check_target

        return inference_service.is_from(model_name, trained_from, settings)
    return publishing.is_from(storage.absolute(deploy_to), trained_from)


def check_serving(
    model: Path,
    verdict: Path,
    validation_records: Path,
    test_records: Path,
    proof: Path,
    *,
    deploy_to: str = NOWHERE,
    accepted: bool = True,
) -> Proven:
    """Serves the model with the real server, asks it over HTTP, and compares with what the evaluation found.

    Of a model that is not accepted, or about which nothing is new, nothing is proven: the proof is then of no model.

    Args:
        model: the model folder.
        verdict: the evaluation's, of this very model.
        validation_records, test_records: the pictures that it was evaluated on.
        proof: the file to write (JSON).
        deploy_to: where the model is to be deployed.
        accepted: whether it is accepted, and anything about it is new.

    Raises:
        InputError: the records are not whole, the server does not start on it, or answers otherwise than the evaluation.
    """
    version, judged = repository.exported(model), _read(verdict)
    _check_same(version, judged, "verdict")
    if not accepted:
        why = "the deployed model is of the very same" if judged["verdict"]["accepted"] else "the model is not accepted"
        print(f"nothing to prove: {why}")
        storage.write_json(proof, {"model_fingerprint": "", "not_proven": why})
        return Proven({}, False)
    expected = {answer["name"]: answer["probabilities"] for answer in judged["answers"]}
    held_out = records.read(records.held_out(validation_records, test_records))
    asked = {name: encoded for name, encoded, _ in held_out if name in expected}
    with server.running(model) as url:
        service = Service(url)
        answers, seconds = {}, []
        for name, encoded in asked.items():
            start = time.perf_counter()
            (answers[name],) = service.classify([encoded])
            seconds.append(time.perf_counter() - start)
    difference = max(_difference(answers[name], expected[name]) for name in asked)
    if not difference <= LARGEST_DIFFERENCE:
        rule = f"a server must answer as the evaluation did, to {LARGEST_DIFFERENCE:g}"
        raise InputError(rule, f"a difference of {difference:.3g}", "Train or export the model again.")
    median = round(statistics.median(seconds), 4)
    figures = {"pictures": len(asked), "largest_difference": difference, "median_seconds": median}
    storage.write_json(proof, {"model_fingerprint": version.fingerprint, **figures})
    print(f"the server named {len(asked)} pictures as the evaluation did, to {difference:.1g}, in {1000 * median:.0f} ms each")
    return Proven(figures, deploy_to != NOWHERE)


def deploy_model(
    model: Path, uri: str, verdict: Path, proof: Path, deploy_to: str, settings: Mapping[str, Any], endpoint: Path
) -> dict[str, Any]:
    """Brings an accepted and proven model to where it answers from. Done twice, it is done once.

    Args:
        model: the model folder.
        uri: where that lies for others, as an artifact's address.
        verdict: the evaluation's, of this very model.
        proof: the one of `check_serving`, of this very model.
        deploy_to: a repository, which it becomes the newest version of, or `kserve`, for an InferenceService.
        settings: what `parameters.of_deployment` gives.
        endpoint: the file to write (JSON).

    Returns:
        What is written: kind and model_name; of a repository also repository and version, of KServe also what
        `inference_service.deploy` gives.

    Raises:
        InputError: refused by the verdict, verdict or proof of another model, a repository of another model, or what the store
            or the cluster says.
    """
    version, judged = repository.exported(model), _read(verdict)
    _check_same(version, judged, "verdict")
    _check_same(version, _read(proof), "proof")
    if not judged["verdict"]["accepted"]:
        reasons = "; ".join(judged["verdict"]["reasons"])
        raise InputError("a model must be accepted to be deployed", reasons, "Train a better one, or ask for less.")
    check_target(deploy_to, version.name, settings)
    if deploy_to == KSERVE:
        from kfp_vision import inference_service  # as in check_target

        about: dict[str, Any] = {"kind": KSERVE, **inference_service.deploy(version, uri, settings)}
        results.announce(f"{version.name} deployed to KServe in {about['namespace']}, where it answers at {about['url']}")
    else:
        where = storage.absolute(deploy_to)
        number = publishing.publish(version, where, int(settings["versions_kept"]))
        about = {"kind": "repository", "repository": where, "version": number, "model_name": version.name}
        results.announce(f"{version.name} deployed as version {number} in {where}")
    storage.write_json(endpoint, about)
    return about


def call_endpoint(
    endpoint: Path, validation_records: Path, test_records: Path, test_image_uri: str, answer: Path
) -> dict[str, Any]:
    """Asks what is deployed, over HTTP, what is on a picture; on a repository it starts the real server for that, here.

    A model that answers from KServe is asked until the answer is the new one's: a server of the one before may still be ending.

    Args:
        endpoint: the file of `deploy_model`.
        validation_records, test_records: pictures that the training held out.
        test_image_uri: the picture; empty for the first that was held out.
        answer: the file to write (JSON).

    Returns:
        What is written: picture, prediction, score, url.

    Raises:
        InputError: no server, no picture, or no answer of the model that was deployed.
    """
    picture, encoded, label = _question(validation_records, test_records, test_image_uri)
    deployed = _read(endpoint)
    with _asked(deployed) as url:
        service = Service(url)
        said = _answer_of_kserve(deployed, url, encoded) if deployed["kind"] == KSERVE else service.classify([encoded])[0]
    if isinstance(said, Refused):
        raise InputError("test_image_uri must name a picture that can be read", f"{picture} ({said})", "Give a JPEG or a PNG.")
    told = {"picture": picture, "label": label, "prediction": said.label, "score": said.score, "url": service.url}
    storage.write_json(answer, told)
    print(f"POST {service.url}")
    print(f"{picture} is called {said.label}, with {said.score:.0%} certainty{f'; it is {label}' if label else ''}")
    return told


def _question(validation_records: Path, test_records: Path, test_image_uri: str) -> tuple[str, bytes, str]:
    """(name, encoded, label) of the picture to ask about; the label where it is known."""
    if test_image_uri:
        return test_image_uri, storage.read_picture(test_image_uri, "test_image_uri"), ""
    return next(records.read(records.held_out(validation_records, test_records)))


@contextlib.contextmanager
def _asked(endpoint: Mapping[str, Any]) -> Iterator[str]:
    """The address to ask; of a repository that of the real server, as long as the body lasts."""
    if endpoint["kind"] == KSERVE:
        from kfp_vision import inference_service  # as in check_target

        yield inference_service.asked_at(endpoint)
        return
    with stored.brought(endpoint["repository"]) as path, server.running(path, endpoint["model_name"]) as url:
        yield url


def _answer_of_kserve(endpoint: Mapping[str, Any], url: str, encoded: bytes) -> Answer:
    """The deployed model's answer about a picture, over a new connection each time, since one leads to one server.

    Our server says which version it is. Of another one, and of ours before it said so, the pods tell it.

    Raises:
        InputError: no server, or only such as answer with another model.
    """
    from kfp_vision import inference_service  # as in check_target

    wanted, told, alone = endpoint["fingerprint"], "", False
    until = time.monotonic() + SECONDS_TO_TAKE_OVER
    while True:
        service = Service(url)
        (said,) = service.classify([encoded])
        if service.fingerprint == wanted or not endpoint["share"] or (alone and not service.fingerprint):
            return said
        if not service.fingerprint and inference_service.answers_alone(endpoint):  # so from here on, but maybe not before
            alone = True
            continue
        other = f"one of {service.fingerprint[:12]}" if service.fingerprint else "one that does not say of which model"
        if other != told:
            print(f"POST {service.url} gave {other}, and not of {wanted[:12]}; asked again", flush=True)
            told = other
        if time.monotonic() > until:
            rule = f"the deployed model must answer within {SECONDS_TO_TAKE_OVER:g} s of being ready"
            remedy = f"See kubectl -n {endpoint['namespace']} get pods, and which of them the address leads to."
            raise InputError(rule, f"{other} for {wanted[:12]} at {service.url}", remedy)
        time.sleep(PAUSE_SECONDS)


def _check_same(version: Version, judgement: Mapping[str, Any], what: str) -> None:
    if judgement["model_fingerprint"] != version.fingerprint:
        found = f"one of {judgement['model_fingerprint'][:12]} for {version.fingerprint[:12]}"
        raise InputError(f"the {what} must be of the model it is used for", found, "Connect the stages of one training.")


def _difference(answer: Prediction | Refused, expected: list[float]) -> float:
    if isinstance(answer, Refused) or len(answer.probabilities) != len(expected):
        return float("inf")
    return max(abs(one - other) for one, other in zip(answer.probabilities, expected, strict=True))


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
