"""A web server that acts as a webhook and as the API of KFP."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from support.json_server import json_server


@dataclass
class Web:
    """A web server with fixed answers, which records its requests.

    Attributes:
        answers: status and JSON by path.
        got: path, headers and body of each request.
    """

    answers: dict[str, tuple[int, object]] = field(default_factory=dict)
    got: list[tuple[str, dict[str, str], object]] = field(default_factory=list)
    url: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator["Web"]:
        def respond(_: str, path: str, headers: Mapping[str, str], body: object) -> tuple[int, object]:
            self.got.append((path, dict(headers), body))
            return self.answers.get(path, (404, {}))

        with json_server(respond) as self.url:
            yield self
