"""From images to records: the part that every pipeline begins with, in one stage or on several machines."""

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
    """Label map and records, artifacts that the later stages take.

    Attributes:
        label_map: output of split_images, or of fetch_records.
        train_records: output of write_tfrecords, join_records or fetch_records.
        validation_records: the same for validation.
        test_records: the same for test.
    """

    label_map: Any
    train_records: Any
    validation_records: Any
    test_records: Any


def fingerprinted(fields: Mapping[str, Any], after: dsl.PipelineTask) -> Any:
    """Adds the stage that fingerprints the data.

    Args:
        fields: the form's fields by name.
        after: the stage that checks the fields, to run after.

    Returns:
        The fingerprint, an output.
    """
    data = {"images_uri": fields["images_uri"]} | {name: fields.get(name, "") for name in ("leave_out_uri", "labels_uri")}
    data |= {"advanced": fields.get("advanced", {}), "labels": fields.get("labels", "one")}
    return equipped(fingerprint_images(**data)).after(after).output


def prepare(fields: Mapping[str, Any], *, fingerprint: Any, advanced: Any, after: dsl.PipelineTask) -> Prepared:
    """Adds the stages from the images to the records.

    Args:
        fields: images_uri, leave_out_uri, labels_uri, labels, task, check_images, validation_ratio, test_ratio,
            images_per_shard and advanced, by name; if partitions is among them, the records are written in partitions.
        fingerprint: fingerprint of the data, an output.
        advanced: the advanced settings that these stages use, an output of the stage that checks the fields.
        after: the stage that checks the fields.

    Returns:
        The label map and the records.
    """
    ratios = {name: fields[name] for name in ("validation_ratio", "test_ratio")}
    data = {name: fields[name] for name in ("images_uri", "leave_out_uri", "labels_uri", "labels", "task", "check_images")}
    ingested = ingest_images(fingerprint=fingerprint, advanced=advanced, **data, **ratios)
    split = split_images(images=ingested.outputs["images"], labels=fields["labels"], advanced=advanced, **ratios)
    equipped(ingested, split)
    if "partitions" in fields:
        # Within a loop, kfp.local mistakes a stage's output for the loop's item, so the loop takes the field.
        options = {name: fields[name] for name in ("images_per_shard", "partitions", "advanced")}
        written = written_in_partitions(split.outputs, after=after, **options)
    else:
        written = written_at_once(split.outputs, images_per_shard=fields["images_per_shard"], advanced=advanced)
    return Prepared(split.outputs["label_map"], *(written[f"{name}_records"] for name in SPLITS))


def written_at_once(split: Mapping[str, Any], *, images_per_shard: Any, advanced: Any) -> Mapping[str, Any]:
    """Adds the stage that writes all records.

    Args:
        split: the outputs of split_images.
        images_per_shard: the field.
        advanced: the field.

    Returns:
        The outputs train_records, validation_records and test_records.
    """
    options = {"images_per_shard": images_per_shard, "advanced": advanced}
    written: Mapping[str, Any] = equipped(write_tfrecords(**split, **options)).outputs
    return written


def written_in_partitions(
    split: Mapping[str, Any], *, images_per_shard: Any, advanced: Any, partitions: Any, after: dsl.PipelineTask
) -> Mapping[str, Any]:
    """Adds the stages that write the records on several machines and merge them.

    Args:
        split: the outputs of split_images.
        images_per_shard: the field.
        advanced: the field.
        partitions: the field.
        after: the stage that checks the fields.

    Returns:
        The outputs train_records, validation_records and test_records.
    """
    options = {"images_per_shard": images_per_shard, "advanced": advanced}
    numbers = partition_records(partitions=partitions).after(after)
    with named(dsl.ParallelFor(numbers.output, name="partitions")) as partition:
        part = write_partition(**split, partition=partition, partitions=partitions, **options)
    joined = join_records(parts=dsl.Collected(part.outputs["part"]), tables=split["tables"], **options)
    written: Mapping[str, Any] = equipped(numbers, part, joined).outputs
    return written
