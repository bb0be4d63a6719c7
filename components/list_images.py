from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def list_images(fingerprint: str, images_uri: str, partitions: int, images: dsl.Output[dsl.Dataset]) -> list[int]:
    """Lists the pictures to index, and says what a loop runs through that indexes them in several partitions.

    Args:
        fingerprint: the data's; see fingerprint_images. The stage is taken from the cache while it stays the same.
        images_uri: a folder, an archive of one (also over http), an import file, or sample; in folders or not.
        partitions: how many there are to be.

    Returns:
        images: The table of the pictures.
        Output: The numbers of the partitions, from 0.
    """
    from pathlib import Path

    from kfp_vision.search import sources

    return sources.list_images(images_uri, partitions, Path(images.path))
