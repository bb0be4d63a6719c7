"""Registers an accepted model in model registries. A failure of a registry is a warning: the model is not worse for it.

The warning is a result of the stage, so that it stands among the closing lines of the run, where somebody reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_vision import __version__
from kfp_vision.core import json_text
from kfp_vision.core.errors import InputError, redact
from kfp_vision.deployment import model_card
from kfp_vision.deployment.deploy import check_same
from kfp_vision.reports import results
from kfp_vision.repository import publish, registries
from kfp_vision.repository.registration import Registration
from kfp_vision.repository.version import HISTORY_FILE, Version, exported_version
from kfp_vision.storage import atomic, base, unwritable, uris

CARD_NAME, REPORT_NAME = "model_card.md", "report.html"  # as they are called in a registry
NOT_PARAMETERS = ("labels", "thresholds", "advanced", "preset", "model_name", "trained_from")


@dataclass(frozen=True)
class Judged:
    """A model with what the evaluation says of it.

    Attributes:
        model: The model folder.
        uri: Its URI, as an artifact's, from which others can read it.
        verdict: The evaluation's verdict on it.
        metrics: Metrics file of the evaluation.
        report: Page of the evaluation.
    """

    model: Path
    uri: str
    verdict: Path
    metrics: Path
    report: Path


@unwritable.in_one_line("registered")
def register_model(judged: Judged, register_in: str, origin: model_card.Origin, registered: Path) -> list[dict[str, Any]]:
    """Registers an accepted model in each registry, unless it is there already, by its fingerprint.

    Args:
        judged: The model.
        register_in: See `registries.parse_registries`.
        origin: Where the model comes from.
        registered: The file to write (JSON): `registries`, what is returned.

    Returns:
        For each registry kind, and version, is_new and place; or error if it failed.

    Raises:
        InputError: The model is not accepted, or the verdict is of another one.
    """
    version, verdict = exported_version(judged.model), json_text.read_object(judged.verdict)
    check_same(version, verdict, "verdict")
    if not verdict["verdict"]["accepted"]:
        reasons = "; ".join(verdict["verdict"]["reasons"])
        raise InputError("a model must be accepted to be registered", reasons, "Train a better one, or ask for less.")
    wanted = registries.parse_registries(register_in)
    with atomic.temporary_folder() as scratch:
        model = _describe(version, judged, origin, scratch)
        done = [_register(registry, model) for registry in wanted]
    atomic.write_json(registered, {"registries": done})
    return done


def _register(registry: registries.Registry, model: Registration) -> dict[str, Any]:
    kind = registries.REGISTRIES[registry.kind]
    try:
        found = kind.register(kind.connect(registry.address), model)
    except (Exception, InputError) as error:  # whatever a registry answers, the model is good
        said = str(error).removeprefix(InputError.PREFIX) if isinstance(error, InputError) else _not_understood(error)
        reason = redact(" ".join(said.split()))
        results.announce(f"warning: {model.name} is not registered in {registry.kind}: {reason} The run is good all the same.")
        return {"kind": registry.kind, "error": reason}
    relation = "registered in" if found.is_new else "is registered already in"
    results.announce(f"{model.name} {relation} {registry.kind} as version {found.version}")
    return {"kind": registry.kind, "version": found.version, "is_new": found.is_new, "place": found.place}


def _not_understood(error: Exception) -> str:
    return f"its answer is not understood ({type(error).__name__}: {error}). See its log, and whether the address is right."


def _describe(version: Version, judged: Judged, origin: model_card.Origin, scratch: Path) -> Registration:
    evaluation = json_text.read_object(judged.metrics)
    (scratch / CARD_NAME).write_text(model_card.model_card(version, evaluation, origin), encoding="utf-8")
    tags = {
        "network": version.about.get("network", ""),
        "classes": str(len(version.labels)),
        "split": evaluation.get("split", ""),
        "images": str(evaluation.get("images", "")),
        "data_fingerprint": origin.data_fingerprint,
        "trained_from": version.about.get("trained_from", ""),
        "pipeline": origin.pipeline,
        "kfp_run_id": origin.run_id,
        "kfp_vision": version.about.get("kfp_vision", __version__),
    }
    return Registration(
        name=version.name,
        fingerprint=version.fingerprint,
        uri=_uri_for_others(version, judged.uri, str(origin.form.get("deploy_to", ""))),
        card=(scratch / CARD_NAME).read_text(encoding="utf-8"),
        parameters=_parameters(version.about),
        figures=model_card.figures(evaluation),
        curves=json_text.parse((judged.model / HISTORY_FILE).read_text(encoding="utf-8")),
        files={CARD_NAME: scratch / CARD_NAME, REPORT_NAME: judged.report},
        tags={name: value for name, value in tags.items() if value},
        run_name=origin.run_name,
        run_id=origin.run_id,
    )


def _uri_for_others(version: Version, uri: str, deploy_to: str) -> str:
    """Returns where others read a model: its artifact, or, if only this machine has that, its copy in a bucket."""
    repository = uris.from_field(deploy_to)
    if uris.scheme_of(uri) not in ("", "file") or uris.scheme_of(repository) not in base.BUCKETS:
        return uri
    try:
        newest_first = reversed(publish.repository_at(repository).versions())
        copy = next((one for one in newest_first if one.is_copy_of(version)), None)
    except InputError as error:  # of the store; the model is good all the same
        print(f"warning: looks for no copy in {repository}: {str(error).removeprefix(InputError.PREFIX)}", flush=True)
        return uri
    return uris.join_uri(repository, str(copy.number)) if copy else uri


def _parameters(about: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fields of the recipe as texts, those of advanced by their own names."""
    fields = {name: value for name, value in about.items() if name not in NOT_PARAMETERS}
    fields |= {f"advanced.{name}": value for name, value in (about.get("advanced") or {}).items()}
    return {name: redact(model_card.field_text(value)) for name, value in fields.items() if value not in ("", None)}
