from kfp import dsl

from kfp_vision.components import check_sweep, choose_trials, compare_trials, train_trial
from kfp_vision.networks import IMAGENET
from kfp_vision.pipelines.classification import NODES, RECIPE, evaluate_and_release, given, on_nodes
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named, with_choices
from kfp_vision.pipelines.image_classification import FLOWERS
from kfp_vision.pipelines.pods import RUN, equipped
from kfp_vision.pipelines.preparation import fingerprinted, prepare
from kfp_vision.preflight import rules
from kfp_vision.training.trial_plan import SWEPT_FIELDS

SAME_FOR_ALL = [name for name in RECIPE if name not in SWEPT_FIELDS.values()]
PARALLEL_TRIALS = 4  # each takes gpu_count GPUs


@with_choices({name: rules.CHOICES[name] for name in ("labels", "learning_rate_schedule")})
@dsl.pipeline(name="hyperparameter-sweep", pipeline_config=RUN)
def hyperparameter_sweep(
    images_uri: str = FLOWERS,
    leave_out_uri: str = "",
    labels_uri: str = "",
    labels: str = "one",
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
    workers: int = 1,
    gpu_type: str = "nvidia.com/gpu",
    gpu_count: int = 1,
    node_selector: dict = {},  # noqa: B006
    tolerations: list = [],  # noqa: B006
    min_accuracy: float = 0.0,
    model_name: str = "classifier",
    deploy_to: str = "none",
    test_image_uri: str = "",
    predict_uri: str = "",
    formats: str = "",
    register_in: str = "",
) -> None:
    """Trains several image classifiers with different hyperparameters, and deploys the best one.

    Args:
        images_uri: folder of class folders, archive of one (also over HTTP), or sample.
        leave_out_uri: list of images to exclude, as image_search's audit writes it: CSV with a column path; empty for none.
        labels_uri: list of labels that add or correct images: CSV with path and label, or Label Studio's JSON; empty for none.
        labels: one, or several for images with any number of labels.
        check_images: stop the run if no classifier can be trained on the data.
        validation_ratio: share of each class to hold out for validation, by which the best trial is chosen.
        test_ratio: share of each class to hold out for the final test of the best trial; 0 for none.
        images_per_shard: images per TFRecord file; the last file may hold fewer.
        networks: networks to try; see network of image_classification.
        optimizers: optimizers to try; see optimizer of image_classification.
        batch_sizes: images per step to try.
        learning_rates: initial learning rates to try; random trials draw between the smallest and the largest.
        trials: number of random trials; 0 for every combination.
        fine_tune: start from checkpoint_uri instead of random weights.
        checkpoint_uri: checkpoint that all trials start from; imagenet for each network's own published weights.
        train_last_layer_only: freeze all layers except the classification head.
        train_steps: number of steps per trial.
        learning_rate_schedule: exponential, fixed, polynomial or cosine.
        image_size: height and width of the input images in pixels; 0 for the network's default.
        advanced: advanced settings, with TF-Slim's names; see docs/reference/advanced.md.
        log_uri: local or bucket folder for TensorBoard events, to follow the trainings live; empty for none.
        checkpoint_dir: local or bucket folder for checkpoints, from which interrupted trials resume; empty for none.
        workers: machines that train together, each with gpu_count GPUs, and share every batch; docs/how-to/several-machines.md.
        gpu_type: GPU resource that each training requests.
        gpu_count: number of GPUs per worker; 0 for none.
        node_selector: labels of the nodes to train on.
        tolerations: node taints to tolerate.
        min_accuracy: minimum accuracy, or with labels=several mean average precision; a model below it is not deployed.
        model_name: name of the model: letters, digits, - and _.
        deploy_to: none, kserve, or a model repository: a folder of numbered versions, local or in a bucket.
        test_image_uri: image to send to the deployed model; empty for a held-out one.
        predict_uri: images to classify with the accepted model: an image, folder, archive, or sample; empty for none.
        formats: files to export the accepted model to, such as litert,openvino_int8; docs/how-to/edge.md; empty for none.
        register_in: registries for the accepted model: mlflow, model-registry or both; docs/how-to/papers.md; empty for none.
    """
    fields = dict(locals())
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_sweep(**fields))
        data, gpus = {"task": "classification"} | fields, checked.outputs["gpus"]
        inputs = {"fingerprint": fingerprinted(fields, after=checked), "advanced": checked.outputs["advanced"]}
        origin = {"form": checked.outputs["form"], "data_fingerprint": inputs["fingerprint"]}
        records = prepare(data, after=checked, **inputs)
        chosen = equipped(choose_trials(**given(fields, *SWEPT_FIELDS, "trials", "advanced"))).after(checked)
        with named(dsl.ParallelFor(chosen.output, name="trials", parallelism=PARALLEL_TRIALS)) as trial:
            tried = train_trial(
                train_records=records.train_records,
                validation_records=records.validation_records,
                label_map=records.label_map,
                trial=trial,
                gpus=gpus,  # kfp.local passes the trial instead, which nothing reads
                **given(fields, *SAME_FOR_ALL, *NODES),
            )
            on_nodes(equipped(tried), fields, gpus)
        best = equipped(compare_trials(models=dsl.Collected(tried.outputs["model"])))
        evaluate_and_release(best.outputs["model"], records, fields | origin)
