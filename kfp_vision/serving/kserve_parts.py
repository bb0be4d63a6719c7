"""The parts of KServe that the server consists of, imported without its client of Kubernetes and pandas.

The package `kserve` (0.21.0, kserve/__init__.py) imports a client of Kubernetes and the models of all its resources, and two of
its modules (kserve/protocol/infer_type.py, kserve/utils/utils.py) pandas, for models that compute with tables. The server uses
none of them, and they are two thirds of the processor time of the import.
"""

from kfp_vision.core import hidden_imports

__all__ = [
    "DataPlane",
    "InferInput",
    "InferOutput",
    "InferRequest",
    "InferResponse",
    "InferenceError",
    "InferenceRequest",
    "InferenceServicer",
    "InvalidInput",
    "Model",
    "ModelNotFound",
    "ModelNotReady",
    "ModelRepository",
    "RequestedOutput",
    "ServerNotReady",
    "V1Endpoints",
    "V2Endpoints",
    "add_GRPCInferenceServiceServicer_to_server",
    "configure_logging",
    "metrics_handler",
    "to_http_parameters",
]


class _NoTable:
    """Stands for pandas.DataFrame, of which KServe only asks whether something is one."""


hidden_imports.defer("kserve")
with hidden_imports.stand_in("pandas", DataFrame=_NoTable):
    from kserve.errors import InferenceError, InvalidInput, ModelNotFound, ModelNotReady, ServerNotReady
    from kserve.logging import configure_logging
    from kserve.model import Model
    from kserve.model_repository import ModelRepository
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
    from kserve.protocol.grpc.servicer import InferenceServicer
    from kserve.protocol.infer_type import (
        InferInput,
        InferOutput,
        InferRequest,
        InferResponse,
        RequestedOutput,
        to_http_parameters,
    )
    from kserve.protocol.rest.server import metrics_handler
    from kserve.protocol.rest.v1_endpoints import V1Endpoints
    from kserve.protocol.rest.v2_datamodels import InferenceRequest
    from kserve.protocol.rest.v2_endpoints import V2Endpoints
