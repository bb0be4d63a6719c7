from kfp import dsl

from kfp_vision.networks import NETWORKS
from kfp_vision.pipelines.classification import classify
from kfp_vision.pipelines.form import with_choices
from kfp_vision.pipelines.pods import RUN
from kfp_vision.preflight import rules

FLOWERS = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"


@with_choices(rules.CHOICES)
@dsl.pipeline(name="image-classification", pipeline_config=RUN)
def image_classification(
    images_uri: str = FLOWERS,
    leave_out_uri: str = "",
    labels_uri: str = "",
    labels: str = "one",
    check_images: bool = True,
    validation_ratio: float = 0.2,
    test_ratio: float = 0.0,
    images_per_shard: int = 1000,
    recipe: str = "tutorial",
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
    workers: int = 1,
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
    formats: str = "",
    register_in: str = "",
) -> None:
    """Trains and deploys a classifier from folders of images. By default, fine-tunes Inception v1 on photos of five flowers.

    Args:
        images_uri: folder of class folders, archive of one (also over HTTP), or sample.
        leave_out_uri: list of images to exclude, as image_search's audit writes it: CSV with a column path; empty for none.
        labels_uri: list of labels that add or correct images: CSV with path and label, or Label Studio's JSON; empty for none.
        labels: one, or several for images with any number of labels.
        check_images: stop the run if no classifier can be trained on the data.
        validation_ratio: share of each class to hold out for validation, from 0 to 1.
        test_ratio: share of each class to hold out for the final test, from 0 to 1; 0 for none.
        images_per_shard: images per TFRecord file; the last file may hold fewer.
        recipe: tutorial, quick (minutes on a processor) or best; sets the fields that are at their defaults.
        network: such as inception_v1, googlenet, efficientnet_lite0 or resnet50, or auto; docs/reference/networks.md lists all.
        fine_tune: start from checkpoint_uri instead of random weights.
        checkpoint_uri: TF-Slim checkpoint, .npz, .pth or .keras file, a run's model folder, an archive of one, or imagenet.
        train_last_layer_only: freeze all layers except the classification head.
        batch_size: images per step, over all workers.
        learning_rate: initial learning rate.
        train_steps: number of steps.
        optimizer: adadelta, adagrad, adam, adamw, ftrl, momentum, rmsprop or sgd.
        learning_rate_schedule: exponential, fixed, polynomial or cosine.
        image_size: height and width of the input images in pixels; 0 for the network's default.
        advanced: advanced settings, with TF-Slim's names; see docs/reference/advanced.md.
        log_uri: local or bucket folder for TensorBoard events, to follow the training live; empty for none.
        checkpoint_dir: local or bucket folder for checkpoints, from which an interrupted training resumes; empty for none.
        workers: machines that train together, each with gpu_count GPUs, and share every batch; docs/how-to/several-machines.md.
        gpu_type: GPU resource that the training requests.
        gpu_count: number of GPUs per worker; 0 for none.
        node_selector: labels of the nodes to train on.
        tolerations: node taints to tolerate.
        min_accuracy: minimum accuracy, or with labels=several mean average precision; a model below it is not deployed.
        model_name: name of the model: letters, digits, - and _.
        deploy_to: none, kserve, or a model repository: a folder of numbered versions, local or in a bucket.
        skip_unchanged: skip the training if the deployed model was trained on the same images and fields.
        test_image_uri: image to send to the deployed model; empty for a held-out one.
        predict_uri: images to classify with the accepted model: an image, folder, archive, or sample; empty for none.
        formats: files to export the accepted model to, such as litert,openvino_int8; docs/how-to/edge.md; empty for none.
        register_in: registries for the accepted model: mlflow, model-registry or both; docs/how-to/papers.md; empty for none.
    """
    classify(dict(locals()))
