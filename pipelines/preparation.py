"""From pictures to records: what every pipeline begins with. One stage or several machines write the same records."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp import dsl

from kfp_vision.components import (
    fingerprint_images,
    ingest_images,
    join_records,
    partition_records,
    split_images,
    write_partition,
    write_tfrecords,
)
from kfp_vision.pipelines.form import named
from kfp_vision.pipelines.pods import equipped

SPLITS = ("train", "validation", "test")


class Prepared(NamedTuple):
    """What the stages behind the records take: artifacts of split_images, and of write_tfrecords or join_records."""

    label_map: Any
    train_records: Any
    validation_records: Any
    test_records: Any


def fingerprinted(fields: Mapping[str, Any], behind: dsl.PipelineTask) -> Any:
    """Adds the stage to a pipeline that says what the data is, behind the one that checks the fields; gives what it says."""
    data = {"images_uri": fields["images_uri"], "leave_out_uri": fields.get("leave_out_uri", "")}
    data |= {"advanced": fields.get("advanced", {})}
    return equipped(fingerprint_images(**data)).after(behind).output


def prepare(fields: Mapping[str, Any], *, fingerprint: Any, advanced: Any, behind: dsl.PipelineTask) -> Prepared:
    """Adds the stages up to the records to a pipeline.

    Args:
        fields: name to value: images_uri, leave_out_uri, task, check_images, validation_ratio, test_ratio, images_per_shard,
            advanced; with partitions among them the records are written in so many.
        fingerprint: of the data.
        advanced: what of that field is read here.
        behind: the stage that checks the fields.
    """
    ratios = {name: fields[name] for name in ("validation_ratio", "test_ratio")}
    data = {name: fields[name] for name in ("images_uri", "leave_out_uri", "task", "check_images")}
    ingested = ingest_images(fingerprint=fingerprint, advanced=advanced, **data, **ratios)
    split = split_images(images=ingested.outputs["images"], advanced=advanced, **ratios)
    equipped(ingested, split)
    if "partitions" in fields:
        # Within a loop kfp.local takes what comes from a stage for the loop's own item: there it is the field.
        how = {name: fields[name] for name in ("images_per_shard", "partitions", "advanced")}
        written = written_in_partitions(split.outputs, behind=behind, **how)
    else:
        written = written_at_once(split.outputs, images_per_shard=fields["images_per_shard"], advanced=advanced)
    return Prepared(split.outputs["label_map"], *(written[f"{name}_records"] for name in SPLITS))


def written_at_once(split: Mapping[str, Any], *, images_per_shard: Any, advanced: Any) -> Mapping[str, Any]:
    """Adds the stage that writes the records to a pipeline.

    Args:
        split: the outputs of split_images.
        images_per_shard, advanced: the fields.

    Returns:
        train_records, validation_records and test_records.
    """
    how = {"images_per_shard": images_per_shard, "advanced": advanced}
    return equipped(write_tfrecords(**split, **how)).outputs


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
    with named(dsl.ParallelFor(numbers.output, name="partitions")) as partition:
        written = write_partition(**split, partition=partition, partitions=partitions, **how)
    joined = join_records(parts=dsl.Collected(written.outputs["part"]), tables=split["tables"], **how)
    return equipped(numbers, written, joined).outputs
