"""Runs exported files, each with its own runtime; as `python -m kfp_vision.exports.runtimes FILE CROPS PROBABILITIES`, too."""

import argparse
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kfp_vision.core import children, json_text
from kfp_vision.core.errors import InputError, NotFoundError
from kfp_vision.engines import openvino_runtime
from kfp_vision.exports.formats import (
    INPUT,
    LITERT,
    METADATA_FILE,
    ONNX,
    OPENVINO,
    OUTPUT,
    RUNTIME_PACKAGES,
    SUFFIXES,
    check_installed,
)
from kfp_vision.repository.version import SAVED_MODEL_FILE

Crops = npt.NDArray[np.uint8]  # (images, size, size, 3), RGB
Probabilities = npt.NDArray[np.float32]  # (images, classes)


class ExportedFile(Protocol):
    """A model in a file, loaded into this process.

    Attributes:
        metadata: what stands in the file, see `formats.metadata`.
    """

    metadata: dict[str, Any]

    def probabilities(self, crops: Crops) -> Probabilities:
        """Computes the probabilities of all classes.

        Args:
            crops: (images, size, size, 3), RGB.

        Returns:
            (images, classes).
        """

    def float_operations(self) -> list[str]:
        """Lists the kinds of operations that a file of integers computes in float32; empty if not known."""


class LiteRTFile:
    """A LiteRT file; takes one image at a time.

    Args:
        file: the `.tflite` file.
        threads: to compute with.
    """

    def __init__(self, file: Path, threads: int):
        from ai_edge_litert.interpreter import Interpreter

        with zipfile.ZipFile(file) as archive:
            self.metadata: dict[str, Any] = json_text.parse(archive.read(METADATA_FILE))
        self._file = file
        self._interpreter = Interpreter(str(file), num_threads=threads or None)
        self._interpreter.allocate_tensors()
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()

    def probabilities(self, crops: Crops) -> Probabilities:
        """See `ExportedFile.probabilities`."""
        rows = []
        for crop in crops:
            self._interpreter.set_tensor(self._input["index"], crop[None])
            self._interpreter.invoke()
            rows.append(self._interpreter.get_tensor(self._output["index"])[0])
        return np.stack(rows)

    def float_operations(self) -> list[str]:
        """See `ExportedFile.float_operations`; the converter does not say which operations it left in float32."""
        from ai_edge_litert import schema_py_generated as schema

        kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(self._file.read_bytes(), 0))
        (graph,) = model.subgraphs
        found = set()
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex]
            kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
            if kind not in ("QUANTIZE", "DEQUANTIZE") and graph.tensors[operation.outputs[0]].type == schema.TensorType.FLOAT32:
                found.add(kind)
        return sorted(found)


class OnnxFile:
    """An ONNX file, run by ONNX Runtime.

    Args:
        file: the `.onnx` file.
        threads: to compute with.
    """

    def __init__(self, file: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        properties = self._session.get_modelmeta().custom_metadata_map
        self.metadata: dict[str, Any] = {name: json_text.parse(value) for name, value in properties.items()}

    def probabilities(self, crops: Crops) -> Probabilities:
        """See `ExportedFile.probabilities`."""
        probabilities: Probabilities
        (probabilities,) = self._session.run([OUTPUT], {INPUT: crops})
        return probabilities

    def float_operations(self) -> list[str]:
        """See `ExportedFile.float_operations`."""
        return []


class OpenVINOFile:
    """A model of OpenVINO, run on the processor.

    Args:
        file: the `.xml` file; the `.bin` file is beside it.
        threads: to compute with.
    """

    def __init__(self, file: Path, threads: int):
        core, model = openvino_runtime.openvino.Core(), openvino_runtime.read_model(file)
        about = model.get_rt_info("kfp_vision").astype(dict)
        self.metadata: dict[str, Any] = {name: json_text.parse(value.astype(str)) for name, value in about.items()}
        self._model = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def probabilities(self, crops: Crops) -> Probabilities:
        """See `ExportedFile.probabilities`."""
        return np.array(self._model(crops)[OUTPUT])

    def float_operations(self) -> list[str]:
        """See `ExportedFile.float_operations`."""
        return []


class SavedModel:
    """The parent: the exported SavedModel, run by TensorFlow.

    Args:
        folder: of the SavedModel.
        threads: to compute with.
    """

    def __init__(self, folder: Path, threads: int):
        from kfp_vision.core.frameworks import tf
        from kfp_vision.exports import graph

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        self.metadata: dict[str, Any] = {}
        self._loaded, size = graph.load_pixels(folder)
        self._compute = graph.probabilities_of(self._loaded, size, tf.uint8, None)

    def probabilities(self, crops: Crops) -> Probabilities:
        """See `ExportedFile.probabilities`."""
        from kfp_vision.core.frameworks import tf

        probabilities: Probabilities = self._compute(tf.constant(crops))[OUTPUT].numpy()
        return probabilities

    def float_operations(self) -> list[str]:
        """See `ExportedFile.float_operations`."""
        return []


RUNTIMES: dict[str, Callable[[Path, int], ExportedFile]] = {LITERT: LiteRTFile, ONNX: OnnxFile, OPENVINO: OpenVINOFile}


def open_file(path: Path, threads: int = 0) -> ExportedFile:
    """Loads an exported file, or a SavedModel's folder, into this process.

    Args:
        path: a `.tflite`, `.onnx` or `.xml` file that this library exported, or the folder of a SavedModel.
        threads: to compute with; 0 for as many as the runtime chooses.

    Returns:
        The model.

    Raises:
        NotFoundError: there is none.
        InputError: its runtime is not installed, or does not load it, or it was not exported by this library.
    """
    if not path.exists():
        raise NotFoundError("a model file must exist on this machine", str(path), "Give its .tflite, .onnx or .xml file.")
    if (path / SAVED_MODEL_FILE).is_file():
        return SavedModel(path, threads)
    rule, remedy = "a model file must be one that export_model wrote", "Give its .tflite, .onnx or .xml file."
    for runtime, suffix in SUFFIXES.items():
        if path.suffix.lower() == suffix and path.is_file():
            check_installed([RUNTIME_PACKAGES[runtime]], f"a {suffix} file")
            try:
                opened = RUNTIMES[runtime](path, threads)
                missing = {"labels", "image_size"} - opened.metadata.keys()
            except Exception as error:  # each runtime has errors of its own
                raise InputError(rule, f"{path} ({' '.join(str(error).split())[:200]})", remedy) from None
            if missing:
                raise InputError(rule, f"{path} without {', '.join(sorted(missing))}", remedy)
            return opened
    raise InputError(rule, str(path), remedy)


def main(arguments: Sequence[str] | None = None) -> None:
    """Computes the probabilities of many images one by one, on one core: the child's side of `compare.score_file`.

    Prints a line of JSON: milliseconds of processor time an image, and the operations in float32.

    Args:
        arguments: the command line; by default that of the process.
    """
    parser = argparse.ArgumentParser(description="Runs an exported file on images.")
    parser.add_argument("file", type=Path, help="an exported file, or the folder of a SavedModel")
    parser.add_argument("crops", type=Path, help="images, uint8 (images, size, size, 3), .npy")
    parser.add_argument("probabilities", type=Path, help="file to write, .npy")
    options = children.parse_arguments(parser, arguments)
    model, crops = open_file(options.file, threads=1), np.load(options.crops, mmap_mode="r")
    model.probabilities(np.array(crops[:1]))  # the first call allocates and compiles
    start = time.process_time()
    rows = [model.probabilities(np.array(crops[at : at + 1]))[0] for at in range(len(crops))]
    milliseconds = 1000 * (time.process_time() - start) / len(crops)
    np.save(options.probabilities, np.stack(rows))
    print(json.dumps({"milliseconds": milliseconds, "float_operations": model.float_operations()}))


if __name__ == "__main__":
    main()
