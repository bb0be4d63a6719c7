"""Asks a server over gRPC with KServe's own client, in a process of its own, as clients are."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support import model_servers

SECONDS = 300  # enough on a busy machine
PROGRAM = """
import asyncio, base64, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

def plain(array):
    texts = [value.decode() for value in array.ravel()] if array.dtype == object else array.ravel().tolist()
    return {"shape": array.shape, "dtype": str(array.dtype), "data": texts}

async def ask(address, images):
    tensor = InferInput("image_bytes", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, object))
    async with InferenceGRPCClient(address) as client:
        answer = await client.infer(InferRequest("colours", [tensor]))
    return {output.name: plain(output.as_numpy()) for output in answer.outputs}

images = [base64.b64decode(image) for image in json.load(sys.stdin)]
print(json.dumps(asyncio.run(ask(sys.argv[1], images))))
"""


def ask(address: str, images: Sequence[bytes]) -> dict[str, dict[str, Any]]:
    """Asks the model `colours` about images.

    Args:
        address: host and port of the server.
        images: encoded.

    Returns:
        Of each output by its name: `shape`, `dtype` and, row by row, `data`; texts are decoded.
    """
    sent = json.dumps([base64.b64encode(image).decode() for image in images])
    command = [sys.executable, "-c", PROGRAM, address]
    done = subprocess.run(command, input=sent, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    outputs: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return outputs


def serve_and_ask(models: Path, images: Sequence[bytes]) -> dict[str, dict[str, Any]]:
    """Serves a model repository by the command line, asks as `ask` does, and ends the server."""
    port = model_servers.free_port()
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(models), "--port", "0", "--grpc-port", str(port)]
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unbuffered) as process:
        try:
            assert process.stdout is not None
            assert any("open http" in line for line in process.stdout)
            return ask(f"127.0.0.1:{port}", images)
        finally:
            process.terminate()
