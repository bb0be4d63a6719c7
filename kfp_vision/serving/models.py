"""The models that the server serves, each with its newest version, and new ones as they come."""

import threading
from pathlib import Path

from kserve.model_repository import ModelRepository

from kfp_vision.errors import InputError
from kfp_vision.serving import places
from kfp_vision.serving.model import ServedClassifier

POLL_SECONDS = 1.0


class Models(ModelRepository):
    """All models at a path, by name. One that does not load does not keep the others from answering.

    Args:
        path: a model folder, a repository, or a directory of such folders.
        name: of the one model; empty for its own.
        index: which the one model's pictures are searched in; by default one that lies with it, if one does.

    Raises:
        InputError: there is none, none that loads, `name` or `index` is for several, or that index is not of the model.
    """

    models: dict[str, ServedClassifier]

    def __init__(self, path: Path, name: str = "", index: Path | None = None):
        super().__init__(str(path))
        self._path, self._index = path, index
        self._here = places.at(path, name, index)
        self._grows = not places.alone(path)
        said = self.refresh()
        if not self.ready:
            errors = [model.error for model in self.models.values() if model.error]
            raise errors[0] if errors else InputError("a model must be readable", "; ".join(said), "Look at its folder.")
        if index and (reason := self.ready[0].index_error):
            raise reason
        _say(said)

    @property
    def ready(self) -> list[ServedClassifier]:
        """The models that answer."""
        return [model for model in self.models.values() if model.ready]

    @property
    def broken(self) -> list[str]:
        """Names of those that do not."""
        return [name for name, model in self.models.items() if not model.ready]

    def refresh(self) -> list[str]:
        """Takes up new versions, and new models where there can be several.

        Returns:
            Lines about what has changed.
        """
        said: list[str] = []
        if self._grows:
            self._here |= places.below(self._path)
        for name, place in self._here.items():
            model = self.models.get(name) or ServedClassifier(name, place, self._index)
            try:
                said += model.refresh()
            except OSError as error:  # a repository on a network may be gone for a moment
                said.append(f"warning: cannot look into {place} ({error})")
            self.models = self.models | {name: model}  # never changed while somebody goes through it
        return said

    def watch(self) -> None:
        """Refreshes as long as the process lives, in a thread of its own."""

        def look() -> None:
            pause = threading.Event()
            while not pause.wait(POLL_SECONDS):
                try:
                    _say(self.refresh())
                except Exception as error:  # whatever it is, the watch must go on
                    _say([f"warning: cannot look into {self._path} ({error})"])

        threading.Thread(target=look, daemon=True).start()


def _say(lines: list[str]) -> None:
    for line in lines:
        print(line, flush=True)
