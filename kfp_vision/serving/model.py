"""A model that the server serves: the newest version in a repository that loads."""

from pathlib import Path
from typing import Any

import kserve
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import InferRequest

from kfp_vision import repository
from kfp_vision.errors import InputError
from kfp_vision.pictures import Refused
from kfp_vision.repository import Version
from kfp_vision.serving import observing, protocols
from kfp_vision.serving.loaded import MAX_PIXELS, Loaded

MAX_PICTURES = 256  # of one request


class ServedClassifier(kserve.Model):
    """The newest version of a repository that loads; a request is answered by the version that was there when it came.

    Args:
        name: how it is called in addresses.
        path: the repository.

    Attributes:
        error: why the newest version that was tried does not answer, if it does not.
    """

    def __init__(self, name: str, path: Path):
        super().__init__(name)
        self.path = path
        self.error: InputError | None = None
        self._loaded: Loaded | None = None
        self._broken: dict[Path, list[tuple]] = {}

    @property
    def version(self) -> Version:
        """The version that answers now."""
        assert self._loaded
        return self._loaded.version

    def load(self) -> bool:
        """Whether there is a version that answers; they are loaded by `refresh`, not because somebody asks."""
        return self.ready

    def refresh(self) -> list[str]:
        """Takes the newest version that loads, if it is not the one that answers now.

        A version that does not load is tried again when its files have changed, as those of one do that is being copied.

        Returns:
            Lines about what has changed.
        """
        said = []
        for version in reversed(repository.versions(self.path)):
            if self._loaded and version.folder == self.version.folder:
                break
            files = _files(version.folder)
            if self._broken.get(version.folder) == files:
                continue
            try:
                self._answer_with(Loaded(version, self.name))
            except InputError as error:
                self.error, self._broken[version.folder] = error, files
                instead = f"Version {self.version.number} goes on answering." if self._loaded else "It does not answer."
                said.append(f"{error} {instead}")
            else:
                said.append(f"{self.name}, version {version.number}: {', '.join(version.labels)}")
                break
        return said

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answers a V1 body, already parsed, or a request of the Open Inference Protocol.

        Raises:
            InvalidInput: it is neither, or no picture in it can be read.
            Busy: too many pictures wait.
        """
        assert self._loaded
        loaded = self._loaded  # for the whole request, whatever is published meanwhile
        asked = protocols.asked(payload)
        observing.tell(self.name, loaded.version.number, len(asked.pictures))
        if len(asked.pictures) > MAX_PICTURES:
            rule = f"a request must hold at most {MAX_PICTURES} pictures"
            raise InvalidInput(f"{rule}; got {len(asked.pictures)}. Send several requests.")
        answers = await loaded.name(asked.pictures)
        if all(isinstance(answer, Refused) for answer in answers):
            reasons = "; ".join(sorted({str(answer) for answer in answers}))
            remedy = f"Send JPEG or PNG, of at most {MAX_PIXELS // 1_000_000} million pixels."
            raise InvalidInput(f"a request must hold a picture that can be read; got {reasons}. {remedy}")
        if isinstance(payload, InferRequest):
            return protocols.v2_answer(payload, self.name, loaded.version, answers, asked.top_k)
        return protocols.v1_answer(answers, loaded.version.labels, asked.top_k)

    def get_input_types(self) -> list[dict[str, Any]]:
        return protocols.input_types()

    def get_output_types(self) -> list[dict[str, Any]]:
        return protocols.output_types(self.version.labels)

    def _answer_with(self, loaded: Loaded) -> None:
        self._loaded, self.error, self.ready = loaded, None, True
        observing.VERSION.labels(self.name).set(loaded.version.number)


def _files(folder: Path) -> list[tuple]:
    """What tells whether something in a folder has changed."""
    states = [(file, file.stat()) for file in sorted(folder.rglob("*"))]
    return [(file, state.st_size, state.st_mtime_ns) for file, state in states]
