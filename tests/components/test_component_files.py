"""The stages as files that others load: what each says of itself, and that a pipeline of them runs."""

import warnings
from pathlib import Path

import pytest
from kfp import compiler, dsl, local
from kfp.components import load_component_from_file
from support import run_component

from kfp_vision import components

FOLDER = Path(components.__file__).parent


def types(contract: dict | None) -> dict[str, str]:
    """Types by name, of a list not what it holds: that, and the descriptions, KFP does not keep when it loads a file."""
    return {name: one.type.partition("[")[0] for name, one in (contract or {}).items()}


@pytest.mark.parametrize("name", components.__all__)
def test_a_file_has_the_inputs_and_outputs_of_its_component(name):
    loaded, ours = load_component_from_file(str(FOLDER / f"{name}.yaml")), getattr(components, name)
    assert loaded.name == ours.name
    assert " ".join(loaded.description.split()).startswith(" ".join(ours.description.split()))
    for of_loaded, of_ours in (
        (loaded.component_spec.inputs, ours.component_spec.inputs),
        (loaded.component_spec.outputs, ours.component_spec.outputs),
    ):
        assert types(of_loaded) == types(of_ours)


def test_a_pipeline_of_loaded_stages_runs(tmp_path):
    fingerprint, ingest, split = (
        load_component_from_file(str(FOLDER / f"{name}.yaml"))
        for name in ("fingerprint_images", "ingest_images", "split_images")
    )

    @dsl.pipeline(name="somebody-elses")
    def somebody_elses():
        ratios = {"validation_ratio": 0.2, "test_ratio": 0.1}
        found = fingerprint(images_uri="sample", leave_out_uri="", advanced={})
        ingested = ingest(**run_component.to_ingest("sample", fingerprint=found.output), **ratios)
        split(images=ingested.outputs["images"], advanced={}, **ratios)

    compiler.Compiler().compile(somebody_elses, str(tmp_path / "somebody_elses.yaml"))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        somebody_elses()
    (labels,) = (tmp_path / "root").glob("*/split-images/label_map/labels.txt")
    assert len(labels.read_text().splitlines()) >= 3
