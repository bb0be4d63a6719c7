"""The interface of engines, and their names."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kfp_vision.core.advanced import SERVING_ENGINES
from kfp_vision.core.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from kfp_vision.dataset.images import Rejected
    from kfp_vision.engines.cropping import Sides, Window

AUTO, OPENVINO, OPENVINO_FLOAT32, TENSORFLOW, TENSORFLOW_BFLOAT16, OPENVINO_INT8 = SERVING_ENGINES
FLOAT32_ENGINES = {OPENVINO: OPENVINO_FLOAT32, TENSORFLOW_BFLOAT16: TENSORFLOW}  # of engines in bfloat16, the same in float32
OPENVINO_FILE = "openvino/model.xml"  # of a version, with model.bin beside it
OPENVINO_HEAD_FILE = "openvino/head.npy"  # of a version with class activation maps: the kernel of its head, (width, classes)


def does_not_load(folder: Path, error: Exception) -> InputError:
    """Returns the error of a version that an engine does not load or get an answer from.

    Args:
        folder: of the version.
        error: that of the engine, of any type and length.
    """
    found = f"{folder} ({' '.join(str(error).split())[:200]})"
    return InputError("a model must load and answer", found, "Train or export it again.")


class Sight(NamedTuple):
    """What a network sees of an image.

    Attributes:
        crop: as `Engine.crop` returns it.
        sides: height and width of the whole image in pixels, upright.
        window: the part of it that the crop shows.
    """

    crop: Any
    sides: "Sides"
    window: "Window"


class Evidence(NamedTuple):
    """The scores of a crop, and where in it they come from.

    Attributes:
        scores: probabilities, float32 (classes,).
        embedding: the input of the classification head, scaled to length 1, float32 (width,).
        maps: from numbers of classes to their class activation maps, float32 (classes asked for, rows, columns), whose rows
            and columns divide the crop evenly. A map is in logits: its mean is the logit of the class, less the bias.
    """

    scores: "npt.NDArray[np.float32]"
    embedding: "npt.NDArray[np.float32]"
    maps: "Callable[[Sequence[int]], npt.NDArray[np.float32]]"


class Engine(Protocol):
    """Computes scores and embeddings of one version. All methods may be called in several threads at a time.

    Attributes:
        name: one of `SERVING_ENGINES`, but not `AUTO`.
        description: what computes, and in which precision, for people.
        crop_size: height and width in pixels of the crops that embeddings are computed from; 0 if the version takes no crops.
    """

    name: str
    description: str
    crop_size: int

    @property
    def has_embeddings(self) -> bool:
        """Whether the version computes embeddings; exports of early versions of this library do not."""

    def prepare(self, image: bytes, max_pixels: int) -> "Any | Rejected":
        """Checks and decodes an image for `scores`.

        Args:
            image: encoded, in any format.
            max_pixels: larger images are rejected.

        Returns:
            The image as `scores` takes it, or why it is rejected.
        """

    def scores(self, prepared: Sequence[Any]) -> "npt.NDArray[np.float32]":
        """Computes the probabilities of all classes.

        Args:
            prepared: results of `prepare`, at least one.

        Returns:
            Probabilities, float32 (images, classes).

        Raises:
            Rejected: one of the images is damaged; which one is not known.
        """

    @property
    def has_both_in_one_pass(self) -> bool:
        """Whether `scores_and_embeddings` costs no more than `scores`."""

    def scores_and_embeddings(self, prepared: Sequence[Any]) -> "tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]":
        """Computes what `scores` and `embeddings` do in one pass; only if `has_both_in_one_pass`.

        Args:
            prepared: results of `prepare`, at least one.

        Returns:
            Probabilities, float32 (images, classes), and embeddings, float32 (images, width).

        Raises:
            Rejected: one of the images is damaged; which one is not known.
        """

    def crop(self, image: bytes, max_pixels: int) -> "Any | Rejected":
        """Checks, decodes and crops an image for `embeddings`; only if `crop_size` is not 0.

        Args:
            image: encoded, in any format.
            max_pixels: larger images are rejected.

        Returns:
            The crop, or why the image is rejected.
        """

    def embeddings(self, crops: Sequence[Any]) -> "npt.NDArray[np.float32]":
        """Computes the inputs of the classification head, scaled to length 1; only if `has_embeddings`.

        Args:
            crops: results of `crop`, at least one.

        Returns:
            Embeddings, float32 (crops, width).
        """

    @property
    def has_maps(self) -> bool:
        """Whether the version has class activation maps.

        Exports of early versions of this library do not, nor networks that `networks.find_feature_map` does not know.
        """

    def look(self, image: bytes, max_pixels: int) -> "Sight | Rejected":
        """Checks, decodes and crops an image for `explain`; only if `has_maps`.

        Args:
            image: encoded, in any format.
            max_pixels: larger images are rejected.

        Returns:
            What the network sees, or why the image is rejected.
        """

    def explain(self, crops: Sequence[Any]) -> Sequence[Evidence]:
        """Computes probabilities, embeddings and class activation maps of all classes in one pass; only if `has_maps`.

        Args:
            crops: results of `crop`, at least one.

        Returns:
            The evidence in each crop.
        """
