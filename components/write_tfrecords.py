from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def write_tfrecords(
    tables: dsl.Input[dsl.Dataset],
    label_map: dsl.Input[dsl.Artifact],
    images_per_shard: int,
    advanced: dict,
    train_records: dsl.Output[dsl.Dataset],
    validation_records: dsl.Output[dsl.Dataset],
    test_records: dsl.Output[dsl.Dataset],
    refused: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.HTML],
) -> None:
    """Looks at every picture once and writes it to TFRecord files.

    The schema is that of TF-Slim, or of TensorFlow's Object Detection API where split_images made a label map for it.

    Args:
        tables: the tables of split_images.
        label_map: the folder with labels.txt or label_map.pbtxt.
        images_per_shard: pictures in each file but the last.
        advanced: max_refused_ratio, check_pixels, max_side and store_wait_seconds are read of it.

    Returns:
        train_records: A folder of files such as train-00000-of-00003.tfrecord.
        validation_records: The same for validation.
        test_records: The same for test.
        refused: The table of pictures that could not be used: uri, label, reason.
        summary: A page about what is in the records and what is not, and what to do about it.
    """
    from pathlib import Path
    from typing import Any

    from kfp_vision import parameters, partitioning, storage

    storage.wait_for_stores(advanced)
    outputs = {"train": train_records, "validation": validation_records, "test": test_records}
    folders = {split: Path(artifact.path) for split, artifact in outputs.items()}
    given = parameters.Advanced.parse(advanced)
    how: dict[str, Any] = {"max_refused_ratio": given.max_refused_ratio, "check_pixels": given.check_pixels}
    how |= {"max_side": given.max_side, "images_per_shard": images_per_shard, "summary": Path(summary.path)}
    written = partitioning.write_all(Path(tables.path), Path(label_map.path), folders, Path(refused.path), **how)
    train_records.metadata.update({"pictures": written["train"].images, "files": len(written["train"].shards)})
    validation_records.metadata["pictures"] = written["validation"].images
    test_records.metadata["pictures"] = written["test"].images
