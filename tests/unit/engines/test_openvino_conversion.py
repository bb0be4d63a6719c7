"""A model is converted only if OpenVINO answers as TensorFlow did; training goes on in any case."""

from pathlib import Path

import numpy as np
import pytest
from support import colour_model

from kfp_vision.core.frameworks import convert_variables_to_constants_v2, tf
from kfp_vision.engines import choice, openvino_conversion
from kfp_vision.engines.engine import OPENVINO_FILE, TENSORFLOW
from kfp_vision.engines.openvino_conversion import GRAPH_FILE, SAMPLE_FILE, NotConverted
from kfp_vision.repository.version import Version

pytestmark = pytest.mark.slow


def write_graph(scratch: Path, *, added: float = 0.0) -> None:
    """Writes the graph of channel means, and answers to which something was added."""

    def function(images: tf.Tensor) -> dict[str, tf.Tensor]:
        means = tf.reduce_mean(images, (1, 2)) / 255
        return {"probabilities": tf.nn.softmax(means), "embedding": tf.math.l2_normalize(means, axis=1)}

    images = np.random.default_rng(0).uniform(0, 255, (2, 4, 4, 3)).astype(np.float32)
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec((None, 4, 4, 3), tf.float32))
    graph = convert_variables_to_constants_v2(concrete).graph.as_graph_def()
    (scratch / GRAPH_FILE).write_bytes(graph.SerializeToString())
    answers = {name: values.numpy() + added for name, values in concrete(tf.constant(images)).items()}
    np.savez(scratch / SAMPLE_FILE, images=images, **answers)


def test_a_graph_is_converted(tmp_path):
    write_graph(tmp_path)
    openvino_conversion.convert(tmp_path, tmp_path / "model.xml")
    assert (tmp_path / "model.xml").is_file() and (tmp_path / "model.bin").is_file()


def test_other_answers_are_rejected_and_leave_no_file(tmp_path):
    write_graph(tmp_path, added=0.01)
    with pytest.raises(NotConverted, match=r"its answers differ from TensorFlow's by 0\.01, of 0\.001 allowed"):
        openvino_conversion.convert(tmp_path, tmp_path / "model.xml")
    assert sorted(file.name for file in tmp_path.iterdir()) == [GRAPH_FILE, SAMPLE_FILE]


def test_a_graph_that_openvino_does_not_read_is_rejected_in_one_line(tmp_path):
    write_graph(tmp_path)
    (tmp_path / GRAPH_FILE).write_bytes(b"no graph")
    with pytest.raises(NotConverted) as raised:
        openvino_conversion.convert(tmp_path, tmp_path / "model.xml")
    assert str(raised.value) and "\n" not in str(raised.value)


def test_a_model_that_is_not_converted_is_written_for_tensorflow_and_a_line_says_why(tmp_path, monkeypatch, capsys):
    def fail(scratch: Path, target: Path) -> None:
        raise NotConverted("it has an unknown operation")

    monkeypatch.setattr(openvino_conversion, "convert", fail)
    version = Version(colour_model.write_version(tmp_path / "1"))
    assert "since OpenVINO does not: it has an unknown operation" in capsys.readouterr().out
    assert not (version.folder / OPENVINO_FILE).parent.exists()
    assert choice.choose_engine(version) == TENSORFLOW
