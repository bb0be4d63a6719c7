"""From pictures to a judged model: what the pipelines that train a classifier have in common."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from kfp_vision.components import check_run, decide_training, evaluate_classifier, train_classifier
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.form import named
from kfp_vision.pipelines.pods import equipped
from kfp_vision.pipelines.preparation import Prepared, prepare
from kfp_vision.pipelines.release import release

RECIPE = (
    "network",
    "fine_tune",
    "checkpoint_uri",
    "train_last_layer_only",
    "batch_size",
    "learning_rate",
    "train_steps",
    "optimizer",
    "learning_rate_schedule",
    "image_size",
    "model_name",
    "advanced",
    "log_uri",
    "checkpoint_dir",
)
NODES = ("gpu_type", "gpu_count", "node_selector", "tolerations")


def classify(fields: Mapping[str, Any]) -> None:
    """Adds all stages to a pipeline.

    Args:
        fields: name to value, of every field of the form; with partitions among them the records are written in so many.
    """
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_run(**({"partitions": 1} | dict(fields))))
        wishes = given(fields, "images_uri", "leave_out_uri", "skip_unchanged", "deploy_to", "model_name", "advanced")
        decided = equipped(decide_training(recipe=checked.outputs["recipe"], **wishes)).outputs
        data = {"task": "classification"} | dict(fields)
        how = {"fingerprint": decided["fingerprint"], "advanced": checked.outputs["advanced"]}
        decision = {name: decided[name] for name in ("trained_from", "unchanged")}
        train_and_release(prepare(data, behind=checked, **how), fields, gpus=checked.outputs["gpus"], **decision)


def train_and_release(
    made: Prepared, fields: Mapping[str, Any], *, gpus: Any, trained_from: Any = "", unchanged: Any = False
) -> None:
    """Adds the stages behind the records to a pipeline.

    Args:
        made: the records.
        fields: name to value, of the form.
        gpus: an output of the stage that checks the fields.
        trained_from, unchanged: outputs of decide_training, where a pipeline has that.
    """
    trained = train_classifier(
        train_records=made.train_records,
        validation_records=made.validation_records,
        label_map=made.label_map,
        trained_from=trained_from,
        gpus=gpus,
        **given(fields, *RECIPE, *NODES),
    )
    on_nodes(equipped(trained), fields, gpus)
    evaluate_and_release(trained.outputs["model"], made, fields, unchanged)


def evaluate_and_release(model: Any, made: Prepared, fields: Mapping[str, Any], unchanged: Any = False) -> None:
    """Adds the stages behind the training to a pipeline.

    Args:
        model: the artifact.
        made: the records.
        fields: name to value, of the form.
        unchanged: the output of decide_training.
    """
    held_out = {"validation_records": made.validation_records, "test_records": made.test_records}
    wishes = given(fields, "min_accuracy", "deploy_to", "test_image_uri", "advanced")
    evaluated = equipped(evaluate_classifier(model=model, unchanged=unchanged, **held_out, **wishes)).outputs
    wishes = given(fields, "deploy_to", "advanced", "test_image_uri", "predict_uri")
    release(evaluated["Output"], model=model, verdict=evaluated["verdict"], **held_out, **wishes)


def on_nodes(task: dsl.PipelineTask, fields: Mapping[str, Any], gpus: Any) -> dsl.PipelineTask:
    """Gives a task the GPUs that the form asks for, on the nodes that it names.

    How many must be a text, `gpus`: of a number KFP's driver makes no request. Within a group KFP knows a field, or what a
    stage gave, only where a task there has it as an input: this one must have all that is used here.
    """
    task.set_accelerator_type(fields["gpu_type"]).set_accelerator_limit(gpus)
    kubernetes.add_node_selector_json(task, node_selector_json=fields["node_selector"])
    return kubernetes.add_toleration_json(task, toleration_json=fields["tolerations"])


def given(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Some of the fields."""
    return {name: fields[name] for name in names}
