from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def fetch_records(
    records_uri: str,
    advanced: dict,
    train_records: dsl.Output[dsl.Dataset],
    validation_records: dsl.Output[dsl.Dataset],
    test_records: dsl.Output[dsl.Dataset],
    label_map: dsl.Output[dsl.Artifact],
) -> None:
    """Fetches existing TFRecord files for a training.

    Args:
        records_uri: folder with the records of all splits, or an archive of one; local or in a bucket.
        advanced: advanced settings; uses store_wait_seconds.

    Returns:
        train_records: TFRecord files of the training images.
        validation_records: TFRecord files of the validation images.
        test_records: TFRecord files of the test images.
        label_map: Folder with labels.txt.
    """
    from pathlib import Path

    from kfp_vision.records import records_folder
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    outputs = {"train": train_records, "validation": validation_records, "test": test_records}
    folders = {split: Path(artifact.path) for split, artifact in outputs.items()}
    fetched = records_folder.copy_records(records_uri, folders, Path(label_map.path))
    train_records.metadata.update({"pictures": fetched["train"].images, "files": len(fetched["train"].shards)})
    validation_records.metadata["pictures"] = fetched["validation"].images
    test_records.metadata["pictures"] = fetched["test"].images
