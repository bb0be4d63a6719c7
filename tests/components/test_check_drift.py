"""The stage that checks for drift, as KFP runs it: what it outputs and writes, and its one line if there is no collection."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from support import exported_model, run_component

from kfp_vision import components
from kfp_vision.collection.collected import CollectedAnswer, pack_batch
from kfp_vision.prediction.held_out import HELD_OUT_FILE, keep_held_out


@pytest.mark.slow
def test_the_stage_compares_and_writes_its_result(tmp_path):
    generator = np.random.default_rng(0)
    version = exported_model.version(tmp_path / "model" / "serving" / "1")
    keep_held_out(generator.random((100, 8)), np.tile([0.9, 0.1], (100, 1))).save(version.folder / HELD_OUT_FILE)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    rows = (1 + generator.random((60, 8)) * np.arange(8)).astype(np.float32)
    answers = [
        CollectedAnswer(
            f"{number:032x}", now, "flowers", 4, version.fingerprint, ["daisy"], {"daisy": 0.9, "tulip": 0.1}, embedding=row
        )
        for number, row in enumerate(rows)
    ]
    day = tmp_path / "collected" / "flowers" / now[:10]
    day.mkdir(parents=True)
    (day / f"{now[:10].replace('-', '')}T235959.999999-00000000.jsonl.gz").write_bytes(pack_batch(answers))
    given = {"collected_uri": f" {tmp_path / 'collected'} ", "days": 7, "advanced": {}}  # pasted with white space around it
    result = run_component.run(components.check_drift, tmp_path / "out", {"model": tmp_path / "model"}, **given)
    assert result.succeeded, result.printed
    assert result.outputs["drifted"] is True
    written = json.loads((tmp_path / "collected" / "flowers" / "drift.json").read_text())
    assert written == json.loads((result.folder / "metrics").read_text())
    assert (written["drifted"], written["images"], written["reference"], written["version"]) == (True, 60, 100, 4)
    assert "has drifted" in (result.folder / "page").read_text()
    given["collected_uri"] = str(tmp_path / "x")
    failed = run_component.run(components.check_drift, tmp_path / "failed", {"model": tmp_path / "model"}, **given)
    assert not failed.succeeded and "page" not in failed.left_behind()
    assert any(line.startswith("error: a collection must hold batches of answers; got none below ") for line in failed.printed)
