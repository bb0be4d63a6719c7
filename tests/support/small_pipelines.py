"""Small valid and invalid pipelines for Kubeflow Pipelines; their stages never run."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kfp import dsl, kubernetes
from kfp.compiler import Compiler
from kfp.dsl.pipeline_context import Pipeline
from kfp.dsl.structures import ResourceSpec

IMAGE = "python:3.11"
DAY = 24 * 3600
KEPT = dsl.PipelineConfig(
    ttl_seconds_after_finished=7 * DAY, ttl_seconds_after_success=7 * DAY, ttl_seconds_after_failure=7 * DAY
)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def tell(status: dsl.PipelineTaskFinalStatus) -> None:
    print(status)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def look(uri: str) -> str:
    return uri


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def number(partitions: int) -> list[int]:
    return list(range(partitions))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def choose(trials: int) -> list:
    return [{"number": number} for number in range(trials)]


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def judge(fingerprint: str) -> bool:
    return bool(fingerprint)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def read(fingerprint: str, partition: int, table: dsl.Output[dsl.Dataset]) -> None:
    from pathlib import Path

    Path(table.path).write_text(f"{fingerprint} {partition}")
    table.metadata["rows"] = partition


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def join(tables: dsl.Input[list[dsl.Dataset]], table: dsl.Output[dsl.Dataset]) -> None:
    from pathlib import Path

    made = {"table": table}
    Path(made["table"].path).write_text("".join(Path(one.path).read_text() for one in tables))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def measure(metrics: dsl.Output[dsl.Metrics], page: dsl.Output[dsl.HTML]) -> None:
    from pathlib import Path

    Path(page.path).write_text("a page")
    metrics.log_metric("accuracy", 0.5)
    metrics.metadata["loss"] = 0.5


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(gpu_count: str, gpu_type: str = "") -> None:
    print(gpu_count, gpu_type)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train_on(gpu_count: int, gpu_type: str) -> None:
    print(gpu_count, gpu_type)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def attempt(trial: dict) -> None:
    print(trial)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def attempt_text(trial: str) -> None:
    print(trial)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def deploy_model(deploy_to: str) -> None:
    print(deploy_to)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def write_tfrecords(
    label_map: dsl.Input[dsl.Artifact],
    partition: int,
    train_records: dsl.Output[dsl.Dataset],
    validation_records: dsl.Output[dsl.Dataset],
    test_records: dsl.Output[dsl.Dataset],
    refused: dsl.Output[dsl.Dataset],
    tally: dsl.Output[dsl.Artifact],
) -> None:
    from pathlib import Path

    for made in (train_records, validation_records, test_records, refused, tally):
        Path(made.path).write_text(f"{label_map.path} {partition}")
    train_records.metadata.update({"pictures": 12, "files": 1})
    validation_records.metadata["pictures"] = 12
    test_records.metadata["pictures"] = 12


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def split_images(fingerprint: str, label_map: dsl.Output[dsl.Artifact], left_out: dsl.Output[dsl.Dataset]) -> None:
    from pathlib import Path

    Path(label_map.path).write_text(fingerprint)
    Path(left_out.path).write_text(fingerprint)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def join_records(
    train_parts: dsl.Input[list[dsl.Dataset]],
    validation_parts: dsl.Input[list[dsl.Dataset]],
    test_parts: dsl.Input[list[dsl.Dataset]],
    refused_parts: dsl.Input[list[dsl.Dataset]],
    tally_parts: dsl.Input[list[dsl.Artifact]],
    left_out: dsl.Input[dsl.Dataset],
    images_per_shard: int,
    advanced: dict,
    train_records: dsl.Output[dsl.Dataset],
    validation_records: dsl.Output[dsl.Dataset],
    test_records: dsl.Output[dsl.Dataset],
    refused: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.HTML],
) -> None:
    from pathlib import Path

    for made in (train_records, validation_records, test_records, refused, summary):
        Path(made.path).write_text(f"{left_out.path} {images_per_shard} {advanced}")


def pipeline(stages: Callable[[SimpleNamespace], Any], name: str = "tiny", **how: Any) -> Any:
    """Makes a pipeline with a few fields.

    Args:
        stages: adds the stages; takes the fields.
        name: the name of the pipeline.
        how: `config` of the pipeline; `handled`, whether a final task reports the outcome; `equipped`, whether every stage
            has a deadline, a memory limit and a volume at /tmp.
    """

    @dsl.pipeline(name=name, pipeline_config=how.get("config", KEPT))
    def whole(
        uri: str = "sample",
        partitions: int = 2,
        trials: int = 3,
        gpu_count: int = 1,
        gpus: str = "1",
        gpu_type: str = "nvidia.com/gpu",
        deploy_to: str = "none",
        node_selector: dict = {},  # noqa: B006
        tolerations: list = [],  # noqa: B006
    ):
        fields = SimpleNamespace(**locals())
        if how.get("handled", True):
            with dsl.ExitHandler(tell().set_caching_options(False), name="run"):
                stages(fields)
        else:
            stages(fields)
        for task in Pipeline.get_default_pipeline().tasks.values() if how.get("equipped", True) else ():
            equip(task)

    return whole


def equip(task: dsl.PipelineTask) -> None:
    task.container_spec.resources = task.container_spec.resources or ResourceSpec()
    task.container_spec.resources.memory_limit = "1Gi"
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path="/tmp", size_limit="1Gi")
    if "activeDeadlineSeconds" not in task.platform_config.get("kubernetes", {}):
        kubernetes.set_timeout(task, 3600)


def compiled(stages: Callable[[SimpleNamespace], Any], name: str = "tiny", **how: Any) -> str:
    """Compiles such a pipeline to YAML with KFP's compiler."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.yaml"
        Compiler().compile(pipeline(stages, name, **how), str(file))
        return file.read_text(encoding="utf-8")


def sound(fields: SimpleNamespace) -> None:
    """Adds valid stages of every kind: an external read, a loop with a join, conditions, and an accelerator."""
    seen = look(uri=fields.uri).set_caching_options(False)
    numbers = number(partitions=fields.partitions)
    with dsl.ParallelFor(numbers.output, name="partitions") as partition:
        table = read(fingerprint=seen.output, partition=partition)
        kubernetes.use_secret_as_env(table, "store", {"KEY": "KEY"}, optional=True)
        kubernetes.add_pod_label(table, "kfp-vision/role", "stage")
        kubernetes.set_timeout(table, 3600)
        table.set_retry(2, backoff_duration="60s", backoff_factor=2, backoff_max_duration="3h")
    join(tables=dsl.Collected(table.outputs["table"]))
    with dsl.ParallelFor([{"number": 0}, {"number": 1}], name="written") as trial:
        attempt(trial=trial)
    with dsl.ParallelFor(choose(trials=fields.trials).output, name="trials") as trial:
        attempt_text(trial=trial)
    with dsl.If(judge(fingerprint=seen.output).output == True, name="accepted"):  # noqa: E712
        trained = train(gpu_count=fields.gpus, gpu_type=fields.gpu_type)
        trained.set_accelerator_type(fields.gpu_type).set_accelerator_limit(fields.gpus)
        with dsl.If(fields.deploy_to != "none", name="deploy"):
            placed = train(gpu_count="0").after(trained)
    kubernetes.add_node_selector_json(placed, node_selector_json={"pool": "gpu"})


def on_nodes(fields: SimpleNamespace) -> None:
    """Adds a stage with the node settings of the form, outside groups: within, KFP knows only the fields that a task takes."""
    placed = train(gpu_count=fields.gpus)
    kubernetes.add_node_selector_json(placed, node_selector_json=fields.node_selector)
    kubernetes.add_toleration_json(placed, toleration_json=fields.tolerations)


def with_a_number_of_gpus(fields: SimpleNamespace) -> None:
    trained = train_on(gpu_count=fields.gpu_count, gpu_type=fields.gpu_type)
    trained.set_accelerator_type(fields.gpu_type).set_accelerator_limit(fields.gpu_count)


def with_dictionaries_of_a_stage(fields: SimpleNamespace) -> None:
    with dsl.ParallelFor(choose(trials=fields.trials).output, name="trials") as trial:
        attempt(trial=trial)


def with_metadata_alone(fields: SimpleNamespace) -> None:
    measure()


def with_a_number_compared_to_a_text(fields: SimpleNamespace) -> None:
    with dsl.If(fields.gpu_count == "1", name="deploy"):
        look(uri=fields.uri)


def with_a_secret_behind_the_cache(fields: SimpleNamespace) -> None:
    kubernetes.use_secret_as_env(read(fingerprint=fields.uri, partition=0), "store", {"KEY": "KEY"})


def with_a_look_that_is_kept(fields: SimpleNamespace) -> None:
    """Adds a stage that always runs and a cached external read after it, whose result is never refreshed."""
    seen = look(uri=look(uri=fields.uri).set_caching_options(False).output)
    for task in (seen, read(fingerprint=seen.output, partition=0)):
        kubernetes.use_secret_as_env(task, "store", {"KEY": "KEY"})


def with_a_deployment_in_every_run(fields: SimpleNamespace) -> None:
    deploy_model(deploy_to=fields.deploy_to)


def with_tries_without_an_end(fields: SimpleNamespace) -> None:
    kubernetes.set_timeout(look(uri=fields.uri).set_retry(2, backoff_duration="60s", backoff_max_duration="3h"), 2 * 3600)


def with_a_loop_that_nobody_limits(fields: SimpleNamespace) -> None:
    with dsl.ParallelFor(fields.tolerations, name="tolerated") as toleration:
        attempt_text(trial=toleration)


def as_seen_with_fifty_partitions(fields: SimpleNamespace) -> None:
    """Adds the two stages, with their names and artifacts, with which a run of 50 partitions failed."""
    split = split_images(fingerprint=look(uri=fields.uri).set_caching_options(False).output)
    with dsl.ParallelFor(number(partitions=fields.partitions).output, name="partitions") as partition:
        written = write_tfrecords(label_map=split.outputs["label_map"], partition=partition)
    parts = {f"{name}_parts": dsl.Collected(written.outputs[f"{name}_records"]) for name in ("train", "validation", "test")}
    parts |= {f"{name}_parts": dsl.Collected(written.outputs[name]) for name in ("refused", "tally")}
    join_records(**parts, left_out=split.outputs["left_out"], images_per_shard=1000, advanced={})
