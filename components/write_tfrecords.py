from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


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
    """Checks every image and writes it to TFRecord files.

    The schema is that of TF-Slim, or that of TensorFlow's Object Detection API if split_images wrote a label map for it.

    Args:
        tables: split tables from split_images.
        label_map: folder with labels.txt or label_map.pbtxt.
        images_per_shard: images per TFRecord file; the last file may hold fewer.
        advanced: advanced settings; uses max_refused_ratio, check_pixels, max_side, odd_images, name_encoding and
            store_wait_seconds.

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
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    outputs = {"train": train_records, "validation": validation_records, "test": test_records}
    folders = {split: Path(artifact.path) for split, artifact in outputs.items()}
    given = Advanced.parse(advanced)
    how: dict[str, Any] = {"max_side": given.max_side, "check_pixels": given.check_pixels, "odd": given.odd_images}
    how |= {"max_refused_ratio": given.max_refused_ratio, "images_per_shard": images_per_shard, "summary": Path(summary.path)}
    written = partitions.write_all_records(Path(tables.path), Path(label_map.path), folders, Path(refused.path), **how)
    train_records.metadata.update({"pictures": written["train"].images, "files": len(written["train"].shards)})
    validation_records.metadata["pictures"] = written["validation"].images
    test_records.metadata["pictures"] = written["test"].images
