import json

import one_step

from kfp_vision import components


def test_gives_what_the_user_interface_opens_tensorboard_with(tmp_path):
    ended = one_step.run(components.watch_training, tmp_path, log_uri="s3://bucket/logs?endpoint=http://store:9000")
    assert ended.succeeded
    about = json.loads((ended.folder / "mlpipeline_ui_metadata").read_text())
    assert about == {"version": 1, "outputs": [{"type": "tensorboard", "source": "s3://bucket/logs"}]}


def test_says_how_to_look_where_the_user_interface_cannot(tmp_path):
    ended = one_step.run(components.watch_training, tmp_path, log_uri="/data/logs")
    assert json.loads((ended.folder / "mlpipeline_ui_metadata").read_text()) == {"version": 1, "outputs": []}
    said = "the user interface opens TensorBoard on s3:// and gs:// alone: run tensorboard --logdir /data/logs"
    assert said in ended.printed
