"""Compiles pipelines and components to YAML: the committed files, or files for another container registry."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from kfp.compiler import Compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.base_component import BaseComponent

from kfp_vision import __version__, components
from kfp_vision.components.container_images import CPU_IMAGE, CPU_NAME, GPU_IMAGE, GPU_NAME
from kfp_vision.pipelines import PIPELINES

TOP = Path(__file__).resolve().parent.parent
MANIFESTS = "manifests"  # absent from an installed package
COMPONENTS = MappingProxyType({name: getattr(components, name) for name in components.__all__})


def compile_all(folder: Path | None = None, registry: str = "") -> list[Path]:
    """Compiles and writes every pipeline, component and Kubernetes manifest, each into the folder of its kind.

    Args:
        folder: root of the files, created if missing; defaults to the project root.
        registry: host and path of the registry that holds the container images, such as `registry.example.org/team`; empty for
            `kfp_vision.REGISTRY`.

    Returns:
        The files written.

    Example:
        ```python
        compile_all(Path("compiled"), registry="registry.example.org/team")
        ```
    """
    files = texts(folder, registry)
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(files)


def out_of_date(folder: Path | None = None, registry: str = "") -> list[Path]:
    """Finds the files that differ from what the current code compiles to.

    Args:
        folder: root of the files; defaults to the project root.
        registry: as in `compile_all`.

    Returns:
        The files that are missing or outdated.
    """
    current = texts(folder, registry).items()
    return [file for file, text in current if not file.exists() or file.read_text(encoding="utf-8") != text]


def texts(folder: Path | None = None, registry: str = "") -> dict[Path, str]:
    """Compiles every pipeline, component and Kubernetes manifest.

    Args:
        folder: root of the files; defaults to the project root, without the kinds for which it has no folder.
        registry: as in `compile_all`.

    Returns:
        The text of each file by its path.
    """
    renderers: dict[PurePosixPath, Callable[[], str]] = {}
    for name, pipeline in PIPELINES.items():
        renderers[PurePosixPath("pipelines", f"{name}.yaml")] = partial(compiled, pipeline, registry)
    for name, component in COMPONENTS.items():
        renderers[PurePosixPath("components", f"{name}.yaml")] = partial(compiled, component, registry)
    for name, pipeline in PIPELINES.items():
        renderers[PurePosixPath(MANIFESTS, "pipelines", f"{name}.yaml")] = partial(manifest, pipeline, registry)
    top = folder or TOP
    kept = (path for path in renderers if folder or (TOP / path.parts[0]).is_dir())
    return {top / path: renderers[path]() for path in kept}


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
