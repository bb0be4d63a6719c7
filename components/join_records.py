from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def join_records(
    parts: dsl.Input[list[dsl.Dataset]],
    tables: dsl.Input[dsl.Dataset],
    images_per_shard: int,
    advanced: dict,
    train_records: dsl.Output[dsl.Dataset],
    validation_records: dsl.Output[dsl.Dataset],
    test_records: dsl.Output[dsl.Dataset],
    refused: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.HTML],
) -> None:
    """Puts the records of several partitions together: the files that one write_tfrecords would have written.

    Args:
        parts: what write_partition wrote of each.
        tables: the tables of split_images, for the summary.
        images_per_shard: pictures in each file but the last.
        advanced: max_refused_ratio and max_side are read of it.

    Returns:
        train_records: A folder of files such as train-00000-of-00003.tfrecord.
        validation_records: The same for validation.
        test_records: The same for test.
        refused: The table of pictures that could not be used: uri, label, reason.
        summary: A page about what is in the records and what is not, and what to do about it.
    """
    from pathlib import Path
    from typing import Any

    from kfp_vision import parameters, partitioning

    made = {"train": train_records, "validation": validation_records, "test": test_records}
    folders = {split: Path(artifact.path) for split, artifact in made.items()}
    given = parameters.Advanced.parse(advanced)
    how: dict[str, Any] = {"max_refused_ratio": given.max_refused_ratio, "max_side": given.max_side}
    how |= {"images_per_shard": images_per_shard, "summary": Path(summary.path)}
    written = [Path(part.path) for part in parts]
    joined = partitioning.join_partitions(written, Path(tables.path), folders, Path(refused.path), **how)
    train_records.metadata.update({"pictures": joined["train"].images, "files": len(joined["train"].shards)})
    validation_records.metadata["pictures"] = joined["validation"].images
    test_records.metadata["pictures"] = joined["test"].images
