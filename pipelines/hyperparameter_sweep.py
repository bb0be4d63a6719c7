from kfp import dsl

from kfp_vision import parameters
from kfp_vision.components import check_sweep, choose_trials, compare_trials, train_trial
from kfp_vision.networks import IMAGENET
from kfp_vision.pipelines.classification import NODES, RECIPE, evaluate_and_release, given, on_nodes
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named, with_choices
from kfp_vision.pipelines.image_classification import FLOWERS
from kfp_vision.pipelines.pods import RUN, equipped
from kfp_vision.pipelines.preparation import fingerprinted, prepare

SAME_FOR_ALL = [name for name in RECIPE if name not in parameters.SWEPT.values()]
TRIALS_AT_A_TIME = 4  # each takes the GPUs that the form asks for


@with_choices({"learning_rate_schedule": parameters.CHOICES["learning_rate_schedule"]})
@dsl.pipeline(name="hyperparameter-sweep", pipeline_config=RUN)
def hyperparameter_sweep(
    images_uri: str = FLOWERS,
    leave_out_uri: str = "",
    check_images: bool = True,
    validation_ratio: float = 0.2,
    test_ratio: float = 0.1,
    images_per_shard: int = 1000,
    networks: list = ["inception_v1"],  # noqa: B006
    optimizers: list = ["sgd", "momentum"],  # noqa: B006
    batch_sizes: list = [16],  # noqa: B006
    learning_rates: list = [0.0025, 0.01],  # noqa: B006
    trials: int = 0,
    fine_tune: bool = True,
    checkpoint_uri: str = IMAGENET,
    train_last_layer_only: bool = False,
    train_steps: int = 6000,
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
    """From folders of pictures to the best classifier of several trainings, deployed.

    Args:
        images_uri: a folder of class folders, an archive of one (also over http), or sample.
        leave_out_uri: pictures to leave out, as the audit of image_search lists them: CSV with a column path; empty for none.
        check_images: refuse data that no classifier can be trained on.
        validation_ratio: share of each class by which the best trial is chosen.
        test_ratio: share of each class held out for the last evaluation, of the best one alone; 0 for none.
        images_per_shard: pictures in each TFRecord file but the last.
        networks: the networks to try; see network of image_classification.
        optimizers: the optimizers to try; see optimizer of image_classification.
        batch_sizes: pictures a step, to try.
        learning_rates: of the first step, to try; drawn at random, they lie between the smallest and the largest.
        trials: how many are drawn at random; 0 for every combination.
        fine_tune: start from checkpoint_uri rather than from random weights.
        checkpoint_uri: what all trials start from; imagenet for each network's own published weights.
        train_last_layer_only: leave all other layers as they are in the checkpoint.
        train_steps: how many steps, of each trial.
        learning_rate_schedule: exponential, fixed, polynomial or cosine.
        image_size: height and width of the pictures in pixels; 0 for the network's own.
        advanced: what is rarely touched, under TF-Slim's names; see the README.
        log_uri: a folder or bucket folder in which TensorBoard can follow the trainings; empty for none.
        checkpoint_dir: a folder or bucket folder in which trainings that were stopped find their way on; empty for none.
        gpu_type: the resource that each training asks for.
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
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_sweep(**fields))
        data, gpus = {"task": "classification"} | fields, checked.outputs["gpus"]
        how = {"fingerprint": fingerprinted(fields, behind=checked), "advanced": checked.outputs["advanced"]}
        made = prepare(data, behind=checked, **how)
        chosen = equipped(choose_trials(**given(fields, *parameters.SWEPT, "trials", "advanced"))).after(checked)
        with named(dsl.ParallelFor(chosen.output, name="trials", parallelism=TRIALS_AT_A_TIME)) as trial:
            tried = train_trial(
                train_records=made.train_records,
                validation_records=made.validation_records,
                label_map=made.label_map,
                trial=trial,
                gpus=gpus,  # on one machine KFP hands the trial over in its place, and nobody reads it
                **given(fields, *SAME_FOR_ALL, *NODES),
            )
            on_nodes(equipped(tried), fields, gpus)
        best = equipped(compare_trials(models=dsl.Collected(tried.outputs["model"])))
        evaluate_and_release(best.outputs["model"], made, fields)
