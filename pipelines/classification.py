"""From pictures to a judged model: what the pipelines that train a classifier have in common."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from kfp_vision.components import (
    check_run,
    decide_training,
    evaluate_classifier,
    train_classifier,
    watch_training,
)
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.pods import equipped
from kfp_vision.pipelines.preparation import Prepared, fingerprinted, prepare
from kfp_vision.pipelines.release import release_if

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
    with dsl.ExitHandler(outcome_reported(), name="run"):
        checked = equipped(check_run(**({"partitions": 1} | dict(fields))))
        fingerprint = fingerprinted(fields, behind=checked)
        wishes = given(fields, "skip_unchanged", "deploy_to", "model_name", "advanced")
        decided = equipped(decide_training(fingerprint=fingerprint, recipe=checked.outputs["recipe"], **wishes))
        with dsl.If(decided.output != "", name="changed"):
            data = {"task": "classification"} | dict(fields)
            how = {"fingerprint": fingerprint, "advanced": checked.outputs["advanced"]}
            train_and_release(prepare(data, behind=checked, **how), fields, behind=decided, trained_from=decided.output)


def train_and_release(made: Prepared, fields: Mapping[str, Any], *, behind: dsl.PipelineTask, trained_from: Any) -> None:
    """Adds the stages behind the records to a pipeline.

    Args:
        made: the records.
        fields: name to value, of the form.
        behind: the stage behind which TensorBoard can follow the training.
        trained_from: the output of decide_training; empty where nothing asks for it.
    """
    watched(fields, behind)
    trained = train_classifier(
        train_records=made.train_records,
        validation_records=made.validation_records,
        label_map=made.label_map,
        trained_from=trained_from,
        **given(fields, *RECIPE, *NODES),
    )
    on_nodes(equipped(trained), fields)
    evaluate_and_release(trained.outputs["model"], made, fields)


def watched(fields: Mapping[str, Any], behind: dsl.PipelineTask) -> None:
    """Adds the stage to a pipeline that lets the user interface open TensorBoard, where the events are brought somewhere."""
    with dsl.If(fields["log_uri"] != "", name="watch"):
        equipped(watch_training(**given(fields, "log_uri"))).after(behind)


def evaluate_and_release(model: Any, made: Prepared, fields: Mapping[str, Any]) -> None:
    """Adds the stages behind the training to a pipeline.

    Args:
        model: the artifact.
        made: the records.
        fields: name to value, of the form.
    """
    held_out = {"validation_records": made.validation_records, "test_records": made.test_records}
    wishes = given(fields, "min_accuracy", "deploy_to", "test_image_uri", "advanced")
    evaluated = equipped(evaluate_classifier(model=model, **held_out, **wishes))
    wishes = given(fields, "deploy_to", "advanced", "test_image_uri", "predict_uri")
    release_if(evaluated.outputs["Output"], model=model, verdict=evaluated.outputs["verdict"], **held_out, **wishes)


def on_nodes(task: dsl.PipelineTask, fields: Mapping[str, Any]) -> dsl.PipelineTask:
    """Gives a task the GPUs that the form asks for, on the nodes that it names.

    Within a condition or a loop KFP knows a field alone where a task there has it as an input: this one must have all four.
    """
    task.set_accelerator_type(fields["gpu_type"]).set_accelerator_limit(fields["gpu_count"])
    kubernetes.add_node_selector_json(task, node_selector_json=fields["node_selector"])
    return kubernetes.add_toleration_json(task, toleration_json=fields["tolerations"])


def given(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Some of the fields."""
    return {name: fields[name] for name in names}
