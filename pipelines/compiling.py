"""Compiles pipelines and components to YAML: the committed files, or files for another container registry."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from kfp.compiler import Compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.base_component import BaseComponent
from kfp.dsl.graph_component import GraphComponent

from kfp_vision import __version__, components
from kfp_vision.components.container_images import CPU_IMAGE, CPU_NAME, GPU_IMAGE, GPU_NAME
from kfp_vision.core.advanced import PRIORITY_LABEL, QUEUE_LABEL
from kfp_vision.pipelines import PIPELINES
from kfp_vision.pipelines.pods import PODS, TRAINING

TOP = Path(__file__).resolve().parent.parent
MANIFESTS = "manifests"  # absent from an installed package
COMPONENTS = MappingProxyType({name: getattr(components, name) for name in components.__all__})


@dataclass(frozen=True)
class Queue:
    """A queue of Kueue.

    Attributes:
        name: of the LocalQueue; empty for none.
        priority: name of the WorkloadPriorityClass; empty for the default.
    """

    name: str = ""
    priority: str = ""

    def labels(self) -> dict[str, str]:
        """Returns the labels of a pod in it."""
        return {QUEUE_LABEL: self.name} | ({PRIORITY_LABEL: self.priority} if self.priority else {})


NO_QUEUE = Queue()


def compile_all(folder: Path | None = None, registry: str = "", queue: Queue = NO_QUEUE) -> list[Path]:
    """Compiles and writes every pipeline, component and Kubernetes manifest, each into the folder of its kind.

    Args:
        folder: root of the files, created if missing; defaults to the project root.
        registry: host and path of the registry that holds the container images, such as `registry.example.org/team`; empty for
            `kfp_vision.REGISTRY`.
        queue: of Kueue, for the pods that train.

    Returns:
        The files written.

    Example:
        ```python
        compile_all(Path("compiled"), registry="registry.example.org/team")
        ```
    """
    files = texts(folder, registry, queue)
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(files)


def out_of_date(folder: Path | None = None, registry: str = "", queue: Queue = NO_QUEUE) -> list[Path]:
    """Finds the files that differ from what the current code compiles to.

    Args:
        folder: root of the files; defaults to the project root.
        registry: as in `compile_all`.
        queue: as in `compile_all`.

    Returns:
        The files that are missing or outdated.
    """
    current = texts(folder, registry, queue).items()
    return [file for file, text in current if not file.exists() or file.read_text(encoding="utf-8") != text]


def texts(folder: Path | None = None, registry: str = "", queue: Queue = NO_QUEUE) -> dict[Path, str]:
    """Compiles every pipeline, component and Kubernetes manifest.

    Args:
        folder: root of the files; defaults to the project root, without the kinds for which it has no folder.
        registry: as in `compile_all`.
        queue: as in `compile_all`.

    Returns:
        The text of each file by its path.
    """
    renderers: dict[PurePosixPath, Callable[[], str]] = {}
    queued = {name: with_queue(pipeline, queue) for name, pipeline in PIPELINES.items()}
    for name in PIPELINES:
        renderers[PurePosixPath("pipelines", f"{name}.yaml")] = partial(compiled, queued[name], registry)
    for name, component in COMPONENTS.items():
        renderers[PurePosixPath("components", f"{name}.yaml")] = partial(compiled, component, registry)
    for name in PIPELINES:
        renderers[PurePosixPath(MANIFESTS, "pipelines", f"{name}.yaml")] = partial(manifest, queued[name], registry)
    top = folder or TOP
    kept = (path for path in renderers if folder or (TOP / path.parts[0]).is_dir())
    return {top / path: renderers[path]() for path in kept}


def with_queue(pipeline: GraphComponent, queue: Queue) -> GraphComponent:
    """Labels the pods of a pipeline that train for a queue of Kueue.

    A run's form cannot say the queue: KFP copies the labels of a pod from the pipeline's YAML as they are, in
    `getPodMetadataParameters` of backend/src/v2/compiler/argocompiler/container.go of KFP 2.17.0.

    Args:
        pipeline: an entry of `PIPELINES`.
        queue: the queue.

    Returns:
        A copy with the labels; the pipeline itself without a queue.
    """
    if not queue.name:
        return pipeline
    labelled = copy.deepcopy(pipeline)
    executors = labelled.platform_spec.platforms["kubernetes"].deployment_spec.executors
    for name in (f"exec-{stage.replace('_', '-')}" for stage, pod in PODS.items() if pod == TRAINING):
        if name in executors:
            executors[name]["podMetadata"]["labels"].update(queue.labels())
    return labelled


def manifest(pipeline: BaseComponent, registry: str = "") -> str:
    """Compiles a pipeline to Kubernetes objects (Pipeline and PipelineVersion), for a KFP that stores pipelines in Kubernetes.

    Args:
        pipeline: an entry of `PIPELINES`.
        registry: as in `compile_all`.

    Returns:
        The YAML of both objects.
    """
    name = pipeline.pipeline_spec.pipeline_info.name
    version = KubernetesManifestOptions(pipeline_version_name=f"{name}-{__version__}", include_pipeline_manifest=True)
    return compiled(pipeline, registry, kubernetes_manifest_format=True, kubernetes_manifest_options=version)


def compiled(source: BaseComponent, registry: str = "", **options: Any) -> str:
    """Compiles a pipeline or component.

    Args:
        source: the pipeline or component.
        registry: as in `compile_all`.
        **options: of KFP's compiler.

    Returns:
        The YAML.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "compiled.yaml"
        Compiler().compile(source, str(file), **options)
        text = file.read_text(encoding="utf-8")
    if registry:
        for image, name in ((CPU_IMAGE, CPU_NAME), (GPU_IMAGE, GPU_NAME)):
            text = text.replace(f"image: {image}\n", f"image: {registry.rstrip('/')}/{name}\n")
    return text
