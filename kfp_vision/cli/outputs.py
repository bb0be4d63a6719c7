"""Collects a run's results into the output folder."""

import json
import shutil
from pathlib import Path
from typing import Any

from kfp_vision.repository.version import exported_version


def collect_results(run_dir: Path) -> dict[str, Any]:
    """Collects the results of a run and links them at the top of its folder.

    Args:
        run_dir: the run's folder.

    Returns:
        run_dir, and report if there is one. In addition,
        for records: records (their folder), pictures (number of images by split) and refused (number of rejected images);
        for predictions: predictions (a table), pictures, unreadable, and accuracy if folder names give the
            labels (of several labels exact_match_ratio);
        for an index: index (its folder), pictures and refused, and if those stages ran nearest (a table), findings (a table),
            audit (a report) and deployed (the output of `deploy_index`);
        for a review: chosen (a table), tasks (for Label Studio), pictures, unreadable, review (number of images chosen) and
            several (whether an image may have several labels);
        for a check for drift: what `collection.drift.Drift` holds;
        for a training: model_dir, accuracy (of several labels mean_average_precision), accepted, reasons, and if those stages
            ran trials (a table), endpoint and answer (the outputs of `deploy_model` and `call_endpoint`), exports (a folder)
            and predictions.
    """
    for stage, collector in COLLECTORS.items():
        if list(run_dir.glob(f"*/{stage}")):
            return collector(run_dir)
    raise AssertionError("every pipeline has one of these stages")


def _collect_records(run_dir: Path) -> dict[str, Any]:
    from kfp_vision.dataset.table import read_unused  # needs packages that the plain install lacks

    (joined,) = run_dir.glob("*/join-records")
    records = run_dir / "records"
    records.mkdir()
    images = {}
    for split in ("train", "validation", "test"):
        folder = joined / f"{split}_records"
        shutil.copytree(folder, records / split, copy_function=_link)
        images[split] = json.loads((folder / "records.json").read_text(encoding="utf-8"))["images"]
    for file in (joined.parent / "split-images" / "label_map").iterdir():
        shutil.copyfile(file, records / file.name)
    shutil.copyfile(joined / "refused", records / "refused.csv")
    shutil.copyfile(joined / "summary", run_dir / "report.html")
    refused = len(read_unused(joined / "refused"))
    found = {"records": str(records), "pictures": images, "refused": refused, "report": str(run_dir / "report.html")}
    return {"run_dir": str(run_dir), **found}


def _link(file: str, place: str) -> None:
    """Hard-links a file, so that the folder of records can be moved or mounted without taking space twice."""
    from kfp_vision.storage import atomic  # needs packages that the plain install lacks

    atomic.hard_link(Path(file), Path(place))


def _collect_model(run_dir: Path) -> dict[str, Any]:
    (evaluation,) = run_dir.glob("*/evaluate-classifier")
    artifacts = evaluation.parent
    shutil.copyfile(evaluation / "report", run_dir / "report.html")
    trained = next(artifacts / stage for stage in ("compare-trials", "train-classifier") if (artifacts / stage).exists())
    (run_dir / "model").symlink_to((trained / "model").relative_to(run_dir))
    figures = json.loads((evaluation / "metrics").read_text(encoding="utf-8"))
    result = {
        "run_dir": str(run_dir),
        "model_dir": str(run_dir / "model"),
        "report": str(run_dir / "report.html"),
        **{name: figures[name] for name in ("accuracy", "mean_average_precision") if name in figures},
        **figures["verdict"],
    }
    for output, name in (("trials", "trials.csv"), ("page", "trials.html")):
        if (artifacts / "compare-trials" / output).exists():
            shutil.copyfile(artifacts / "compare-trials" / output, run_dir / name)
            result |= {"trials": str(run_dir / name)}
    for stage, output in (("deploy-model", "endpoint"), ("call-endpoint", "answer")):
        if (artifacts / stage / output).exists():
            result[output] = json.loads((artifacts / stage / output).read_text(encoding="utf-8"))
    if (artifacts / "export-model" / "exports").exists():
        (run_dir / "exports").symlink_to((artifacts / "export-model" / "exports").relative_to(run_dir))
        shutil.copyfile(artifacts / "export-model" / "report", run_dir / "exports.html")
        result["exports"] = str(run_dir / "exports")
    if (artifacts / "predict-images" / "predictions").exists():
        shutil.copyfile(artifacts / "predict-images" / "predictions", run_dir / "predictions.csv")
        result["predictions"] = str(run_dir / "predictions.csv")
    return result


def _collect_predictions(run_dir: Path) -> dict[str, Any]:
    (joined,) = run_dir.glob("*/join-predictions")
    shutil.copyfile(joined / "predictions", run_dir / "predictions.csv")
    figures = json.loads((joined / "metrics").read_text(encoding="utf-8"))
    shown = {name: figures[name] for name in ("pictures", "unreadable", "accuracy", "exact_match_ratio") if name in figures}
    return {"run_dir": str(run_dir), "predictions": str(run_dir / "predictions.csv")} | shown


def _collect_index(run_dir: Path) -> dict[str, Any]:
    (indexed,) = run_dir.glob("*/join-index")
    (run_dir / "index").symlink_to((indexed / "index").relative_to(run_dir))
    figures = json.loads((indexed / "metrics").read_text(encoding="utf-8"))
    result = {"run_dir": str(run_dir), "index": str(run_dir / "index")}
    result |= {name: figures[name] for name in ("pictures", "refused")}
    searched = indexed.parent / "search-images"
    if (searched / "found").exists():
        shutil.copyfile(searched / "found", run_dir / "nearest.csv")
        shutil.copyfile(searched / "page", run_dir / "report.html")
        result |= {"nearest": str(run_dir / "nearest.csv"), "report": str(run_dir / "report.html")}
    audited = indexed.parent / "audit-images"
    if (audited / "findings").exists():
        shutil.copyfile(audited / "findings", run_dir / "findings.csv")
        shutil.copyfile(audited / "page", run_dir / "audit.html")
        result |= {"findings": str(run_dir / "findings.csv"), "audit": str(run_dir / "audit.html")}
    if (deployed := indexed.parent / "deploy-index" / "deployed").exists():
        result["deployed"] = json.loads(deployed.read_text(encoding="utf-8"))
    return result


def _collect_review(run_dir: Path) -> dict[str, Any]:
    (reviewed,) = run_dir.glob("*/review-images")
    for output, name in (("chosen", "chosen.csv"), ("tasks", "tasks.json"), ("page", "report.html")):
        shutil.copyfile(reviewed / output, run_dir / name)
    figures = json.loads((reviewed / "metrics").read_text(encoding="utf-8"))
    return {
        "run_dir": str(run_dir),
        "report": str(run_dir / "report.html"),
        "chosen": str(run_dir / "chosen.csv"),
        "tasks": str(run_dir / "tasks.json"),
        "review": figures["chosen"],
        "several": exported_version(reviewed.parent / "fetch-model" / "model").several,
        **{name: figures[name] for name in ("pictures", "unreadable")},
    }


def _collect_drift(run_dir: Path) -> dict[str, Any]:
    (compared,) = run_dir.glob("*/check-drift")
    shutil.copyfile(compared / "page", run_dir / "report.html")
    figures = json.loads((compared / "metrics").read_text(encoding="utf-8"))
    return {"run_dir": str(run_dir), "report": str(run_dir / "report.html"), **figures}


# By the stage that the run reached; the first match applies.
COLLECTORS = {
    "evaluate-classifier": _collect_model,
    "join-predictions": _collect_predictions,
    "join-records": _collect_records,
    "join-index": _collect_index,
    "review-images": _collect_review,
    "check-drift": _collect_drift,
}
