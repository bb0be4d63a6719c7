from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def partition_records(partitions: int) -> list[int]:
    """Lists the partition numbers for a loop that runs on several machines in parallel.

    Args:
        partitions: number of partitions.

    Returns:
        Partition numbers, from 0.
    """
    from kfp_vision.records.partitions import partition_numbers

    return partition_numbers(partitions)
