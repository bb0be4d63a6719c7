"""Model registries that tests start: MLflow's own server from PyPI, and a stand-in for Kubeflow's that holds to its OpenAPI.

Both are installed beside the environment of the tests, on first use: MLflow asks for 700 MB of packages, of which its server
needs a fifth, and for other versions of some that are here. Kubeflow's registry is a program in Go and is on no index of
packages; its Python client carries a class for every request and answer of its OpenAPI document, and the stand-in refuses what
these refuse.
"""

import contextlib
import importlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from support.json_server import json_server
from support.model_servers import free_port, started, until
from support.skip import leave_out

CACHE = Path(__file__).resolve().parents[2] / ".cache"
MLFLOW = Path(__file__).with_name("mlflow_server.txt").read_text(encoding="utf-8").split()
KUBEFLOW = ["model-registry==0.3.18", "aiohttp-retry"]
PREFIX = "/api/model_registry/v1/"


def installed(name: str, packages: list[str]) -> Path:
    """Installs packages without those that they ask for into a folder of the cache, once, and returns the folder."""
    folder = CACHE / f"{name}-{packages[0].partition('==')[2]}"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
            done = subprocess.run([*command, "--target", scratch, *packages], capture_output=True, text=True, check=False)
            if done.returncode:
                leave_out(f"pip cannot install {name}: {done.stderr[-500:]}")
            with contextlib.suppress(OSError):  # another worker was faster
                shutil.move(scratch, folder)
            Path(scratch).mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def mlflow_server(root: Path) -> Iterator[str]:
    """Runs MLflow's server on a database and files below a folder, and yields its address."""
    port = free_port()
    packages = installed("mlflow", MLFLOW)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "artifacts")]
    # Without this it starts half a dozen processes that wait for jobs which nobody gives them here.
    environment = {"PYTHONPATH": str(packages), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = started([*command, *stores], port, root / "log", environment)
    try:
        until(lambda: requests.get(f"http://127.0.0.1:{port}/health", timeout=60).ok)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@dataclass
class KubeflowRegistry:
    """A stand-in for Kubeflow's Model Registry, which checks requests and its own answers by the OpenAPI's classes.

    Attributes:
        url: its address.
        models: registered models by id.
        versions: versions by id.
        artifacts: artifacts of versions by id, each with `version`.
        refused: what was wrong with requests.
        tokens: the Authorization header of each request.
        page_size: most entries of an answer.
    """

    url: str = ""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    page_size: int = 100
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    @contextlib.contextmanager
    def running(self) -> Iterator["KubeflowRegistry"]:
        self._schema = _schema()
        with json_server(self._answer) as self.url:
            yield self

    def _answer(self, method: str, path: str, headers: Mapping[str, str], body: object) -> tuple[int, Any]:
        self.tokens.append(headers.get("Authorization"))
        try:
            return self.respond(method, path, body)
        except ValueError as error:  # of pydantic, too
            self.refused.append(f"{method} {path}: {error}")
            return 400, {"code": "400", "message": str(error)}

    def respond(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Returns status and answer of a request.

        Raises:
            ValueError: the OpenAPI document does not allow the request.
        """
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        place = parts.path.removeprefix(PREFIX)
        if place == parts.path:
            return 404, {"code": "404", "message": "no such interface"}
        versions = re.fullmatch(r"registered_models/(\d+)/versions", place)
        artifacts = re.fullmatch(r"model_versions/(\d+)/artifacts", place)
        if method == "GET" and place == "registered_model":
            found = [one for one in self.models.values() if one["name"] == query["name"]]
            return (200, self._checked("RegisteredModel", found[0])) if found else (404, {"code": "404", "message": "none"})
        if method == "POST" and place == "registered_models":
            return self._add(self.models, "RegisteredModel", body, unique=self.models.values())
        if method == "GET" and place == "registered_models":
            return self._page("RegisteredModelList", list(self.models.values()), query)
        if versions and versions[1] in self.models:
            own = [one for one in self.versions.values() if one["registeredModelId"] == versions[1]]
            if method == "GET":
                return self._page("ModelVersionList", own, query)
            if body["registeredModelId"] != versions[1]:
                raise ValueError("the version is of another model")
            return self._add(self.versions, "ModelVersion", body, unique=own)
        if artifacts and artifacts[1] in self.versions:
            own = [one for one in self.artifacts.values() if one["version"] == artifacts[1]]
            if method == "GET":
                shown = [{name: value for name, value in one.items() if name != "version"} for one in own]
                return self._page("ArtifactList", shown, query)
            status, added = self._add(self.artifacts, "ModelArtifact", body, unique=self.artifacts.values())
            if status == 201:
                self.artifacts[added["id"]]["version"] = artifacts[1]
            return status, added
        return 404, {"code": "404", "message": place}

    def _checked(self, kind: str, entry: Any) -> Any:
        """Checks an entry by its class, which must not leave out any of it, and returns it."""
        parsed = getattr(self._schema, kind).from_dict(entry).to_dict()
        if unknown := entry.keys() - parsed.keys():
            raise ValueError(f"{kind} has no {', '.join(sorted(unknown))}")
        return entry

    def _add(self, entries: dict[str, Any], kind: str, body: Any, unique: Any) -> tuple[int, Any]:
        self._checked(f"{kind}Create", body)
        if body["name"] in [one["name"] for one in unique]:
            return 409, {"code": "409", "message": f"{body['name']} is there"}
        entry = dict(body, id=str(next(self._numbers)))
        entries[entry["id"]] = entry
        return 201, self._checked(kind, dict(entry))

    def _page(self, kind: str, entries: list[Any], query: dict[str, str]) -> tuple[int, Any]:
        start, size = int(query.get("nextPageToken", 0)), min(int(query["pageSize"]), self.page_size)
        end = start + size
        page = {"items": entries[start:end], "size": len(entries[start:end]), "pageSize": size}
        return 200, self._checked(kind, page | {"nextPageToken": str(end) if end < len(entries) else ""})


def _schema() -> Any:
    """Imports the classes of the OpenAPI document; what else is in their folder is not used."""
    folder = str(installed("model-registry", KUBEFLOW))
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("mr_openapi.models")


def other_server() -> contextlib.AbstractContextManager[str]:
    """Runs a server that is no registry, and yields its address: below it, `list`, `nothing` and `object` are JSON of these."""
    answers: dict[str, object] = {"list": [], "nothing": None, "object": {}}
    return json_server(lambda method, path, headers, body: (200, answers[path.split("/")[1]]))
