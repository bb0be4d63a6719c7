"""Real photographs and a real pretrained network, end to end through the command line."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_a_short_fine_tuning_on_photographs_is_far_above_chance(real_data, flower_photos, tmp_path):
    fields = {
        "images_uri": flower_photos,
        "network": "googlenet",
        "checkpoint_uri": real_data / "googlenet" / "bvlc_googlenet.npz",
        "train_steps": 50,
        "batch_size": 32,
        "optimizer": "momentum",
        "learning_rate": 0.002,
        "learning_rate_schedule": "cosine",
        "image_size": 128,  # a third of the work of 224; 150 steps at 224 reach 0.89
        "deploy_to": tmp_path / "repository",
    }
    command = [sys.executable, "-m", "kfp_vision.cli", "run", "--json", "--output", str(tmp_path)]
    command += [f"-p{name}={value}" for name, value in fields.items()]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "excluded, same image with labels roses and tulips" in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["accuracy"] >= 0.6  # 0.72 when this was written; chance is 0.2
    assert result["answer"]["label"] == result["answer"]["picture"].split("/")[0]
    assert result["answer"]["prediction"] in {folder.name for folder in flower_photos.iterdir()}
    assert "over HTTP" in done.stdout
