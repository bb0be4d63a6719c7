from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def fetch_records(
    records_uri: str,
    advanced: dict,
    train_records: dsl.Output[dsl.Dataset],
    validation_records: dsl.Output[dsl.Dataset],
    test_records: dsl.Output[dsl.Dataset],
    label_map: dsl.Output[dsl.Artifact],
) -> None:
    """Takes records that were written before from where they lie, for a training.

    Args:
        records_uri: a folder with the records of all splits, or an archive of one; in a bucket or not.
        advanced: store_wait_seconds is read of it.

    Returns:
        train_records: TFRecord files of the pictures to train on.
        validation_records: TFRecord files of the pictures to validate on while training.
        test_records: TFRecord files of the pictures to evaluate on in the end.
        label_map: A folder with labels.txt.
    """
    from pathlib import Path

    from kfp_vision import records, storage

    storage.wait_for_stores(advanced)
    outputs = {"train": train_records, "validation": validation_records, "test": test_records}
    folders = {split: Path(artifact.path) for split, artifact in outputs.items()}
    fetched = records.fetch(records_uri, folders, Path(label_map.path))
    train_records.metadata.update({"pictures": fetched["train"].images, "files": len(fetched["train"].shards)})
    validation_records.metadata["pictures"] = fetched["validation"].images
    test_records.metadata["pictures"] = fetched["test"].images
