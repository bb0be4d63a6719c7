"""Bodies of requests are read, or rejected with what is wrong with them."""

import pytest
from kserve.errors import InvalidInput
from starlette.requests import Request
from support import coroutines

from kfp_vision.serving.bodies import read_v1


def test_a_form_without_its_boundary_is_rejected_with_the_remedy():
    headers = [(b"content-type", b"multipart/form-data")]
    request = Request({"type": "http", "method": "POST", "headers": headers, "query_string": b""})
    with pytest.raises(InvalidInput, match=r"must name its boundary; .* Do not set the header Content-Type"):
        coroutines.result(read_v1(request, ()))
