"""From pipelines to YAML files: the committed ones, or ones for somebody's own registry."""

import tempfile
from pathlib import Path

from kfp.compiler import Compiler
from kfp.dsl.graph_component import GraphComponent

from kfp_vision.components.images import CPU_IMAGE, GPU_IMAGE
from kfp_vision.pipelines import PIPELINES

HERE = Path(__file__).resolve().parent


def compile_all(folder: Path = HERE, registry: str = "") -> list[Path]:
    """Writes the YAML of every pipeline into a folder.

    Args:
        folder: made if it is not there.
        registry: host and path of the registry that holds the images, such as `registry.example.org/team`; empty for none.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, pipeline in PIPELINES.items():
        files.append(folder / f"{name}.yaml")
        files[-1].write_text(compiled(pipeline, registry), encoding="utf-8")
    return files


def out_of_date(folder: Path = HERE, registry: str = "") -> list[Path]:
    """The files that are not what the pipelines compile to now."""
    files = {folder / f"{name}.yaml": compiled(pipeline, registry) for name, pipeline in PIPELINES.items()}
    return [file for file, text in files.items() if not file.exists() or file.read_text(encoding="utf-8") != text]


def compiled(pipeline: GraphComponent, registry: str = "") -> str:
    """The YAML of a pipeline, its images in a registry."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        Compiler().compile(pipeline, str(file))
        text = file.read_text(encoding="utf-8")
    if registry:
        for image in (CPU_IMAGE, GPU_IMAGE):
            text = text.replace(f"image: {image}\n", f"image: {registry.rstrip('/')}/{image}\n")
    return text
