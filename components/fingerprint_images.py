from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def fingerprint_images(images_uri: str, leave_out_uri: str, advanced: dict) -> str:
    """Says in one string what lies at a URI, from listings alone. While it stays the same, later stages need not run again.

    Args:
        images_uri: a folder of class folders, an archive of one (also over http), or sample.
        leave_out_uri: a list of pictures to leave out: CSV with a column path; empty for none.
        advanced: store_wait_seconds is read of it.

    Returns:
        A hash of names, sizes and times, and of what the list names.
    """
    from kfp_vision import catalog, storage

    storage.wait_for_stores(advanced)
    return catalog.fingerprint(images_uri, leave_out_uri)
