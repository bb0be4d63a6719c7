"""The registry of served models: keeps each at its newest version, and picks up new models."""

import threading
from pathlib import Path

from kfp_vision.collection.collect import Collector
from kfp_vision.core.errors import InputError
from kfp_vision.serving import find_models
from kfp_vision.serving.kserve_parts import ModelRepository
from kfp_vision.serving.model import ServedClassifier

POLL_SECONDS = 1.0


class ServedModels(ModelRepository):
    """All models at a path, by name. A model that does not load does not keep the others from answering.

    Args:
        path: a model folder, a repository, or a directory of them.
        name: the name of a single model; empty for its own.
        index: the search index of a single model; by default the one next to its versions, if any.
        collector: collects a sample of the predictions; None for none.

    Raises:
        InputError: there is no model, none loads, `name` or `index` is given for several models, or the index is not of
            the model.
    """

    models: dict[str, ServedClassifier]

    def __init__(self, path: Path, name: str = "", index: Path | None = None, collector: Collector | None = None):
        super().__init__(str(path))
        self._path, self._index, self._collector = path, index, collector
        self._repositories = find_models.find_models(path, name, index)
        self._is_directory = not find_models.single_repository(path)  # of models, to which more can be added
        messages = self.refresh()
        if not self.ready:
            errors = [model.error for model in self.models.values() if model.error]
            raise errors[0] if errors else InputError("a model must be readable", "; ".join(messages), "Look at its folder.")
        if index and (error := self.ready[0].index_error):
            raise error
        _print_lines(messages)

    @property
    def ready(self) -> list[ServedClassifier]:
        """The models that answer."""
        return [model for model in self.models.values() if model.ready]

    @property
    def broken(self) -> list[str]:
        """Names of the models that do not answer."""
        return [name for name, model in self.models.items() if not model.ready]

    def refresh(self) -> list[str]:
        """Picks up new versions, and in a directory new models.

        Returns:
            Messages about what changed.
        """
        messages: list[str] = []
        if self._is_directory:
            self._repositories |= find_models.find_repositories(self._path)
        for name, place in self._repositories.items():
            model = self.models.get(name) or ServedClassifier(name, place, self._index, self._collector)
            try:
                messages += model.refresh()
            except OSError as error:  # a network file system may be unavailable for a moment
                messages.append(f"warning: cannot look into {place} ({error})")
            self.models = self.models | {name: model}  # replaced, since other threads may be iterating over it
        return messages

    def watch(self) -> None:
        """Refreshes in a daemon thread for as long as the process lives."""

        def poll() -> None:
            pause = threading.Event()
            while not pause.wait(POLL_SECONDS):
                try:
                    _print_lines(self.refresh())
                except Exception as error:  # the thread must survive anything
                    _print_lines([f"warning: cannot look into {self._path} ({error})"])

        threading.Thread(target=poll, daemon=True).start()


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        print(find_models.printable(line), flush=True)
