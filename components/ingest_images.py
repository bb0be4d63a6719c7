from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def ingest_images(
    fingerprint: str,
    images_uri: str,
    leave_out_uri: str,
    labels_uri: str,
    labels: str,
    task: str,
    check_images: bool,
    validation_ratio: float,
    test_ratio: float,
    advanced: dict,
    images: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.HTML],
) -> str:
    """Finds the images at a URI and writes a table of them; no image is copied.

    Args:
        fingerprint: fingerprint of the data; the stage runs again when it changes.
        images_uri: folder of class folders, archive of one (also over HTTP), or sample; for detection, images with XML
            annotations.
        leave_out_uri: list of images to exclude: CSV with a column path; empty for none.
        labels_uri: list of labels that add or correct images: CSV with path and label, or Label Studio's JSON; empty for none.
        labels: one, or several for images with any number of labels.
        task: classification, or detection with boxes in Pascal VOC XML.
        check_images: stop the run if the data cannot be trained on.
        validation_ratio: share of each class to hold out for validation, from 0 to 1.
        test_ratio: share of each class to hold out for the final test, from 0 to 1.
        advanced: advanced settings; uses those of the data, such as class_folder and min_images_per_class.

    Returns:
        images: Table with one row per image: uri, label, bytes, content_id, name, split, objects.
        summary: Report on the data.
        Output: Hash of labels and contents, independent of the location of the images.
    """
    from pathlib import Path
    from typing import Any

    from kfp_vision.core.advanced import Advanced
    from kfp_vision.dataset import ingest
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    splits = 1 + (validation_ratio > 0) + (test_ratio > 0)
    parsed = Advanced.parse(advanced)
    made: dict[str, Any] = {"table": Path(images.path), "page": Path(summary.path)}
    made |= {"leave_out_uri": leave_out_uri, "labels_uri": labels_uri, "task": task, "labels": labels}
    found = ingest.ingest_images(images_uri, check_images=check_images, splits=splits, advanced=parsed, **made)
    images.metadata.update({"pictures": len(found.rows), "classes": len(found.classes), "source": images_uri})
    return found.fingerprint
