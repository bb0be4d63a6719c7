"""Exports an accepted model to the formats asked for, and keeps those that lose nothing beyond chance."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from kfp_vision.core import children, json_text, values
from kfp_vision.core.errors import InputError
from kfp_vision.evaluation.multilabel_metrics import MultilabelPredictions, mean_average_precision
from kfp_vision.exports import compare, convert, crops, formats
from kfp_vision.exports.compare import AnyComparison, HeldOut
from kfp_vision.exports.formats import Format
from kfp_vision.records.records_folder import choose_evaluation_records, verify_records
from kfp_vision.reports import pages, results
from kfp_vision.repository.published_exports import publish_exports
from kfp_vision.repository.version import EXPORTS_FILE, Version, exported_version
from kfp_vision.storage import atomic, unwritable


class Records(NamedTuple):
    """Folders of records.

    Attributes:
        train: training images, for the calibration of int8.
        validation: validation images; may be empty.
        test: test images; may be empty.
    """

    train: Path
    validation: Path
    test: Path


@unwritable.in_one_line("exports")
def export_model(
    model: Path,
    verdict: Path,
    records: Records,
    wanted: str,
    exports: Path,
    page: Path,
    *,
    deploy_to: str = values.NOWHERE,
    seed: int = 0,
) -> dict[str, Any]:
    """Converts an accepted model, scores each file on the held-out images of the evaluation, and keeps those that pass.

    A file is refused, and not kept, if it is significantly worse than the model on the same images, or if it cannot be made
    or run; the table and the page say why.

    Args:
        model: the model folder.
        verdict: the evaluation's verdict on this model; must accept it.
        records: to calibrate and to compare on.
        wanted: names of formats, comma-separated.
        exports: folder to write: a folder per format that is kept, and `exports.json`, the table.
        page: the page to write (HTML).
        deploy_to: deployment target; a model repository gets a copy of `exports`.
        seed: of the choice of images for the calibration.

    Returns:
        The table: model_name, model_fingerprint, split, images, model (accuracy, bytes and milliseconds of the model itself)
        and formats, a row per format, see `compare.Comparison`. Where images have several labels, the model has
        mean_average_precision instead of accuracy, and the rows are those of `compare.MultilabelComparison`.

    Raises:
        InputError: the model is not accepted, the records are damaged, a package is missing, or the repository cannot be
            written to.
    """
    asked = formats.parse_formats(wanted)
    formats.check_packages(asked)
    version = exported_version(model)
    _check_verdict(version, json_text.read_object(verdict))
    folder = choose_evaluation_records(records.validation, records.test)
    about = verify_records(folder)
    with atomic.replacing(exports) as beside, atomic.scratch_folder(exports) as scratch:
        beside.mkdir()
        calibration = scratch / "calibration.npy"
        calibrated = 0
        if any(form.calibrated for form in asked):
            calibrated = crops.write_calibration_crops(version, records.train, calibration, seed)
        try:
            held_out = compare.score_model(version, folder, scratch)
        except children.ChildFailed as reason:
            raise InputError("a model must run on the held-out images", str(reason), "Train or export it again.") from None
        rows = [_export(form, version, beside, calibration, held_out, scratch) for form in asked]
        table = {
            "model_name": version.name,
            "model_fingerprint": version.fingerprint,
            "split": about.split,
            "images": about.images,
            "calibration_images": calibrated,
            "model": _own_row(version, held_out),
            "formats": [asdict(row) for row in rows],
        }
        atomic.write_json(beside / EXPORTS_FILE, table)
    pages.write_exports_page(page, table)
    publish_exports(exports, deploy_to)
    kept = ", ".join(row.format for row in rows if row.accepted) or "no format"
    refused = "".join(f"; refused {row.format}: {row.reason}" for row in rows if not row.accepted)
    results.announce(f"exported {kept}{refused}")
    return table


def figures_of_kept(table: Mapping[str, Any]) -> dict[str, float]:
    """Returns the accuracy of each format that is kept, or its mean average precision where images have several labels.

    Args:
        table: as `export_model` returns it.
    """
    figure = "mean_average_precision" if "mean_average_precision" in table["model"] else "accuracy"
    return {row["format"]: row[figure] for row in table["formats"] if row["accepted"]}


def _check_verdict(version: Version, verdict: Mapping[str, Any]) -> None:
    """Refuses a verdict on another model, and one that rejects this one."""
    if verdict["model_fingerprint"] != version.fingerprint:
        found = f"one of {verdict['model_fingerprint'][:12]} for {version.fingerprint[:12]}"
        raise InputError("the verdict must be of the model it is used for", found, "Connect the stages of one training.")
    if not verdict["verdict"]["accepted"]:
        reasons = "; ".join(verdict["verdict"]["reasons"])
        raise InputError("a model must be accepted to be exported", reasons, "Train a better one, or ask for less.")


def _export(
    form: Format, version: Version, exports: Path, calibration: Path, held_out: HeldOut, scratch: Path
) -> AnyComparison:
    """Converts to a format and compares; removes the folder again if the file is refused."""
    folder = exports / form.name
    try:
        file = convert.convert(version, form, folder, calibration)
        row = compare.compare_file(form, file, held_out, scratch)
    except children.ChildFailed as reason:
        row = compare.refuse(form, f"cannot be made or run: {reason}", held_out)
    if not row.accepted:
        shutil.rmtree(folder)
    print(f"{form.name}: {'kept' if row.accepted else 'refused'}, {row.reason}", flush=True)
    return row


def _own_row(version: Version, held_out: HeldOut) -> dict[str, Any]:
    """Returns what the table says of the model itself."""
    predictions, size = held_out.predictions, sum(file.stat().st_size for file in version.files.values())
    if isinstance(predictions, MultilabelPredictions):
        reached = mean_average_precision(predictions.truth, predictions.probabilities)
        figure = {"mean_average_precision": reached}
    else:
        figure = {"accuracy": float(predictions.correct.mean())}
    return {**figure, "bytes": size, "milliseconds": held_out.milliseconds}
