from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


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
    """Merges the records of all partitions into the same files that a single write_tfrecords would write.

    Args:
        parts: partitions from write_partition.
        tables: split tables from split_images, for the summary.
        images_per_shard: images per TFRecord file; the last file may hold fewer.
        advanced: advanced settings; uses max_refused_ratio and max_side.

    Returns:
        train_records: Folder of TFRecord files such as train-00000-of-00003.tfrecord.
        validation_records: The same for validation.
        test_records: The same for test.
        refused: Table of rejected images: uri, label, reason.
        summary: Report on the records, the images that are missing from them, and remedies.
    """
    from pathlib import Path
    from typing import Any

    from kfp_vision.core.advanced import Advanced
    from kfp_vision.records import partitions

    made = {"train": train_records, "validation": validation_records, "test": test_records}
    folders = {split: Path(artifact.path) for split, artifact in made.items()}
    given = Advanced.parse(advanced)
    how: dict[str, Any] = {"max_refused_ratio": given.max_refused_ratio, "max_side": given.max_side}
    how |= {"images_per_shard": images_per_shard, "summary": Path(summary.path)}
    written = [Path(part.path) for part in parts]
    joined = partitions.join_partitions(written, Path(tables.path), folders, Path(refused.path), **how)
    train_records.metadata.update({"pictures": joined["train"].images, "files": len(joined["train"].shards)})
    validation_records.metadata["pictures"] = joined["validation"].images
    test_records.metadata["pictures"] = joined["test"].images
