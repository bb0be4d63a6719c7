"""The results of a run, collected from the outputs of its stages."""

import json

import pytest

from kfp_vision.cli import commands, outputs
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
