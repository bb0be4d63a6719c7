from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def write_partition(
    tables: dsl.Input[dsl.Dataset],
    label_map: dsl.Input[dsl.Artifact],
    images_per_shard: int,
    partition: int,
    partitions: int,
    advanced: dict,
    part: dsl.Output[dsl.Dataset],
) -> None:
    """Checks one partition of the images and writes it to TFRecord files, for join_records to merge.

    Args:
        tables: split tables from split_images.
        label_map: folder with labels.txt or label_map.pbtxt.
        images_per_shard: images per TFRecord file; the last file may hold fewer.
        partition: number of this partition, from 0.
        partitions: number of partitions.
        advanced: advanced settings; uses max_refused_ratio, check_pixels, max_side, odd_images, name_encoding and
            store_wait_seconds.

    Returns:
        part: Folder with the records of each split, the table of rejected images, and counts. It is one artifact without
            metadata, because KFP passes the metadata of all partitions in one command-line argument.
    """
    from pathlib import Path
    from typing import Any

    from kfp_vision.core.advanced import Advanced
    from kfp_vision.records.partitions import write_partition_folder
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    given = Advanced.parse(advanced)
    how: dict[str, Any] = {"max_refused_ratio": given.max_refused_ratio, "check_pixels": given.check_pixels}
    how |= {"max_side": given.max_side, "odd": given.odd_images}
    how |= {"images_per_shard": images_per_shard, "partition": partition, "partitions": partitions}
    write_partition_folder(Path(tables.path), Path(label_map.path), Path(part.path), **how)
