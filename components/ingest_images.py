from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def ingest_images(
    fingerprint: str,
    images_uri: str,
    leave_out_uri: str,
    task: str,
    check_images: bool,
    validation_ratio: float,
    test_ratio: float,
    advanced: dict,
    images: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.HTML],
) -> str:
    """Finds the pictures at a URI and writes a table of them; every picture stays where it is.

    Args:
        fingerprint: what lies at the URI, so that the stage is run again when it changes.
        images_uri: a folder of class folders, an archive of one (also over http), or sample; for detection, pictures with XML.
        leave_out_uri: a list of pictures to leave out: CSV with a column path; empty for none.
        task: classification, or detection: boxes in the XML of Pascal VOC.
        check_images: refuse data that nothing can be trained on.
        validation_ratio: share of each class held out while training.
        test_ratio: share of each class held out for the last evaluation.
        advanced: store_wait_seconds is read of it.

    Returns:
        images: The table, one row a picture: uri, label, bytes, content_id, name, split, objects.
        summary: A page about the data.
        Output: A hash of labels and contents, wherever the pictures lie.
    """
    from pathlib import Path

    from kfp_vision import catalog, storage

    storage.wait_for_stores(advanced)
    splits = 1 + (validation_ratio > 0) + (test_ratio > 0)
    made = {"table": Path(images.path), "page": Path(summary.path)}
    found = catalog.ingest(images_uri, leave_out_uri=leave_out_uri, task=task, check_images=check_images, splits=splits, **made)
    images.metadata.update({"pictures": len(found.rows), "classes": len(found.classes), "source": images_uri})
    return found.fingerprint
