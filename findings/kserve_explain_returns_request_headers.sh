#!/usr/bin/env bash
# KServe 0.21.0: the answer to `:explain` carries every header of the request, and none that the model sets.
#
# For `:predict` and a model made with return_response_headers=True, KServe sends what the model puts into response_headers. For
# `:explain` DataPlane.explain begins with a copy of the request's headers, and does not hand response_headers on. So a client
# gets back its own user-agent and whatever else it sent, and cannot learn which version explained. kfp_vision/serving answers
# `:explain` by a route of its own.
#
# Seen: x-example comes back from :explain and not from :predict; x-version the other way round. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kserve==0.21.0
cat >"$folder/headers.py" <<'END'
import json
import os
import socket
import threading
import time
import urllib.request

from kserve import Model, ModelServer


class Echo(Model):
    def __init__(self):
        super().__init__("echo", return_response_headers=True)
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        if response_headers is not None:
            response_headers["x-version"] = "7"
        return {"predictions": [1]}

    def explain(self, payload, headers=None, response_headers=None):
        if response_headers is not None:
            response_headers["x-version"] = "7"
        return {"explanations": [1]}


def ask(verb):
    body = json.dumps({"instances": [1]}).encode()
    headers = {"content-type": "application/json", "x-example": "hello"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models/echo:{verb}", body, headers)
    for _ in range(600):
        try:
            return urllib.request.urlopen(request).headers
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def check():
    answers = {verb: ask(verb) for verb in ("predict", "explain")}
    seen = {verb: {name: answer.get(name) for name in ("x-example", "x-version")} for verb, answer in answers.items()}
    print("seen:", seen, flush=True)
    wanted = {"predict": {"x-example": None, "x-version": "7"}, "explain": {"x-example": "hello", "x-version": None}}
    os._exit(int(seen != wanted))


with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
threading.Thread(target=check, daemon=True).start()
ModelServer(http_port=port, enable_grpc=False).start([Echo()])
END
"$folder/venv/bin/python" "$folder/headers.py" 2>/dev/null
