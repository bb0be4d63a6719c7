"""A network of TensorFlow in bfloat16, for a GPU: rewrites a graph in float32, and compiles it with XLA while it answers.

A SavedModel computes in float32, as servers of any age must read it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kfp_vision.core.frameworks import convert_variables_to_constants_v2, op_def_registry, tf

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Images computed together by a compiled program; other numbers are filled up to the next of these, or computed in parts.
COMPILED_SIZES = (32, 1, 8, 128)  # in the order in which they are compiled
PRODUCTS = {"Conv2D", "DepthwiseConv2dNative", "MatMul", "BatchMatMulV2", "Einsum", "FusedBatchNormV3"}
FLOAT32_ATTRIBUTES = {"FusedBatchNormV3": {"U"}}  # types that these operations have only in float32
OUTPUTS = ("probabilities", "embedding")

Answers = Mapping[str, Any]


class BFloat16Graph:
    """A signature from images to probabilities, computed in bfloat16 up to the last product, and from there in float32.

    Compiling takes a minute or more on a GPU. Until a size is compiled, TensorFlow computes operation by operation.

    Args:
        signature: of a loaded SavedModel, from `images`, float32 (batch, size, size, 3), to `OUTPUTS`, or the first of them.
        compiled: whether to compile with XLA, in a thread.

    Raises:
        Exception: TensorFlow has an operation of the graph in float32 alone; of many types.
    """

    def __init__(self, signature: Any, *, compiled: bool = True):
        self._compute = rewrite(signature)
        self._shape = signature.structured_input_signature[1]["images"].shape[1:]
        self._compiled = tf.function(self._compute, autograph=False, jit_compile=True)
        self._ready = set[int]()
        self._compute(tf.zeros((1, *self._shape)))  # fails here, not at the first request
        if compiled:
            threading.Thread(target=self._compile, name="XLA", daemon=True).start()

    def __call__(self, images: Any) -> "dict[str, npt.NDArray[np.float32]]":
        """Computes the answers for images.

        Args:
            images: float32 (images, size, size, 3).

        Returns:
            Arrays, float32 (images, ...), by name.
        """
        count, ready = len(images), set(self._ready)
        size = min((one for one in ready if one >= count), default=max(ready, default=0))
        if not size:
            return {name: values.numpy() for name, values in self._compute(images).items()}
        parts = []
        for start in range(0, count, size):
            part = images[start : start + size]
            missing = size - len(part)
            answers = self._compiled(tf.pad(part, [[0, missing], [0, 0], [0, 0], [0, 0]]))
            parts.append({name: values[: len(part)] for name, values in answers.items()})
        return {name: tf.concat([part[name] for part in parts], 0).numpy() for name in parts[0]}

    def _compile(self) -> None:
        for size in COMPILED_SIZES:
            self._compiled(tf.zeros((size, *self._shape)))
            self._ready.add(size)


def rewrite(signature: Any) -> Callable[[Any], Answers]:
    """Returns a signature as a function that computes in bfloat16 all that leads into a product, in float32 the rest.

    Args:
        signature: of a loaded SavedModel, with an input `images`; see `BFloat16Graph`.
    """
    frozen = convert_variables_to_constants_v2(signature)
    (images,) = frozen.inputs
    graph = frozen.graph.as_graph_def()
    _convert(graph)
    # The order of the outputs of a signature is that of the sorted names.
    outputs = {name: tensor.name for name, tensor in zip(sorted(signature.structured_outputs), frozen.outputs, strict=True)}
    wanted = [name for name in OUTPUTS if name in outputs]
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    function = imported.prune(images.name, [outputs[name] for name in wanted])
    return lambda batch: dict(zip(wanted, function(batch), strict=True))


def _convert(graph: Any) -> None:
    """Changes the types of a graph without functions, and adds casts where a type ends."""
    nodes = {node.name: node for node in graph.node}
    in_bfloat16 = _ancestors(nodes, [node.name for node in graph.node if node.op in PRODUCTS])
    in_bfloat16 -= {name for name in in_bfloat16 if nodes[name].op == "Placeholder"}
    casts = dict[tuple[str, int, int], Any]()
    for node in graph.node:
        inputs = [reference for reference in node.input if not reference.startswith("^")]
        for place, (reference, kind) in enumerate(zip(inputs, _input_types(node), strict=True)):
            source, output = _source(reference)
            gives, takes = (
                tf.bfloat16 if name in in_bfloat16 and _is_changed(nodes[name], of) else tf.as_dtype(of.number)
                for name, of in ((source, _output_types(nodes[source])[output]), (node.name, kind))
            )
            if gives != takes:
                cast = casts.setdefault((source, output, takes.as_datatype_enum), _cast(source, output, takes))
                node.input[place] = cast.name
    for name in in_bfloat16:
        node = nodes[name]
        for kind in _input_types(node) + _output_types(node):
            if _is_changed(node, kind):
                node.attr[kind.attribute].type = tf.bfloat16.as_datatype_enum
        if node.op == "Const" and node.attr["value"].tensor.dtype == tf.float32.as_datatype_enum:
            value = tf.cast(tf.make_ndarray(node.attr["value"].tensor), tf.bfloat16).numpy()
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    graph.node.extend(casts.values())


def _ancestors(nodes: Mapping[str, Any], names: Sequence[str]) -> set[str]:
    """Returns some nodes, and all that they are computed from."""
    found, left = set[str](), list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [_source(reference)[0] for reference in nodes[name].input if not reference.startswith("^")]
    return found


def _source(reference: str) -> tuple[str, int]:
    name, _, output = reference.partition(":")
    return name, int(output or 0)


def _definition(node: Any) -> Any:
    return op_def_registry.get(node.op)


class _Type(NamedTuple):
    """The type of an input or output of a node: its number, and the attribute that holds it, empty if it never changes."""

    attribute: str
    number: int


def _is_changed(node: Any, kind: _Type) -> bool:
    """Returns whether a type of a node in bfloat16 becomes that."""
    kept = FLOAT32_ATTRIBUTES.get(node.op, set())
    return bool(kind.attribute) and kind.attribute not in kept and kind.number == tf.float32.as_datatype_enum


def _input_types(node: Any) -> list[_Type]:
    return _types(node, _definition(node).input_arg)


def _output_types(node: Any) -> list[_Type]:
    return _types(node, _definition(node).output_arg)


def _types(node: Any, arguments: Any) -> list[_Type]:
    kinds: list[_Type] = []
    for argument in arguments:
        if argument.type_list_attr:
            kinds += [_Type("", number) for number in node.attr[argument.type_list_attr].list.type]
            continue
        one = _Type(argument.type_attr, node.attr[argument.type_attr].type) if argument.type_attr else _Type("", argument.type)
        kinds += [one] * (node.attr[argument.number_attr].i if argument.number_attr else 1)
    return kinds


def _cast(source: str, output: int, to: Any) -> Any:
    of = tf.float32 if to == tf.bfloat16 else tf.bfloat16
    node = tf.compat.v1.NodeDef(name=f"{source}_{output}/to_{to.name}", op="Cast", input=[f"{source}:{output}"])
    node.attr["SrcT"].type, node.attr["DstT"].type = of.as_datatype_enum, to.as_datatype_enum
    return node
