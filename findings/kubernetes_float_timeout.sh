#!/usr/bin/env bash
# kubernetes (the Python client) 30.1.0: a _request_timeout that is a float is passed over, and the call has no time limit.
#
# The documentation of each call says "timeout setting for this request. If one number provided, it will be total request
# timeout". An int or a pair of numbers is taken; kubernetes/client/rest.py looks for an int alone, and gives urllib3 no timeout
# for anything else.
#
# Seen, of a server that answers after 2 seconds: with 1 a timeout, with (1, 1) a timeout, with 1.0 the answer. Ends with 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kubernetes==30.1.0
cat >"$folder/timeout.py" <<'END'
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import urllib3
from kubernetes import client


class Late(BaseHTTPRequestHandler):
    def do_GET(self):
        time.sleep(2)
        body = b'{"kind": "NamespaceList", "apiVersion": "v1", "items": []}'
        try:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # whoever asked has gone

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Late)
threading.Thread(target=server.serve_forever, daemon=True).start()
configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
configuration.retries = urllib3.Retry(0)
api = client.CoreV1Api(client.ApiClient(configuration))
seen = {}
for timeout in (1, (1, 1), 1.0):
    try:
        api.list_namespace(_request_timeout=timeout)
        seen[repr(timeout)] = "answer"
    except urllib3.exceptions.HTTPError:
        seen[repr(timeout)] = "timeout"
print("seen:", seen)
sys.exit(seen != {"1": "timeout", "(1, 1)": "timeout", "1.0": "answer"})
END
"$folder/venv/bin/python" "$folder/timeout.py"
