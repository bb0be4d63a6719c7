"""Requests of more images or tensors than the server takes are refused before any of them is read."""

import pytest
from kserve import InferInput, InferRequest
from kserve.errors import InvalidInput

from kfp_vision.serving import protocols
from kfp_vision.serving.protocols import V1Request

MOST, TOO_MANY = 256, 300
V1_BODIES = [{"instances": [{}] * TOO_MANY}, {"instances": ["x"] * TOO_MANY}, {"inputs": {"image_bytes": ["x"] * TOO_MANY}}]
BINARY = bytes(4 * TOO_MANY)  # as many empty elements, each with its length


def refuse(count: int) -> None:
    if count > MOST:
        raise InvalidInput(f"got {count}")


def v2_request(data: list[str] | None) -> InferRequest:
    tensor = InferInput("image_bytes", [TOO_MANY], "BYTES", data)
    return InferRequest("flowers", [tensor], raw_inputs=None if data else [BINARY])


@pytest.mark.parametrize("body", V1_BODIES, ids=["objects", "texts", "columns"])
@pytest.mark.parametrize("verb", ["predict", "explain", "search"])
def test_too_many_instances_are_refused_unread(body, verb, monkeypatch):
    monkeypatch.setattr(protocols.instances, "_decode", None)  # a million of them would hold up all other requests
    monkeypatch.setattr(protocols.instances, "_inner", None)
    with pytest.raises(InvalidInput, match=f"got {TOO_MANY}"):
        if verb == "predict":
            protocols.parse_predict_request(V1Request(body), refuse)
        elif verb == "explain":
            protocols.parse_explain_request(V1Request(body), ["daisy"], refuse)
        else:
            protocols.parse_search_request(V1Request(body), refuse)


@pytest.mark.parametrize("data", [["x"] * TOO_MANY, None], ids=["JSON", "binary"])
def test_a_tensor_of_too_many_images_is_refused_undecoded(data, monkeypatch):
    monkeypatch.setattr(InferInput, "as_numpy", None)
    with pytest.raises(InvalidInput, match=f"^got {TOO_MANY}$"):
        protocols.parse_predict_request(v2_request(data), refuse)


def test_a_second_tensor_is_refused_instead_of_left_unanswered():
    request = InferRequest("flowers", [InferInput(name, [1], "BYTES", ["x"]) for name in ("image_bytes", "more")])
    with pytest.raises(InvalidInput, match=r"^a request must have one input; got 2 tensors\. Send all its images"):
        protocols.parse_predict_request(request, refuse)
