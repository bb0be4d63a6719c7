"""A model that the server serves: the newest version in a repository that loads."""

import threading
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
POLL_SECONDS = 1.0


class ServedClassifier(kserve.Model):
    """The newest version of a repository; a request is answered by the version that was there when it came.

    Args:
        name: how it is called in addresses; empty for its own name.
        path: the repository.
    """

    def __init__(self, name: str, path: Path):
        newest = repository.versions(path)[-1]
        super().__init__(name or newest.name)
        self.path = path
        self._loaded: Loaded | None = None
        self._broken: set[Path] = set()

    @property
    def version(self) -> Version:
        """The version that answers now."""
        assert self._loaded
        return self._loaded.version

    def load(self) -> bool:
        """Loads the newest version.

        Raises:
            InputError: it does not load.
        """
        self._answer_with(Loaded(repository.versions(self.path)[-1], self.name))
        self.ready = True
        return self.ready

    def refresh(self) -> None:
        """Takes the newest version that loads, if it is not the one that answers now; a broken one is reported once."""
        for version in reversed(repository.versions(self.path)):
            if version.folder == self.version.folder:
                return
            if version.folder in self._broken:
                continue
            try:
                self._answer_with(Loaded(version, self.name))
            except InputError as error:
                self._broken.add(version.folder)
                print(f"{error} Version {self.version.number} goes on answering.", flush=True)
            else:
                print(f"now answers with version {version.number}", flush=True)
                return

    def watch(self) -> None:
        """Looks for new versions as long as the process lives, in a thread of its own."""

        def look() -> None:
            pause = threading.Event()
            while not pause.wait(POLL_SECONDS):
                try:
                    self.refresh()
                except Exception as error:  # a repository on a network may be gone for a moment; the watch must go on
                    print(f"warning: cannot look into {self.path} ({error})", flush=True)

        threading.Thread(target=look, daemon=True).start()

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
        self._loaded = loaded
        observing.VERSION.labels(self.name).set(loaded.version.number)
