from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def fingerprint_images(images_uri: str, leave_out_uri: str, labels_uri: str, labels: str, advanced: dict) -> str:
    """Fingerprints the data from file listings. Later stages come from the cache as long as the fingerprint stays the same.

    Args:
        images_uri: folder of class folders, archive of one (also over HTTP), or sample.
        leave_out_uri: list of images to exclude: CSV with a column path; empty for none.
        labels_uri: list of labels that add or correct images: CSV with path and label, or Label Studio's JSON; empty for none.
        labels: one, or several for images with any number of labels.
        advanced: advanced settings; uses store_wait_seconds, label_separator.

    Returns:
        Hash of file names, sizes and times, and of the lists.
    """
    from kfp_vision.dataset import scan
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    return scan.fingerprint_images(images_uri, leave_out_uri, labels, labels_uri, advanced.get("label_separator", ""))
