"""The part that all training pipelines share: from images to an evaluated model."""

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
NODES = ("workers", "gpu_type", "gpu_count", "node_selector", "tolerations")


def classify(fields: Mapping[str, Any]) -> None:
    """Adds all stages of a training pipeline.

    Args:
        fields: the form's fields by name; if partitions is among them, the records are written in partitions.
    """
    with named(dsl.ExitHandler(outcome_reported(), name="run")):
        checked = equipped(check_run(**({"partitions": 1} | dict(fields))))
        selected = given(
            fields,
            *("images_uri", "leave_out_uri", "labels_uri", "labels"),
            *("skip_unchanged", "deploy_to", "model_name", "advanced"),
        )
        decided = equipped(decide_training(recipe=checked.outputs["recipe"], **selected)).outputs
        data = {"task": "classification"} | dict(fields)
        inputs = {"fingerprint": decided["fingerprint"], "advanced": checked.outputs["advanced"]}
        decision = {name: decided[name] for name in ("trained_from", "unchanged")}
        decision |= {name: checked.outputs[name] for name in ("gpus", "preset")}
        origin = {"form": checked.outputs["form"], "data_fingerprint": decided["fingerprint"]}
        train_and_release(prepare(data, after=checked, **inputs), dict(fields) | origin, **decision)


def train_and_release(
    records: Prepared, fields: Mapping[str, Any], *, gpus: Any, preset: Any, trained_from: Any = "", unchanged: Any = False
) -> None:
    """Adds the training stage and all stages after it.

    Args:
        records: the records to train and evaluate on.
        fields: the form's fields by name, with form, an output of the stage that checks them, and data_fingerprint.
        gpus: output of the stage that checks the fields.
        preset: output of the stage that checks the fields.
        trained_from: output of decide_training; empty if the pipeline has no such stage.
        unchanged: output of decide_training; False if the pipeline has no such stage.
    """
    trained = train_classifier(
        train_records=records.train_records,
        validation_records=records.validation_records,
        label_map=records.label_map,
        trained_from=trained_from,
        gpus=gpus,
        preset=preset,
        **given(fields, *RECIPE, *NODES),
    )
    on_nodes(equipped(trained), fields, gpus)
    evaluate_and_release(trained.outputs["model"], records, fields, unchanged)


def evaluate_and_release(model: Any, records: Prepared, fields: Mapping[str, Any], unchanged: Any = False) -> None:
    """Adds the evaluation stage and all stages after it.

    Args:
        model: the trained model, an artifact.
        records: the records to evaluate on.
        fields: as `train_and_release` takes them.
        unchanged: output of decide_training; False if the pipeline has no such stage.
    """
    held_out = {"validation_records": records.validation_records, "test_records": records.test_records}
    settings = given(fields, "min_accuracy", "deploy_to", "test_image_uri", "advanced")
    evaluated = equipped(evaluate_classifier(model=model, unchanged=unchanged, **held_out, **settings)).outputs
    settings = given(fields, "deploy_to", "advanced", "test_image_uri", "predict_uri", "formats", "register_in")
    records_of = {"train_records": records.train_records, **held_out}
    settings |= {
        "origin": given(fields, "form", "data_fingerprint"),
        "metrics": evaluated["metrics"],
        "report": evaluated["report"],
    }
    release(evaluated["Output"], model=model, verdict=evaluated["verdict"], **records_of, **settings)


def on_nodes(task: dsl.PipelineTask, fields: Mapping[str, Any], gpus: Any) -> dsl.PipelineTask:
    """Requests GPUs for a task and restricts it to the nodes that the form selects.

    Within a group KFP resolves a field or a stage's output only if a task there has it as an input, so the task must take
    everything used here as input.

    Args:
        task: the training task.
        fields: the form's fields by name.
        gpus: number of GPUs as text; KFP's driver makes no request for a number.

    Returns:
        The task.
    """
    task.set_accelerator_type(fields["gpu_type"]).set_accelerator_limit(gpus)
    kubernetes.add_node_selector_json(task, node_selector_json=fields["node_selector"])
    return kubernetes.add_toleration_json(task, toleration_json=fields["tolerations"])


def given(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Selects fields by name.

    Args:
        fields: the form's fields by name.
        *names: names of the fields to keep.

    Returns:
        The selected fields.
    """
    return {name: fields[name] for name in names}
