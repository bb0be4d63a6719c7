"""What Kubeflow's user interface is told to open TensorBoard on."""

import json

from kfp_vision.training.tensorboard import write_tensorboard_link


def test_names_a_bucket_without_the_settings_at_the_end_of_its_address(tmp_path, capsys):
    write_tensorboard_link("s3://bucket/logs?endpoint=http://store:9000", tmp_path / "link")
    about = json.loads((tmp_path / "link").read_text())
    assert about == {"version": 1, "outputs": [{"type": "tensorboard", "source": "s3://bucket/logs"}]}
    assert capsys.readouterr().out == ""
