from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def partition_records(partitions: int) -> list[int]:
    """Says what a loop runs through that writes the records in several partitions, on several machines.

    Args:
        partitions: how many there are to be.

    Returns:
        Their numbers, from 0.
    """
    from kfp_vision import partitioning

    return partitioning.numbers(partitions)
