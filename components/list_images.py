from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def list_images(
    fingerprint: str, images_uri: str, labels: str, partitions: int, advanced: dict, images: dsl.Output[dsl.Dataset]
) -> list[int]:
    """Lists the images to index, and the partition numbers for a parallel loop.

    Args:
        fingerprint: fingerprint of the data, from fingerprint_images; the stage comes from the cache as long as it stays the
            same.
        images_uri: folder (with or without class folders), archive of one (also over HTTP), import file, or sample.
        labels: one, or several for images with any number of labels.
        partitions: number of partitions.
        advanced: advanced settings; uses class_folder, max_refused_ratio, label_separator, name_encoding, store_wait_seconds.

    Returns:
        images: Table of the images.
        Output: Partition numbers, from 0.
    """
    from pathlib import Path

    from kfp_vision.core.advanced import Advanced
    from kfp_vision.search import build
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    return build.list_images(images_uri, partitions, Path(images.path), labels, Advanced.parse(advanced))
