"""Bodies of requests are read, or rejected with what is wrong with them."""

import pytest
from kserve.errors import InvalidInput
from starlette.requests import Request
from support import coroutines

from kfp_vision.serving.bodies import LENGTH_HEADER, read_v1, read_v2


def test_a_form_without_its_boundary_is_rejected_with_the_remedy():
    headers = [(b"content-type", b"multipart/form-data")]
    request = Request({"type": "http", "method": "POST", "headers": headers, "query_string": b""})
    with pytest.raises(InvalidInput, match=r"must name its boundary; .* Do not set the header Content-Type"):
        coroutines.result(read_v1(request, ()))


@pytest.mark.parametrize("body", [b"null", b" null\n", b"[]", b"7", b'"text"'])
@pytest.mark.parametrize("has_length", [False, True])
def test_json_that_is_no_object_is_rejected_as_what_it_is(body, has_length):
    async def receive():
        return {"type": "http.request", "body": body}

    headers = [(LENGTH_HEADER.encode(), str(len(body)).encode())] if has_length else []
    request = Request({"type": "http", "method": "POST", "headers": headers, "query_string": b""}, receive)
    with pytest.raises(InvalidInput) as refusal:
        coroutines.result(read_v2(request, "colours"))
    found = f"got {body.decode().strip()}, which is no JSON object. Send"
    assert str(refusal.value).startswith(f"a body must follow the Open Inference Protocol; {found}")
