from kfp import dsl

from kfp_vision import parameters
from kfp_vision.networks import NETWORKS
from kfp_vision.pipelines.classification import classify
from kfp_vision.pipelines.form import with_choices
from kfp_vision.pipelines.pods import RUN

FLOWERS = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"


@with_choices(parameters.CHOICES)
@dsl.pipeline(name="image-classification", pipeline_config=RUN)
def image_classification(
    images_uri: str = FLOWERS,
    leave_out_uri: str = "",
    check_images: bool = True,
    validation_ratio: float = 0.2,
    test_ratio: float = 0.0,
    images_per_shard: int = 1000,
    network: str = "inception_v1",
    fine_tune: bool = True,
    checkpoint_uri: str = NETWORKS["inception_v1"].imagenet,
    train_last_layer_only: bool = False,
    batch_size: int = 16,
    learning_rate: float = 0.0025,
    train_steps: int = 6000,
    optimizer: str = "sgd",
    learning_rate_schedule: str = "exponential",
    image_size: int = 0,
    advanced: dict = {},  # noqa: B006
    log_uri: str = "",
    checkpoint_dir: str = "",
    gpu_type: str = "nvidia.com/gpu",
    gpu_count: int = 1,
    node_selector: dict = {},  # noqa: B006
    tolerations: list = [],  # noqa: B006
    min_accuracy: float = 0.0,
    model_name: str = "classifier",
    deploy_to: str = "none",
    skip_unchanged: bool = False,
    test_image_uri: str = "",
    predict_uri: str = "",
):
    """From folders of pictures to a deployed classifier. With nothing filled in: the five flowers, fine-tuned Inception v1.

    Args:
        images_uri: a folder of class folders, an archive of one (also over http), or sample.
        leave_out_uri: pictures to leave out, as the audit of image_search lists them: CSV with a column path; empty for none.
        check_images: refuse data that no classifier can be trained on.
        validation_ratio: share of each class held out while training.
        test_ratio: share of each class held out for the last evaluation; 0 for none.
        images_per_shard: pictures in each TFRecord file but the last.
        network: inception_v1, googlenet, or one of keras.applications, such as resnet50; see the README.
        fine_tune: start from checkpoint_uri rather than from random weights.
        checkpoint_uri: a TF-Slim checkpoint, an .npz, a .keras file, a run's model folder, an archive of one, or imagenet.
        train_last_layer_only: leave all other layers as they are in the checkpoint.
        batch_size: pictures a step.
        learning_rate: of the first step.
        train_steps: how many steps.
        optimizer: adadelta, adagrad, adam, adamw, ftrl, momentum, rmsprop or sgd.
        learning_rate_schedule: exponential, fixed, polynomial or cosine.
        image_size: height and width of the pictures in pixels; 0 for the network's own.
        advanced: what is rarely touched, under TF-Slim's names; see the README.
        log_uri: a folder or bucket folder in which TensorBoard can follow the training; empty for none.
        checkpoint_dir: a folder or bucket folder in which a training that was stopped finds its way on; empty for none.
        gpu_type: the resource that the training stage asks for.
        gpu_count: how many of it; 0 for none.
        node_selector: labels of the nodes that may train.
        tolerations: taints of nodes that may train all the same.
        min_accuracy: a model below it is refused, and not deployed.
        model_name: the name of the model: letters, digits, - and _.
        deploy_to: none, kserve, or a model repository: a folder of numbered versions, in a bucket or not.
        skip_unchanged: leave the deployed model where it was trained from the very same pictures and fields.
        test_image_uri: a picture to ask the deployed model about; empty for one that the training held out.
        predict_uri: pictures to name with the accepted model: one, a folder, an archive, or sample; empty for none.
    """
    classify(dict(locals()))
