"""White space around an address, as it comes with pasting, does not count in any field of any stage."""

import csv
import inspect
from pathlib import Path

import pytest
from support import colour_index, colour_model, exported_model, sample_images, shade_records

from kfp_vision import components
from kfp_vision.cli.run import form_defaults
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import ingest, scan
from kfp_vision.dataset.table import SPLITS
from kfp_vision.deployment import decide_training, deploy
from kfp_vision.evaluation.evaluate import evaluate_classifier
from kfp_vision.evaluation.gate import Criteria
from kfp_vision.pipelines import image_classification
from kfp_vision.prediction import batch, classifier
from kfp_vision.preflight import rules
from kfp_vision.records import convert, records_folder
from kfp_vision.repository.version import Version, fetch_version
from kfp_vision.search import build, deploy_index, query
from kfp_vision.storage import uris
from kfp_vision.training.recipe import Recipe

AROUND = ("{} ", " {}", "{}\n", "\t{}\r\n")


@pytest.fixture(scope="module", params=AROUND, ids=repr)
def paste(request):
    """Puts white space around an address."""
    return lambda address: request.param.format(address)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return sample_images.pictures(tmp_path_factory.mktemp("data") / "photos", each=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder, whose model knows colours."""
    root = tmp_path_factory.mktemp("models")
    colour_model.write_version(root / "serving" / "1")
    return root


@pytest.mark.parametrize("name", components.__all__)
def test_an_address_is_a_field_whose_name_is_listed(name):
    inputs = inspect.signature(getattr(components, name).python_func).parameters
    assert {one for one in inputs if one.endswith("_uri")} <= set(rules.URI_FIELDS)


def test_a_file_whose_name_ends_in_a_space_keeps_it(tmp_path):
    name = str(tmp_path / "photos ")
    assert uris.from_field(name) == name.strip()
    Path(name).mkdir()
    assert uris.from_field(name) == name


def test_the_checks_read_addresses_without_white_space(paste):
    form = form_defaults(image_classification)
    read = rules.read_uris(form | {"images_uri": paste("s3://bucket/photos"), "deploy_to": paste("kserve"), "model_name": "a "})
    assert (read["images_uri"], read["deploy_to"], read["model_name"]) == ("s3://bucket/photos", "kserve", "a ")
    assert read.keys() == form.keys()


@pytest.mark.parametrize(("name", "value"), [("deploy_to", "none "), ("predict_uri", " ")])
def test_white_space_that_a_condition_of_the_pipeline_would_take_for_an_address_is_rejected(name, value):
    with pytest.raises(InputError, match=rf"^error: {name} must be an address, or \w+ without white space around it; got "):
        rules.read_uris(form_defaults(image_classification) | {name: value})


def test_the_data_is_found_as_without_white_space(paste, photos, tmp_path):
    (tmp_path / "leave_out.csv").write_text("path\nbellcup/0001.jpg\n")
    given = (str(photos), str(tmp_path / "leave_out.csv"))
    pasted = tuple(paste(one) for one in given)
    assert scan.fingerprint_images(*pasted) == scan.fingerprint_images(*given)
    outputs = {"table": tmp_path / "images.csv", "page": tmp_path / "summary.html"}
    found = ingest.ingest_images(pasted[0], leave_out_uri=pasted[1], check_images=True, splits=2, **outputs)
    assert "bellcup/0001.jpg" not in {row.name for row in found.rows} and len(found.rows) > 3
    assert build.list_images(pasted[0], 1, tmp_path / "table.csv") == [0]
    with (tmp_path / "table.csv").open(newline="") as table:
        assert [row["uri"] for row in csv.DictReader(table)] == [row.uri for row in scan.scan_images(given[0]).rows]
    decided = decide_training.decide_training(*pasted, "recipe", True, paste(str(tmp_path / "none yet")), "flowers", {})
    assert decided == decide_training.decide_training(*given, "recipe", True, str(tmp_path / "none yet"), "flowers", {})


def test_models_and_records_are_found_as_without_white_space(paste, tmp_path):
    written = exported_model.version(tmp_path / "repository" / "3")
    assert fetch_version(paste(str(tmp_path / "repository")), tmp_path / "model").fingerprint == written.fingerprint
    embedder = build.fetch_embedder(paste(str(tmp_path / "repository")), "googlenet", "", tmp_path / "embedder")
    assert embedder.fingerprint == written.fingerprint
    (tmp_path / "records").mkdir()
    shade_records.write(tmp_path / "records")
    convert.write_shards(tmp_path / "records" / "test", "test", [], shade_records.LABELS, 1)
    outputs = {split: tmp_path / split for split in SPLITS}
    copied = records_folder.copy_records(paste(str(tmp_path / "records")), outputs, tmp_path / "labels")
    assert {split: info.images for split, info in copied.items()} == {"train": 32, "validation": 12, "test": 0}


def test_images_to_classify_are_found_as_without_white_space(paste, model, photos, tmp_path):
    version = Version(model / "serving" / "1")
    named = classifier.Classifier(version)
    given = str(photos)
    pasted, plain = (batch.predict_images(named, version.labels, uri, tmp_path / "table.csv") for uri in (paste(given), given))
    assert pasted == plain


def test_targets_are_found_as_without_white_space(paste, model, tmp_path):
    assert type(deploy.target_of(paste("kserve"))) is type(deploy.target_of("kserve"))
    repository = deploy.target_of(paste(str(tmp_path / "repository")))
    repository.check("flowers", {})
    assert type(repository) is not type(deploy.target_of("kserve"))
    assert [file.name for file in tmp_path.iterdir()] in ([], ["repository"])


@pytest.fixture(scope="module")
def indexed(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A model folder, images, and their index."""
    root = tmp_path_factory.mktemp("indexed")
    model, photos = colour_index.write_model(root / "model"), colour_index.write_pictures(root / "photos")
    return model, photos, colour_index.write(model, photos, root / "index")


@pytest.mark.slow
def test_indexes_are_found_as_without_white_space(paste, indexed, tmp_path):
    model, photos, index = indexed
    outputs = {"table": tmp_path / "found.csv", "page": tmp_path / "found.html"}
    searched = query.search_images(index, paste(str(photos)), count=1, label="", **outputs)
    assert searched == {"queries": colour_index.COUNT, "unreadable": 0}
    build.list_images(str(photos), 1, tmp_path / "table.csv")
    counts = build.index_images(tmp_path / "table.csv", model, paste(str(index)), part=tmp_path / "part")
    assert counts == {"pictures": colour_index.COUNT, "computed": 0}
    deployed = deploy_index.deploy_index(index, paste(str(model)), tmp_path / "deployed.json")
    assert deployed["repository"] == str(model / "serving")


def test_a_training_reads_addresses_without_white_space(paste):
    fields = {"checkpoint_uri": "imagenet", "checkpoint_dir": "s3://bucket/checkpoints", "log_uri": "gs://bucket/logs"}
    form = form_defaults(image_classification) | {name: paste(value) for name, value in fields.items()}
    recipe = Recipe.from_form(form)
    assert {name: getattr(recipe, name) for name in fields} == fields


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A model folder, and the records that it is evaluated on."""
    root = tmp_path_factory.mktemp("trained")
    shades = shade_records.write(root)
    return shade_records.train(shades, root / "run", train_steps=2)[1], shades / "validation"


@pytest.mark.slow
def test_the_gate_reads_addresses_without_white_space(paste, trained, photos, tmp_path):
    model, records = trained
    image = str(photos / "bellcup" / "0001.jpg")
    files = {name: tmp_path / name for name in ("evaluation", "page", "verdict")}
    evaluation = evaluate_classifier(model, records, records, Criteria(0.0, paste("kserve"), paste(image), {}), **files)
    assert evaluation.test_picture["uri"] == image
