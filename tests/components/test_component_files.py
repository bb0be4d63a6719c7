"""The component files that others load: their interface, and a pipeline of them."""

import warnings
from pathlib import Path

import pytest
from kfp import compiler, dsl, local
from kfp.components import load_component_from_file
from support import run_component

from kfp_vision import components

FOLDER = Path(components.__file__).parent


def types(contract: dict | None) -> dict[str, str]:
    """Returns types by name, without the item types of lists, which KFP drops, with the descriptions, when it loads a file."""
    return {name: port.type.partition("[")[0] for name, port in (contract or {}).items()}


@pytest.mark.parametrize("name", components.__all__)
def test_a_yaml_file_has_the_inputs_and_outputs_of_its_component(name):
    loaded, ours = load_component_from_file(str(FOLDER / f"{name}.yaml")), getattr(components, name)
    assert loaded.name == ours.name
    assert " ".join(loaded.description.split()).startswith(" ".join(ours.description.split()))
    for loaded_ports, our_ports in (
        (loaded.component_spec.inputs, ours.component_spec.inputs),
        (loaded.component_spec.outputs, ours.component_spec.outputs),
    ):
        assert types(loaded_ports) == types(our_ports)


@pytest.mark.slow
def test_a_pipeline_of_loaded_components_runs(tmp_path):
    fingerprint, ingest, split = (
        load_component_from_file(str(FOLDER / f"{name}.yaml"))
        for name in ("fingerprint_images", "ingest_images", "split_images")
    )

    @dsl.pipeline(name="somebody-elses")
    def third_party_pipeline():
        ratios = {"validation_ratio": 0.2, "test_ratio": 0.1}
        found = fingerprint(images_uri="sample", leave_out_uri="", labels_uri="", labels="one", advanced={})
        ingested = ingest(**run_component.ingest_arguments("sample", fingerprint=found.output), **ratios)
        split(images=ingested.outputs["images"], labels="one", advanced={}, **ratios)

    compiler.Compiler().compile(third_party_pipeline, str(tmp_path / "somebody_elses.yaml"))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "root"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You may be attemping to run a task that uses custom", RuntimeWarning)
        third_party_pipeline()
    (labels,) = (tmp_path / "root").glob("*/split-images/label_map/labels.txt")
    assert len(labels.read_text().splitlines()) >= 3
