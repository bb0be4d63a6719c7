"""TensorFlow and Keras, imported without packages that Keras imports only because they are installed.

Keras 3.15 imports scikit-learn for its wrappers (keras/src/wrappers), pandas for its data adapters
(keras/src/trainers/data_adapters/array_slicing.py) and Matplotlib for its galleries (keras/src/visualization). Nothing here
uses any of these, and they are a third of the processor time of the import and a fifth of its memory. Keras does without them
where they are not installed, so its imports do not find them. Our own imports of scikit-learn and Matplotlib do, before and
after.
"""

import contextlib

from kfp_vision.core import hidden_imports, native_messages, processor

__all__ = ["BundleHeaderProto", "convert_variables_to_constants_v2", "keras", "op_def_registry", "tf"]

NOT_NEEDED = frozenset({"sklearn", "pandas", "matplotlib"})
# Without AVX TensorFlow ends the process at its import, and the reason must not be held back.
has_no_avx = "avx" not in (processor.cpu_flags() or {"avx"})

with hidden_imports.hide(NOT_NEEDED), contextlib.nullcontext() if has_no_avx else native_messages.dropped():
    import keras
    import tensorflow as tf
    from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleHeaderProto
    from tensorflow.python.framework import op_def_registry
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
