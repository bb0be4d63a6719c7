"""The TensorBoard link for Kubeflow's user interface."""

import json

from kfp_vision.training.tensorboard import write_tensorboard_link


def test_the_link_omits_the_settings_of_a_bucket_uri(tmp_path, capsys):
    write_tensorboard_link("s3://bucket/logs?endpoint=http://store:9000", tmp_path / "link")
    link = json.loads((tmp_path / "link").read_text())
    assert link == {"version": 1, "outputs": [{"type": "tensorboard", "source": "s3://bucket/logs"}]}
    assert capsys.readouterr().out == ""
