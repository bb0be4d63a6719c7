import inspect
from typing import Any

from kfp import dsl

from kfp_vision.pipelines.classification import classify
from kfp_vision.pipelines.form import like, with_choices
from kfp_vision.pipelines.image_classification import image_classification
from kfp_vision.pipelines.pods import RUN
from kfp_vision.preflight import rules
from kfp_vision.training.recipe_presets import RECIPES

FORM = ("images_uri", "labels", "recipe", "model_name", "deploy_to", "gpu_count", "min_accuracy", "test_image_uri", "advanced")
TAINT = {"key": "nvidia.com/gpu", "operator": "Exists"}  # the usual one of nodes with GPUs
DEFAULTS = {name: field.default for name, field in inspect.signature(image_classification.pipeline_func).parameters.items()}
FIXED = {name: value for name, value in (DEFAULTS | {"tolerations": [TAINT]}).items() if name not in FORM}
RECIPE = "quick, which needs no GPU, best or tutorial; docs/reference/recipes.md says what each sets."


@with_choices({"labels": rules.CHOICES["labels"], "recipe": RECIPES})
@dsl.pipeline(name="quick-classification", pipeline_config=RUN)
@like(
    image_classification,
    without=tuple(FIXED),
    recipe=("quick", RECIPE),
    gpu_count=(0, "number of GPUs; 0 for none. The recipe quick needs none."),
)
def quick_classification(fields: dict[str, Any]) -> None:
    """Trains and deploys a classifier from folders of images: a short form and a recipe of minutes that needs no GPU.

    The recipe quick trains the last blocks of a network alone, from published weights. The stages are those of
    image_classification, whose form has all other fields.
    """
    classify(FIXED | fields)
