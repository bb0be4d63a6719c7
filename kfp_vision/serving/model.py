"""A served model: answers with the newest version of its repository that loads, and searches the index next to it."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kfp_vision.collection.collect import Collector
from kfp_vision.core.errors import InputError, format_value
from kfp_vision.dataset.images import PILLOW_FORMATS, Rejected
from kfp_vision.prediction.classifier import Answer
from kfp_vision.prediction.client import FINGERPRINT_HEADER
from kfp_vision.repository.version import EXPORTS_FILE, EXPORTS_FOLDER, INDEX_FOLDER, Version, versions
from kfp_vision.search.index import INDEX_FILE, index_files
from kfp_vision.serving import protocols, telemetry
from kfp_vision.serving.image_search import LoadedIndex, NotIndexed
from kfp_vision.serving.inference import MAX_PIXELS, LoadedModel
from kfp_vision.serving.instances import InvalidInstance
from kfp_vision.serving.kserve_parts import InferRequest, InvalidInput, Model

MAX_IMAGES_PER_REQUEST = 256  # of one request
MAX_REASONS = 3  # named in an error; there may be one for each image

# Path, size, and times of the last change to content and to permissions or content of files, which reveal a change.
FileStates = list[tuple[Path, int, int, int]]


class NotLoaded(Exception):
    """The version that a request asks for is not the one that answers."""


class NotExplained(Exception):
    """The version that answers has no class activation maps."""


class ServedClassifier(Model):
    """The newest version of a repository that loads. The version that is current when a request arrives answers it.

    Args:
        name: the model's name in URLs.
        path: the repository.
        index: the index to search; by default the one next to the versions, if any.
        collector: collects a sample of the predictions; None for none.

    Attributes:
        error: why the newest version tried does not answer; None if it does.
        index_error: why the index tried last is not searched; None if it is.
    """

    def __init__(self, name: str, path: Path, index: Path | None = None, collector: Collector | None = None):
        super().__init__(name, return_response_headers=True)
        self._collector = collector
        self.path, self.index = path, index or path / INDEX_FOLDER
        self.error: InputError | None = None
        self._loaded: LoadedModel | None = None
        self._broken: dict[Path, FileStates] = {}
        self.index_error: InputError | None = None
        self._index_required = index is not None
        self._searched: LoadedIndex | None = None
        self._last_seen: tuple[LoadedModel, FileStates] | None = None

    @property
    def version(self) -> Version:
        """The version that answers."""
        assert self._loaded
        return self._loaded.version

    def load(self) -> bool:
        """Returns whether a version answers; `refresh` loads versions, not KServe's call of this method."""
        return bool(self.ready)

    def refresh(self) -> list[str]:
        """Picks up the newest version that loads, and the index next to it, if they have changed.

        A version that does not load is tried again once its files or the exports beside it have changed, since these may still
        be being copied, and exports are made after the version.

        Returns:
            Messages about what changed.
        """
        messages = []
        for version in reversed(versions(self.path)):
            if self._loaded and version.folder == self.version.folder:
                break
            files = _file_states([*sorted(version.folder.rglob("*")), *self.path.glob(f"{EXPORTS_FOLDER}/{EXPORTS_FILE}")])
            if self._broken.get(version.folder) == files:
                continue
            try:
                self._switch_to(LoadedModel(version, self.name, keep_embeddings=self._collector is not None))
            except InputError as error:
                self.error, self._broken[version.folder] = error, files
                consequence = f"Version {self.version.number} goes on answering." if self._loaded else "It does not answer."
                messages.append(f"{error} {consequence}")
            else:
                computed = f"computed by {self._loaded.engine}" if self._loaded else ""
                messages.append(f"{self.name}, version {version.number}: {', '.join(version.labels)}; {computed}")
                break
        return messages + (self._refresh_index() if self._loaded else [])

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answers a prediction request.

        Args:
            payload: a `V1Request`, or a V2 request; either may name the version that must answer.
            headers: unused; KServe passes them.
            response_headers: gets the fingerprint of the version that answers.

        Returns:
            The response in the request's protocol: a V1 body or a V2 response.

        Raises:
            InvalidInput: the request follows neither protocol, or none of its images can be read.
            NotLoaded: another version answers than the request names.
            Busy: too many images are waiting.
        """
        assert self._loaded
        loaded = self._loaded  # one version for the whole request, even if a new one is picked up meanwhile
        is_v2 = isinstance(payload, InferRequest)
        self._check_version(loaded, payload.model_version if is_v2 else payload.version)
        request = protocols.parse_predict_request(payload, partial(self._check_size, loaded))
        if response_headers is not None:
            response_headers[FINGERPRINT_HEADER] = loaded.version.fingerprint
        answers = await loaded.classify(request.images)
        _check_any_readable(answers)
        self._collect(loaded.version, request.images, answers)
        if is_v2:
            return protocols.v2_response(payload, self.name, loaded.version, answers, request.top_k)
        return protocols.v1_response(answers, loaded.version, request)

    @property
    def explains(self) -> bool:
        """Whether the version that answers has class activation maps."""
        assert self._loaded
        return self._loaded.has_maps

    async def explain(self, payload: Any, headers: Any = None) -> Any:
        """Answers a request for class activation maps.

        Args:
            payload: a `V1Request`, which may name the version that must answer.
            headers: gets the fingerprint of the version that answers, since KServe returns them as those of the response.

        Returns:
            The body of the response, with predictions and explanations.

        Raises:
            NotExplained: the version that answers has no class activation maps.
            InvalidInput: the body is invalid, or none of its images can be read.
            NotLoaded: another version answers than the request names.
            Busy: too many images are waiting.
        """
        assert self._loaded
        loaded = self._loaded  # one version for the whole request, even if a new one is picked up meanwhile
        self._check_version(loaded, payload.version)
        if not loaded.has_maps:
            rule = f"version {loaded.version.number} of {self.name} must have class activation maps to explain its answers"
            raise NotExplained(f"{rule}; got none. Train it again with this release, and any network but convnext_tiny.")
        request = protocols.parse_explain_request(payload, loaded.version.labels, partial(self._check_size, loaded))
        if headers is not None:
            headers[FINGERPRINT_HEADER] = loaded.version.fingerprint
        answers = await loaded.explain(request.predict.images, request.choose, lay_over=request.overlay)
        _check_any_readable(answers)
        return protocols.explain_response(answers, loaded.version, request)

    def check_version(self, version: str) -> None:
        """Checks that a version answers.

        Args:
            version: its number; empty for whichever does.

        Raises:
            NotLoaded: another one does.
        """
        assert self._loaded
        self._check_version(self._loaded, version)

    @property
    def searched(self) -> LoadedIndex | None:
        """The index that is searched, if the version that answers has one."""
        return self._searched

    async def search(self, payload: protocols.V1Request) -> dict[str, Any]:
        """Answers a search request.

        Args:
            payload: the request, which may name the version that must answer.

        Returns:
            The body of the response, with the hits of each image.

        Raises:
            NoIndex: there is no index.
            NotLoaded: another version answers than the request names.
            InvalidInput: the body is invalid, none of its images can be read, or no image has the label.
            Busy: too many images are waiting.
        """
        searched = self.required_index()
        self._check_version(searched.loaded, payload.version)
        request = protocols.parse_search_request(payload, partial(self._check_size, searched.loaded))
        try:
            answers = await searched.nearest(request.images, request.top_k, request.label)
        except InputError as error:
            raise InvalidInput(str(error).removeprefix(InputError.PREFIX)) from None
        _check_any_readable(answers)
        return protocols.search_response(answers)

    def required_index(self) -> LoadedIndex:
        """Returns the index that is searched.

        Raises:
            NoIndex: the version that answers has none.
        """
        if not self._searched:
            rule = f"version {self.version.number} of {self.name} must have an index to search; got none"
            raise NotIndexed(f"{rule}. Build one with image_search, with the model's repository as deploy_to.")
        return self._searched

    def get_input_types(self) -> list[dict[str, Any]]:
        """Describes the input for V2's model metadata."""
        return protocols.v2_inputs()

    def get_output_types(self) -> list[dict[str, Any]]:
        """Describes the outputs for V2's model metadata."""
        assert self._loaded
        version = self.version
        return protocols.v2_outputs(version.labels, several=version.several, tells_known=self._loaded.tells_known)

    def _check_version(self, loaded: LoadedModel, version: str | None) -> None:
        number = loaded.version.number
        if version and not (version.isdecimal() and len(version) < 20 and int(version) == number):
            found = f"{format_value(version, 50)}, and of {self.name} version {number} is loaded"
            raise NotLoaded(f"the version must be one that is loaded; got {found}. Name that one, or none for the newest.")

    def _check_size(self, loaded: LoadedModel, images: int) -> None:
        telemetry.annotate_request(self.name, loaded.version.number, images)
        if images > MAX_IMAGES_PER_REQUEST:
            raise InvalidInput(
                f"a request must hold at most {MAX_IMAGES_PER_REQUEST} images; got {images}. Send several requests."
            )

    def _collect(self, version: Version, images: Sequence[bytes | Rejected], answers: Sequence[Answer]) -> None:
        if self._collector:
            for image, answer in zip(images, answers, strict=True):
                if not isinstance(image, Rejected) and not isinstance(answer, Rejected):
                    self._collector.offer(self.name, version, answer, image)

    def _switch_to(self, loaded: LoadedModel) -> None:
        assert loaded.version.fingerprint  # computes and caches it, before a request needs it
        self._loaded, self.error, self.ready = loaded, None, True
        telemetry.MODEL_VERSION.labels(self.name).set(loaded.version.number)

    def _refresh_index(self) -> list[str]:
        """Loads the index if it or the version has changed.

        An incomplete index is tried again once its files have changed. The loaded index stays in use, even if its files
        are deleted, until it can be replaced or another version answers.
        """
        assert self._loaded
        try:
            seen = self._loaded, _file_states(index_files(self.index))
        except OSError:  # the index is being deleted or replaced
            return []
        if seen == self._last_seen:
            return []
        self._last_seen, self.index_error = seen, None
        previous = self._searched if self._searched and self._searched.loaded is self._loaded else None
        exists = (self.index / INDEX_FILE).exists()
        try:
            self._searched = LoadedIndex(self.index, self._loaded) if exists or previous or self._index_required else None
        except InputError as error:
            self._searched, self.index_error = previous, error
        images = self._searched.index.about.pictures if self._searched else 0
        telemetry.INDEX_IMAGES.labels(self.name).set(images)
        if self.index_error:
            return [f"{self.index_error} {'The previous index goes on answering.' if previous else 'Search is not available.'}"]
        return [f"{self.name}: {images} images to search"] if images else []


def _check_any_readable(answers: Sequence[Any]) -> None:
    if not all(isinstance(answer, Rejected) for answer in answers):
        return
    reasons = list(dict.fromkeys(map(str, answers)))
    others = len(reasons) - MAX_REASONS
    if all(isinstance(answer, InvalidInstance) for answer in answers):
        raise InvalidInput(" ".join(reasons[:MAX_REASONS]) + (f" {others} more are wrong." if others > 0 else ""))
    found = "; ".join(reason.removesuffix(".") for reason in reasons[:MAX_REASONS]) + (
        f"; and {others} more reasons" if others > 0 else ""
    )
    remedy = f"Formats: {', '.join(PILLOW_FORMATS)}, of at most {MAX_PIXELS // 1_000_000} million pixels."
    raise InvalidInput(f"a request must hold a readable image; got {found}. {remedy}")


def _file_states(files: Iterable[Path]) -> FileStates:
    states = [(file, file.stat()) for file in files]
    return [(file, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for file, state in states]
