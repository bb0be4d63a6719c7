"""What a recipe sets, and what wins over it."""

import json

import pytest

from kfp_vision.cli.run import form_defaults
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.pipelines import PIPELINES, image_classification
from kfp_vision.preflight import checks, rules
from kfp_vision.training.recipe import Recipe
from kfp_vision.training.recipe_presets import DEFAULTS, PRESETS, RECIPES, Preset

ONE_TRAINING = ("image_classification", "image_classification_partitioned", "quick_classification", "train_only")


@pytest.fixture
def fields() -> dict[str, object]:
    """Returns every field of the form at its default, with whole numbers as floats, as KFP passes them."""
    return form_defaults(image_classification)


def test_the_defaults_are_those_of_the_form(fields):
    assert {name: fields[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_sets_fields_of_the_form_and_of_advanced_to_valid_values(fields, recipe):
    preset = PRESETS[recipe]
    assert preset.keys() <= DEFAULTS.keys() | {"advanced"}
    Advanced.parse(preset.get("advanced", {}))
    rules.check_values(fields | {"recipe": recipe})


def test_every_pipeline_that_trains_one_model_has_the_field():
    having = [name for name, pipeline in PIPELINES.items() if "recipe" in form_defaults(pipeline)]
    assert sorted(having) == sorted(ONE_TRAINING)


def test_the_tutorial_sets_nothing(fields):
    preset = Preset.of_form(fields)
    assert (preset.to_json(), preset.describe(), preset.apply(fields)) == ({}, [], fields)


def test_a_recipe_sets_what_is_at_its_default(fields):
    quick = Preset.of_form(fields | {"recipe": "quick"}).apply(fields)
    assert {name: quick[name] for name in PRESETS["quick"]} == PRESETS["quick"]  # advanced too
    assert quick["image_size"] == 0 and quick["fine_tune"] is True


def test_fields_that_differ_and_names_in_advanced_win(fields):
    given = fields | {"recipe": "best", "train_steps": 100.0, "advanced": {"label_smoothing": 0.0, "momentum": 0.8}}
    best = Preset.of_form(given).apply(given)
    assert best["train_steps"] == 100
    assert best["batch_size"] == PRESETS["best"]["batch_size"]
    assert best["advanced"] == PRESETS["best"]["advanced"] | {"label_smoothing": 0.0, "momentum": 0.8}


def test_the_lines_of_a_preset_say_what_is_set():
    floats = Preset.from_json({"recipe": "quick", "fields": {"batch_size": 32.0}, "advanced": {"head_steps": 5.0}})
    assert floats.describe() == ["recipe=quick sets batch_size=32, head_steps of advanced=5"]
    preset = Preset("quick", {"train_last_layer_only": True, "batch_size": 32}, {"seed": 1})
    assert preset.describe() == ["recipe=quick sets train_last_layer_only=true, batch_size=32, seed of advanced=1"]


def test_a_training_takes_a_preset_as_another_stage_wrote_it(fields):
    preset = Preset("best", {"network": "resnet50", "batch_size": 32}, {"label_smoothing": 0.1}, "it fits")
    written = json.loads(json.dumps(preset.to_json()).replace("32", "32.0"))
    recipe = Recipe.from_form(fields | {"preset": written})
    assert (recipe.network, recipe.batch_size, recipe.advanced.label_smoothing) == ("resnet50", 32, 0.1)
    assert isinstance(recipe.batch_size, int)
    assert recipe.preset == preset


def test_an_unknown_recipe_and_one_without_weights_are_rejected(fields):
    with pytest.raises(InputError, match="recipe must be one of tutorial, quick, best; got fast"):
        rules.check_values(fields | {"recipe": "fast"})
    with pytest.raises(InputError, match="recipe=quick must start from published weights; got fine_tune=false"):
        rules.check_values(fields | {"recipe": "quick", "fine_tune": False})


def test_the_hash_of_a_recipe_is_that_of_the_same_fields_set_by_hand(fields):
    def hashed(**changes: object) -> str:
        form = fields | changes
        advanced = rules.check_values(form)
        return checks._recipe(checks.fill_in(form, advanced)[0], advanced)

    assert hashed(recipe="quick") == hashed(**PRESETS["quick"])
    assert len({hashed(), hashed(recipe="quick"), hashed(recipe="quick", train_steps=700)}) == 3
