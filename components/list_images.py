from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def list_images(fingerprint: str, images_uri: str, labels: str, partitions: int, images: dsl.Output[dsl.Dataset]) -> list[int]:
    """Lists the images to index, and the partition numbers for a parallel loop.

    Args:
        fingerprint: fingerprint of the data, from fingerprint_images; the stage comes from the cache as long as it stays the
            same.
        images_uri: folder (with or without class folders), archive of one (also over HTTP), import file, or sample.
        labels: one, or several for images with any number of labels.
        partitions: number of partitions.

    Returns:
        images: Table of the images.
        Output: Partition numbers, from 0.
    """
    from pathlib import Path

    from kfp_vision.search import build

    return build.list_images(images_uri, partitions, Path(images.path), labels)
