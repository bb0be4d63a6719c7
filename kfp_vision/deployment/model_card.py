"""Writes the papers of a model: the model card, the pipeline with the values of its run, and the same facts for programs.

The front matter is the one that Hugging Face reads (https://huggingface.co/docs/hub/model-cards, and `modelcard_template.md` of
huggingface_hub for the sections). The card prints what the metrics hold, whatever the task: every number and its interval.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from kfp_vision import __version__
from kfp_vision.core import json_text
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import redact
from kfp_vision.core.values import normalize_numbers
from kfp_vision.reports.formatting import percent, plural
from kfp_vision.repository.papers import CARD_FILE, PAPERS_FILE, PIPELINE_FILE, hash_metadata
from kfp_vision.repository.version import Version
from kfp_vision.storage import atomic

INTERVAL = "_interval"  # of the name of a figure's 95 % confidence interval in the metrics
NOT_FIGURES = ("images",)
NOT_COLUMNS = ("curve",)  # keys of a class that are no figures
MAX_CONFUSED_PAIRS = 5
MARKUP = re.compile(r"[\\|<`*]")  # what Markdown takes for more than text, wherever it is
Z = 1.959964  # 97.5 % quantile of the normal distribution: 95 % of it lie between -Z and Z


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        pipeline: Name of the pipeline, such as `image-classification`; empty if unknown.
        form: Value of every field of the run form, by name; empty if unknown.
        data_fingerprint: Hash of the images, from `decide_training` or `fingerprint_images`; empty if unknown.
        run_name: Name of the run; empty if unknown.
        run_id: KFP's id of the run; empty if unknown.
    """

    pipeline: str = ""
    form: Mapping[str, Any] = field(default_factory=dict)
    data_fingerprint: str = ""
    run_name: str = ""
    run_id: str = ""


@dataclass(frozen=True)
class Sources:
    """What the papers of a model are written from.

    Attributes:
        metrics: Metrics file of the evaluation.
        origin: Where the model comes from.
        card: Where to write the model card besides (Markdown).
    """

    metrics: Path
    origin: Origin
    card: Path


def figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Picks the figures of an evaluation: its numbers at the top level, such as accuracy; the most important one first.

    Args:
        evaluation: Content of the metrics file.
    """
    numbers = {name: value for name, value in evaluation.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if not isinstance(value, bool) and name not in NOT_FIGURES}


def write_papers(version: Version, evaluation: Mapping[str, Any], origin: Origin, folder: Path) -> dict[str, Any]:
    """Writes the papers of a model.

    Args:
        version: The exported model.
        evaluation: Content of the metrics file of its evaluation.
        origin: Where it comes from.
        folder: Folder to create: `README.md`, `papers.json` and, if the pipeline is one of this library's, `pipeline.yaml`.

    Returns:
        The content of `papers.json`.
    """
    facts = {
        "model_name": version.name,
        "fingerprint": version.fingerprint,
        "metadata": hash_metadata(version.about),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "kfp_vision": __version__,
        "network": version.about.get("network", ""),
        "split": evaluation.get("split", ""),
        "images": evaluation.get("images", 0),
        "figures": figures(evaluation),
        "intervals": {name: evaluation[name + INTERVAL] for name in figures(evaluation) if name + INTERVAL in evaluation},
        "verdict": evaluation.get("verdict", {}),
        "pipeline": origin.pipeline,
        "form": _without_secrets(origin.form),
        "data_fingerprint": origin.data_fingerprint,
        "run_name": origin.run_name,
        "run_id": origin.run_id,
    }
    with atomic.replacing(folder) as beside:
        beside.mkdir(parents=True)
        (beside / CARD_FILE).write_text(model_card(version, evaluation, origin), encoding="utf-8")
        if compiled := pipeline_with_values(origin):
            (beside / PIPELINE_FILE).write_text(compiled, encoding="utf-8")
        atomic.write_json(beside / PAPERS_FILE, facts)
    return facts


def pipeline_with_values(origin: Origin) -> str:
    """Returns the compiled pipeline whose defaults are the values of a run: uploaded and started, it repeats the run.

    Its container images are those of the compiled file in this package.

    Args:
        origin: Where the model comes from.

    Returns:
        The YAML; empty if the pipeline is unknown or not one of this library's.
    """
    spec = find_spec("kfp_vision.pipelines")  # found and not imported, since KFP takes seconds
    places = list(spec.submodule_search_locations or []) if spec else []
    file = Path(places[0]) / f"{origin.pipeline.replace('-', '_')}.yaml" if places and origin.pipeline else None
    if file is None or not file.is_file():
        return ""
    pipeline, *platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    for name, parameter in pipeline["root"].get("inputDefinitions", {}).get("parameters", {}).items():
        if name in origin.form:
            parameter["defaultValue"] = _without_secrets(origin.form[name])
    text: str = yaml.safe_dump_all([pipeline, *platform], sort_keys=True, allow_unicode=True)
    return text


def _without_secrets(value: Any) -> Any:
    """Returns a value of a form without the secrets of addresses, and with whole numbers as such."""
    if isinstance(value, Mapping):
        return {name: _without_secrets(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_secrets(one) for one in value]
    return redact(value) if isinstance(value, str) else normalize_numbers(value)


def model_card(version: Version, evaluation: Mapping[str, Any], origin: Origin) -> str:
    """Returns the model card.

    Args:
        version: The exported model.
        evaluation: Content of the metrics file of its evaluation.
        origin: Where it comes from.

    Returns:
        Markdown with front matter.
    """
    parts = (
        f"---\n{yaml.safe_dump(_front_matter(version, evaluation, origin), sort_keys=False, allow_unicode=True)}---",
        f"# {as_text(version.name)}",
        *_purpose(version, evaluation),
        "## Classes",
        *_classes(version, evaluation),
        "## Data",
        *_data(version, evaluation, origin),
        "## Recipe",
        *_recipe(version),
        "## Figures",
        *_figures(evaluation),
        "## Gate",
        *_gate(evaluation),
        "## Calibration",
        *_calibration(version, evaluation),
        "## Known weaknesses",
        *_weaknesses(evaluation),
        "## Licences",
        *_licences(version, origin),
        "## Origin",
        *_origin(version, origin),
    )
    return redact("\n\n".join(part for part in parts if part)) + "\n"


def _front_matter(version: Version, evaluation: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    data = str(origin.form.get("images_uri") or origin.form.get("records_uri") or "images")
    split = evaluation.get("split") or "validation"
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": redact(data), "type": "imagefolder", "split": split},
        "metrics": [{"type": name, "value": round(value, 4)} for name, value in figures(evaluation).items()],
    }
    measured = {"model-index": [{"name": version.name, "results": [result]}]} if result["metrics"] else {}
    return {
        "license": "unknown",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "kfp-vision", "tensorflow", "openvino", *_given(version.about.get("network"))],
        **measured,
    }


def _given(value: Any) -> list[str]:
    return [str(value)] if value else []


def _purpose(version: Version, evaluation: Mapping[str, Any]) -> list[str]:
    labels = version.labels
    several = version.about.get("labels_per_image") == "several"
    task = "Says which of" if several else "Says to which of"
    verb = "an image shows" if several else "an image belongs"
    if not evaluation.get("images"):
        return [f"{task} {plural(len(labels), 'class', 'classes')} {verb}.", "It was not measured on any image."]
    seen = f"It was measured on {plural(evaluation.get('images', 0), 'image', 'images')} like those it was trained on; " + (
        "of other images, such as those of another camera, the figures below say nothing."
    )
    return [f"{task} {plural(len(labels), 'class', 'classes')} {verb}.", seen]


def _classes(version: Version, evaluation: Mapping[str, Any]) -> list[str]:
    rows = _class_rows(evaluation) or [{"label": label} for label in version.labels]
    split = evaluation.get("split")
    held_out = f"The images are those of the {split} split, which the model was not trained on." if split else ""
    return [_table(tuple(rows[0]), (tuple(row.values()) for row in rows)) if rows else "", held_out]


def _class_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the figures of each class, or of each label where images have several."""
    rows = evaluation.get("per_class") or evaluation.get("per_label") or []
    return [{name: value for name, value in row.items() if name not in NOT_COLUMNS} for row in rows]


def _data(version: Version, evaluation: Mapping[str, Any], origin: Origin) -> list[str]:
    form = origin.form
    rows = [
        ("images", form.get("images_uri") or form.get("records_uri")),
        ("left out", form.get("leave_out_uri")),
        ("fingerprint of the images", origin.data_fingerprint),
        ("fingerprint of images and fields", version.about.get("trained_from")),
        *((name, field_text(form[name])) for name in ("validation_ratio", "test_ratio") if name in form),
        ("evaluated on", f"{evaluation['images']} images, {evaluation.get('split', '')}" if evaluation.get("images") else ""),
    ]
    return [_table(("what", "value"), (row for row in rows if row[1] not in (None, "")))]


def _recipe(version: Version) -> list[str]:
    left_out = ("labels", "thresholds", "advanced", "preset", "trained_from", "model_name")
    rows = {name: value for name, value in version.about.items() if name not in left_out and value not in ("", None)}
    preset = version.about.get("preset") or {}
    chosen = f"Recipe {preset['recipe']}: {preset['why']}." if preset.get("recipe") and preset.get("why") else ""
    usual = asdict(Advanced())
    changed = {name: value for name, value in (version.about.get("advanced") or {}).items() if value != usual.get(name)}
    rows |= {f"advanced.{name}": value for name, value in changed.items()}
    return [chosen, _table(("field", "value"), ((name, field_text(value)) for name, value in rows.items()))]


def _figures(evaluation: Mapping[str, Any]) -> list[str]:
    def interval(name: str) -> str:
        bounds = evaluation.get(name + INTERVAL)
        return " to ".join(_shown(bound) for bound in bounds) if bounds else ""

    rows = ((name, value, interval(name)) for name, value in figures(evaluation).items())
    by_size = [(f"{row['low']} to {row['high']}", *list(row.values())[2:]) for row in evaluation.get("by_size") or []]
    names = ("shorter side in pixels", *list((evaluation.get("by_size") or [{}])[0])[2:])
    if not figures(evaluation):
        return ["None was measured."]
    return [_table(("figure", "value", "95 % interval"), rows), _table(names, by_size) if by_size else ""]


def _gate(evaluation: Mapping[str, Any]) -> list[str]:
    verdict = evaluation.get("verdict") or {}
    word = "Not judged" if not verdict else "Accepted" if verdict["accepted"] else "Rejected"
    return [f"{word}.", "\n".join(f"- {as_text(reason)}" for reason in verdict.get("reasons", []))]


def _calibration(version: Version, evaluation: Mapping[str, Any]) -> list[str]:
    error = (evaluation.get("calibration") or {}).get("expected_calibration_error")
    measured = f"Expected calibration error {_shown(error)}." if error is not None else "Not measured."
    if version.temperature == 1:
        return [f"Scores are not calibrated. {measured}"]
    return [f"Scores are calibrated, by a temperature of {_shown(version.temperature)}. {measured}"]


def _weaknesses(evaluation: Mapping[str, Any]) -> list[str]:
    weak = [f"- {as_text(label)}: {finding}" for label, finding in weak_classes(evaluation).items()]
    pairs = [
        f"- {plural(pair['images'], 'image', 'images')} of {as_text(pair['label'])} taken for {as_text(pair['prediction'])}"
        for pair in (evaluation.get("confused_pairs") or [])[:MAX_CONFUSED_PAIRS]
    ]
    found = ["Classes that are found significantly less often than the others:\n\n" + "\n".join(weak)] if weak else []
    confused = ["Most frequent confusions:\n\n" + "\n".join(pairs)] if pairs else []
    return [*found, *confused] or ["None is known."]


def weak_classes(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """Finds the classes whose recall is significantly below that over all images.

    Args:
        evaluation: Content of the metrics file, with label, recall and images of each class in per_class or per_label.

    Returns:
        What is known of each such class, by its label, the weakest first.
    """
    rows = [row for row in _class_rows(evaluation) if row.get("images") and row.get("recall") is not None]
    total = sum(row["images"] for row in rows)
    mean = sum(row["recall"] * row["images"] for row in rows) / total if total else 0.0
    # Rounding may put the bound of a class that is always found below 1.
    weak = [row for row in rows if row["recall"] < mean and _upper_bound(row["recall"], row["images"]) < mean]
    return {
        row["label"]: f"{percent(row['recall'])} of {plural(row['images'], 'image', 'images')}, of all {percent(mean)}"
        for row in sorted(weak, key=lambda row: row["recall"])
    }


def _upper_bound(share: float, count: int) -> float:
    """Returns the upper bound of the 95 % confidence interval of a share (Wilson, 1927)."""
    centre = share + Z**2 / (2 * count)
    return (centre + Z * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))) / (1 + Z**2 / count)


def _licences(version: Version, origin: Origin) -> list[str]:
    checkpoint = version.about.get("checkpoint_uri") if version.about.get("fine_tune") else ""
    weights = f"- weights: it was trained from {as_text(checkpoint)}, under the licence of these" if checkpoint else ""
    data = origin.form.get("images_uri") or origin.form.get("records_uri")
    lines = (
        "- code: kfp-vision, Apache License 2.0",
        weights or "- weights: it was trained from random weights",
        f"- images: those of {as_text(data)}, under the licence of these" if data else "- images: not recorded",
    )
    return ["The licence of the model follows from:", "\n".join(lines)]


def _origin(version: Version, origin: Origin) -> list[str]:
    run = f"{origin.run_name} ({origin.run_id})" if origin.run_id else origin.run_name
    rows = (
        ("fingerprint of the model", version.fingerprint),
        ("pipeline", origin.pipeline),
        ("run", run),
        ("kfp-vision", version.about.get("kfp_vision", __version__)),
    )
    return [_table(("what", "value"), (row for row in rows if row[1]))]


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *([_shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def field_text(value: Any) -> str:
    """Returns the value of a field as JSON, without quotes around a text.

    Args:
        value: the value.
    """
    return value if isinstance(value, str) else json_text.write(normalize_numbers(value))


def _shown(value: Any) -> str:
    """Returns the content of a cell: a figure with four decimals, none as nothing, anything else on one line."""
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else as_text(field_text(value))


def as_text(text: str) -> str:
    """Returns a text on one line that Markdown shows as it is, since the name of a class may be HTML or look like a table.

    Args:
        text: Such as the name of a class, which comes from a folder's.
    """
    printable = "".join(character if character.isprintable() else " " for character in text)
    return MARKUP.sub(r"\\\g<0>", " ".join(printable.split()))
