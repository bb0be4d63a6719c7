"""From pictures to a judged model: what the pipelines that train a classifier have in common."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl, kubernetes

from kfp_vision.components import (
    check_run,
    evaluate_classifier,
    train_classifier,
    watch_training,
)
from kfp_vision.pipelines.ending import outcome_reported
from kfp_vision.pipelines.pods import equipped
from kfp_vision.pipelines.preparation import prepare
from kfp_vision.pipelines.release import release_if


def classify(fields: Mapping[str, Any]) -> None:
    """Adds all stages to a pipeline.

    Args:
        fields: name to value, of every field of the form; with partitions among them the records are written in so many.
    """

    def given(*names: str) -> dict[str, Any]:
        return {name: fields[name] for name in names}

    with dsl.ExitHandler(outcome_reported(), name="run"):
        checked = equipped(check_run(**({"partitions": 1} | dict(fields))))
        with dsl.If(fields["log_uri"] != "", name="watch"):
            equipped(watch_training(**given("log_uri"))).after(checked)
        made = prepare({"task": "classification"} | dict(fields), behind=checked)
        held_out = {"validation_records": made.validation_records, "test_records": made.test_records}
        trained = train_classifier(
            train_records=made.train_records,
            validation_records=made.validation_records,
            label_map=made.label_map,
            **given(
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
                "gpu_count",
                "model_name",
                "advanced",
                "log_uri",
                "checkpoint_dir",
            ),
        )
        equipped(trained).set_accelerator_type(fields["gpu_type"]).set_accelerator_limit(fields["gpu_count"])
        kubernetes.add_node_selector_json(trained, node_selector_json=fields["node_selector"])
        kubernetes.add_toleration_json(trained, toleration_json=fields["tolerations"])
        model = trained.outputs["model"]
        wishes = given("min_accuracy", "deploy_to", "test_image_uri", "advanced")
        evaluated = equipped(evaluate_classifier(model=model, **held_out, **wishes))
        verdict = evaluated.outputs["verdict"]
        wishes = given("deploy_to", "advanced", "test_image_uri", "predict_uri")
        release_if(evaluated.outputs["Output"], model=model, verdict=verdict, **held_out, **wishes)
