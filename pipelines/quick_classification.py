import inspect
from typing import Any

from kfp import dsl

from kfp_vision.networks import IMAGENET
from kfp_vision.pipelines.classification import classify
from kfp_vision.pipelines.form import like, with_choices
from kfp_vision.pipelines.image_classification import image_classification
from kfp_vision.pipelines.pods import RUN

FORM = ("images_uri", "model_name", "deploy_to", "gpu_count", "min_accuracy", "test_image_uri", "advanced")
# The classification head alone is trained, on embeddings that are computed once: minutes on a processor, and enough for a few
# hundred images. With GoogLeNet and Caffe's weights instead, 134 of 150 held-out photographs of the tutorial's flowers (602 to
# train on) were right; at 320 pixels, or with batches of 64 and twice the rate, no more.
QUICK_RECIPE = {
    "network": "inception_v1",
    "checkpoint_uri": IMAGENET,
    "train_last_layer_only": True,
    "batch_size": 32,
    "train_steps": 600,
    "optimizer": "momentum",
    "learning_rate": 0.01,
    "learning_rate_schedule": "cosine",
}
TAINT = {"key": "nvidia.com/gpu", "operator": "Exists"}  # the usual one of nodes with GPUs
DEFAULTS = {name: field.default for name, field in inspect.signature(image_classification.pipeline_func).parameters.items()}
FIXED = {name: value for name, value in (DEFAULTS | QUICK_RECIPE | {"tolerations": [TAINT]}).items() if name not in FORM}


@with_choices({})
@dsl.pipeline(name="quick-classification", pipeline_config=RUN)
@like(image_classification, without=tuple(FIXED), gpu_count=(0, "number of GPUs; 0 for none. The recipe needs none."))
def quick_classification(fields: dict[str, Any]) -> None:
    """Trains and deploys a classifier from folders of images: a short form and a recipe of minutes that needs no GPU.

    Trains the classification head of Inception v1 on ImageNet's weights for 600 steps, at a learning rate of 0.01 with a cosine
    schedule. The stages are those of image_classification, whose form has all other fields.
    """
    classify(FIXED | fields)
