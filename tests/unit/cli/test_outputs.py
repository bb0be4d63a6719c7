"""The results of a run, collected from the outputs of its stages."""

import csv
import json

import pytest
from support.exported_model import version

from kfp_vision.cli import commands, outputs
from kfp_vision.dataset import table
from kfp_vision.prediction import batch

COUNTS = {"pictures": 9, "unreadable": 1, "labelled": 7, "right": 5}


@pytest.mark.parametrize(
    ("several", "name", "line"),
    [
        (False, "accuracy", "accuracy  0.7143 on images in folders named after their labels"),
        (True, "exact_match_ratio", "exact     0.7143 of the images whose labels are given get exactly these"),
    ],
)
def test_what_predictions_reach_is_called_by_its_name(tmp_path, capsys, several, name, line):
    joined = tmp_path / "pipeline" / "join-predictions"
    joined.mkdir(parents=True)
    (joined / "predictions").write_text("path,label,prediction,score,known,known_score\n")
    (joined / "metrics").write_text(json.dumps(COUNTS | batch.summary_metrics(COUNTS, several=several)))
    result = outputs.collect_results(tmp_path)
    assert result.keys() == {"run_dir", "predictions", "pictures", "unreadable", name}
    assert result[name] == 5 / 7
    commands._show_predictions(result)
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_a_rejected_model_of_a_sweep_is_not_taken_for_its_trials(capsys):
    reasons = {"accepted": False, "reasons": ["accuracy 0.2 is below min_accuracy 0.9"]}
    commands._show_model({"accuracy": 0.2, "model_dir": "run/model", "trials": "run/trials.html"} | reasons)
    assert capsys.readouterr().out.splitlines()[3:] == [
        "trials    run/trials.html",
        "verdict   rejected, not deployed: accuracy 0.2 is below min_accuracy 0.9",
    ]


def test_rejected_images_with_cells_beyond_the_limit_of_csv_are_counted(tmp_path):
    stage, joined = tmp_path / "pipeline" / "split-images" / "label_map", tmp_path / "pipeline" / "join-records"
    stage.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (joined / f"{split}_records").mkdir(parents=True)
        (joined / f"{split}_records" / "records.json").write_text('{"images": 1}')
    (joined / "summary").write_text("")
    table.write_unused(joined / "refused", [("a.jpg", "x" * 200_000, "damaged")])
    csv.field_size_limit(131_072)  # Python's
    assert outputs.collect_results(tmp_path)["refused"] == 1


@pytest.mark.parametrize(("several", "option"), [(False, ""), (True, " --several")])
def test_a_review_is_labelled_as_its_model_labels(tmp_path, capsys, several, option):
    reviewed, model = tmp_path / "review" / "review-images", tmp_path / "review" / "fetch-model" / "model"
    version(model / "serving" / "1", **({"labels_per_image": "several", "thresholds": [0.5, 0.5]} if several else {}))
    reviewed.mkdir()
    for name in ("chosen", "tasks", "page"):
        (reviewed / name).write_text("")
    (reviewed / "metrics").write_text(json.dumps({"pictures": 9, "unreadable": 1, "chosen": 3}))
    result = outputs.collect_results(tmp_path)
    assert result["several"] is several
    commands.print_results(result | {"skipped": [], "seconds": {"total": 1}})
    assert f"label     kfp-vision review {tmp_path}/chosen.csv{option}" in capsys.readouterr().out.splitlines()
