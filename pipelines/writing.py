"""How the records are written: by one stage, or in partitions by several at a time. Both give the same records."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from kfp_vision.components import join_records, partition_records, write_tfrecords
from kfp_vision.pipelines.release import scratch

SPLITS = ("train", "validation", "test")


def written_at_once(split: Mapping[str, Any], *, images_per_shard: Any, advanced: Any) -> Mapping[str, Any]:
    """Adds the stage that writes the records to a pipeline.

    Args:
        split: the outputs of split_images.
        images_per_shard, advanced: the fields.

    Returns:
        train_records, validation_records and test_records.
    """
    how = {"images_per_shard": images_per_shard, "advanced": advanced}
    written = write_tfrecords(**split, partition=0, partitions=1, **how)
    scratch(written)
    return written.outputs


def written_in_partitions(
    split: Mapping[str, Any], *, images_per_shard: Any, advanced: Any, partitions: Any, behind: dsl.PipelineTask
) -> Mapping[str, Any]:
    """Adds the stages to a pipeline that write the records on several machines, and join what they wrote.

    Args:
        split: the outputs of split_images.
        images_per_shard, advanced, partitions: the fields.
        behind: the stage that checks the fields.

    Returns:
        train_records, validation_records and test_records.
    """
    how = {"images_per_shard": images_per_shard, "advanced": advanced}
    numbers = partition_records(partitions=partitions).after(behind)
    with dsl.ParallelFor(numbers.output, name="partitions") as partition:
        written = write_tfrecords(**split, partition=partition, partitions=partitions, **how)
    parts = {f"{name}_parts": dsl.Collected(written.outputs[f"{name}_records"]) for name in SPLITS}
    parts |= {f"{name}_parts": dsl.Collected(written.outputs[name]) for name in ("refused", "tally")}
    joined = join_records(**parts, left_out=split["left_out"], **how)
    for task in (numbers, written, joined):
        scratch(task)
    return joined.outputs
