from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


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
    """Looks at one partition of the pictures and writes it to TFRecord files, for join_records to put together.

    Args:
        tables: the tables of split_images.
        label_map: the folder with labels.txt or label_map.pbtxt.
        images_per_shard: pictures in each file but the last.
        partition: the number of this partition, from 0.
        partitions: how many there are.
        advanced: max_refused_ratio, check_pixels, max_side and store_wait_seconds are read of it.

    Returns:
        part: A folder with the records of each split, the table of pictures that could not be used, and counts. It is one
            artifact and says nothing of itself, since KFP hands those of all partitions over in a single argument.
    """
    from pathlib import Path

    from kfp_vision import parameters, partitioning, storage

    storage.wait_for_stores(advanced)
    given = parameters.Advanced.parse(advanced)
    how = {"max_refused_ratio": given.max_refused_ratio, "check_pixels": given.check_pixels, "max_side": given.max_side}
    how |= {"images_per_shard": images_per_shard, "partition": partition, "partitions": partitions}
    partitioning.write_partition(Path(tables.path), Path(label_map.path), Path(part.path), **how)
