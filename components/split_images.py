from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def split_images(
    images: dsl.Input[dsl.Dataset],
    labels: str,
    validation_ratio: float,
    test_ratio: float,
    advanced: dict,
    tables: dsl.Output[dsl.Dataset],
    label_map: dsl.Output[dsl.Artifact],
) -> None:
    """Splits the table of images into train, validation and test; the same images always give the same splits.

    Args:
        images: table from ingest_images.
        labels: one, or several for images with any number of labels.
        validation_ratio: share of each class to hold out for validation, from 0 to 1.
        test_ratio: share of each class to hold out for the final test, from 0 to 1; 0 for none.
        advanced: advanced settings; uses conflicting_labels.

    Returns:
        tables: Folder with train.csv, validation.csv and test.csv, and left_out.csv for images in none of the splits.
        label_map: Folder with labels.txt, whose lines look like 0:daisy, and an empty file several_labels if images have
            several; for detection label_map.pbtxt instead, with ids from 1.
    """
    from pathlib import Path
    from typing import Any

    from kfp_vision.core.advanced import Advanced
    from kfp_vision.dataset import split

    how: dict[str, Any] = {"validation_ratio": validation_ratio, "test_ratio": test_ratio}
    how |= {"conflicting_labels": Advanced.parse(advanced).conflicting_labels, "labels": labels}
    tables.metadata.update(split.write_split_tables(Path(images.path), Path(tables.path), Path(label_map.path), **how))
