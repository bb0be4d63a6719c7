"""A model that the server serves: the newest version in a repository that loads."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import kserve
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import InferRequest

from kfp_vision import repository
from kfp_vision.errors import InputError
from kfp_vision.pictures import Refused
from kfp_vision.prediction import FINGERPRINT
from kfp_vision.repository import INDEX_FOLDER, Version
from kfp_vision.search import ABOUT_FILE, files_in
from kfp_vision.serving import observing, protocols
from kfp_vision.serving.loaded import MAX_PIXELS, Loaded
from kfp_vision.serving.searching import NoIndex, Searched

MAX_PICTURES = 256  # of one request


class ServedClassifier(kserve.Model):
    """The newest version of a repository that loads; a request is answered by the version that was there when it came.

    Args:
        name: how it is called in addresses.
        path: the repository.
        index: of pictures to search in; by default the one that lies with the versions, if one does.

    Attributes:
        error: why the newest version that was tried does not answer, if it does not.
        index_error: why the index that was tried last is not searched in, if it is not.
    """

    def __init__(self, name: str, path: Path, index: Path | None = None):
        super().__init__(name, return_response_headers=True)
        self.path, self.index = path, index or path / INDEX_FOLDER
        self.error: InputError | None = None
        self._loaded: Loaded | None = None
        self._broken: dict[Path, list[tuple]] = {}
        self.index_error: InputError | None = None
        self._index_is_due = index is not None
        self._searched: Searched | None = None
        self._looked_at: tuple[Loaded, list[tuple]] | None = None

    @property
    def version(self) -> Version:
        """The version that answers now."""
        assert self._loaded
        return self._loaded.version

    def load(self) -> bool:
        """Whether there is a version that answers; they are loaded by `refresh`, not because somebody asks."""
        return self.ready

    def refresh(self) -> list[str]:
        """Takes the newest version that loads, if it is not the one that answers now, and the index that lies with it.

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
        return said + (self._refresh_index() if self._loaded else [])

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answers a V1 body, already parsed, or a request of the Open Inference Protocol.

        Raises:
            InvalidInput: it is neither, or no picture in it can be read.
            Busy: too many pictures wait.
        """
        assert self._loaded
        loaded = self._loaded  # for the whole request, whatever is published meanwhile
        asked = protocols.asked(payload)
        self._note(loaded, len(asked.pictures))
        if response_headers is not None:
            response_headers[FINGERPRINT] = loaded.version.fingerprint
        answers = await loaded.name(asked.pictures)
        _check_any(answers)
        if isinstance(payload, InferRequest):
            return protocols.v2_answer(payload, self.name, loaded.version, answers, asked.top_k)
        return protocols.v1_answer(answers, loaded.version.labels, asked.top_k)

    @property
    def searched(self) -> Searched | None:
        """What pictures are searched in, if an index lies with the version that answers."""
        return self._searched

    async def search(self, payload: Any) -> dict[str, Any]:
        """Answers a body of a search, already parsed: for each picture, those of the index that are nearest to it.

        Raises:
            NoIndex: there is none.
            InvalidInput: it is no such body, no picture in it can be read, or no picture has the label.
            Busy: too many pictures wait.
        """
        searched = self.within()
        asked = protocols.search_asked(payload)
        self._note(searched.loaded, len(asked.pictures))
        try:
            answers = await searched.nearest(asked.pictures, asked.top_k, asked.label)
        except InputError as reason:
            raise InvalidInput(str(reason).removeprefix(InputError.PREFIX)) from None
        _check_any(answers)
        return protocols.hits_answer(answers)

    def within(self) -> Searched:
        """What pictures are searched in.

        Raises:
            NoIndex: no index lies with the version that answers.
        """
        if not self._searched:
            rule = f"an index must lie with version {self.version.number} of {self.name} to search in it; got none"
            raise NoIndex(f"{rule}. Make one with image_search, its deploy_to where the model lies.")
        return self._searched

    def _note(self, loaded: Loaded, pictures: int) -> None:
        """Tells of a request's pictures, and refuses too many."""
        observing.tell(self.name, loaded.version.number, pictures)
        if pictures > MAX_PICTURES:
            rule = f"a request must hold at most {MAX_PICTURES} pictures"
            raise InvalidInput(f"{rule}; got {pictures}. Send several requests.")

    def get_input_types(self) -> list[dict[str, Any]]:
        return protocols.input_types()

    def get_output_types(self) -> list[dict[str, Any]]:
        return protocols.output_types(self.version.labels)

    def _answer_with(self, loaded: Loaded) -> None:
        assert loaded.version.fingerprint  # read from its files now, and not while somebody waits for an answer
        self._loaded, self.error, self.ready = loaded, None, True
        observing.VERSION.labels(self.name).set(loaded.version.number)

    def _refresh_index(self) -> list[str]:
        """Takes the index up that lies with the versions, if it is another one than was looked at before.

        One that is not whole is looked at again when its files have changed. What is searched in stays, whatever happens to
        its files, until there is something else or another version answers.
        """
        assert self._loaded
        try:
            looked_at = self._loaded, _states(files_in(self.index))
        except OSError:  # one is being taken away
            return []
        if looked_at == self._looked_at:
            return []
        self._looked_at, self.index_error = looked_at, None
        before = self._searched if self._searched and self._searched.loaded is self._loaded else None
        there = (self.index / ABOUT_FILE).exists()
        try:
            self._searched = Searched(self.index, self._loaded) if there or before or self._index_is_due else None
        except InputError as error:
            self._searched, self.index_error = before, error
        pictures = self._searched.index.about.pictures if self._searched else 0
        observing.INDEXED.labels(self.name).set(pictures)
        if self.index_error:
            return [f"{self.index_error} {'The index before goes on answering.' if before else 'There is no search.'}"]
        return [f"{self.name}: {pictures} pictures to search in"] if pictures else []


def _check_any(answers: Sequence[Any]) -> None:
    """Refuses a request of which nothing could be answered."""
    if all(isinstance(answer, Refused) for answer in answers):
        reasons = "; ".join(sorted({str(answer) for answer in answers}))
        remedy = f"Send JPEG or PNG, of at most {MAX_PIXELS // 1_000_000} million pixels."
        raise InvalidInput(f"a request must hold a picture that can be read; got {reasons}. {remedy}")


def _files(folder: Path) -> list[tuple]:
    """What tells whether something in a folder has changed."""
    return _states(sorted(folder.rglob("*")))


def _states(files: Iterable[Path]) -> list[tuple]:
    states = [(file, file.stat()) for file in files]
    return [(file, state.st_size, state.st_mtime_ns) for file, state in states]
