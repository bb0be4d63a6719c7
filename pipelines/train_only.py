from kfp import dsl

from kfp_vision import parameters
from kfp_vision.components import check_training, fetch_records
from kfp_vision.networks import NETWORKS
from kfp_vision.pipelines.classification import train_and_release
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import with_choices
from kfp_vision.pipelines.pods import RUN, equipped
from kfp_vision.pipelines.preparation import Prepared


@with_choices(parameters.CHOICES)
@dsl.pipeline(name="train-only", pipeline_config=RUN)
def train_only(
    records_uri: str = "",
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
    test_image_uri: str = "",
    predict_uri: str = "",
):
    """From records that were written before to a deployed classifier.

    Args:
        records_uri: the records of prepare_records: a folder, or an archive of one; in a bucket or not.
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
        test_image_uri: a picture to ask the deployed model about; empty for one that the training held out.
        predict_uri: pictures to name with the accepted model: one, a folder, an archive, or sample; empty for none.
    """
    fields = dict(locals())
    with dsl.ExitHandler(outcome_reported(), name="run"):
        checked = equipped(check_training(**fields))
        fetched = equipped(fetch_records(records_uri=records_uri).after(checked))
        made = Prepared(**{name: fetched.outputs[name] for name in Prepared._fields})
        train_and_release(made, fields, behind=checked, trained_from="")
