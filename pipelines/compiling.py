"""From pipelines and components to YAML files: the committed ones, or ones for somebody's own registry."""

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
from kfp_vision.components.images import CPU_IMAGE, GPU_IMAGE
from kfp_vision.pipelines import PIPELINES

TOP = Path(__file__).resolve().parent.parent
MANIFESTS = "manifests"  # what an installed package does not have
COMPONENTS = MappingProxyType({name: getattr(components, name) for name in components.__all__})


def compile_all(folder: Path | None = None, registry: str = "") -> list[Path]:
    """Writes every pipeline, every component, and every pipeline as a manifest of Kubernetes, each into a folder of its kind.

    Args:
        folder: made if it is not there; by default the top of the project.
        registry: host and path of the registry that holds the images, such as `registry.example.org/team`; empty for none.

    Returns:
        The files written.
    """
    written = texts(folder, registry)
    for file, text in written.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return list(written)


def out_of_date(folder: Path | None = None, registry: str = "") -> list[Path]:
    """The files that are not what is compiled now."""
    wanted = texts(folder, registry).items()
    return [file for file, text in wanted if not file.exists() or file.read_text(encoding="utf-8") != text]


def texts(folder: Path | None = None, registry: str = "") -> dict[Path, str]:
    """Where each file belongs, and its text. See `compile_all`."""
    made: dict[PurePosixPath, Callable[[], str]] = {}
    for name, pipeline in PIPELINES.items():
        made[PurePosixPath("pipelines", f"{name}.yaml")] = partial(compiled, pipeline, registry)
    for name, component in COMPONENTS.items():
        made[PurePosixPath("components", f"{name}.yaml")] = partial(compiled, component, registry)
    for name, pipeline in PIPELINES.items():
        made[PurePosixPath(MANIFESTS, "pipelines", f"{name}.yaml")] = partial(manifest, pipeline, registry)
    top = folder or TOP
    belong = (place for place in made if folder or (TOP / place.parts[0]).is_dir())
    return {top / place: made[place]() for place in belong}


def manifest(pipeline: BaseComponent, registry: str = "") -> str:
    """A pipeline and this version of it as Kubernetes' own objects, for a KFP that keeps its pipelines there."""
    name = pipeline.pipeline_spec.pipeline_info.name
    version = KubernetesManifestOptions(pipeline_version_name=f"{name}-{__version__}", include_pipeline_manifest=True)
    return compiled(pipeline, registry, kubernetes_manifest_format=True, kubernetes_manifest_options=version)


def compiled(one: BaseComponent, registry: str = "", **how: Any) -> str:
    """The YAML of a pipeline or a component, its images in a registry; `how` is of KFP's compiler."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "compiled.yaml"
        Compiler().compile(one, str(file), **how)
        text = file.read_text(encoding="utf-8")
    if registry:
        for image in (CPU_IMAGE, GPU_IMAGE):
            text = text.replace(f"image: {image}\n", f"image: {registry.rstrip('/')}/{image}\n")
    return text
