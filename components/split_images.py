from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def split_images(
    images: dsl.Input[dsl.Dataset],
    validation_ratio: float,
    test_ratio: float,
    advanced: dict,
    tables: dsl.Output[dsl.Dataset],
    label_map: dsl.Output[dsl.Artifact],
) -> None:
    """Cuts the table of pictures into train, validation and test: the same pictures give the same splits everywhere.

    Args:
        images: the table of ingest_images.
        validation_ratio: share of each class held out while training.
        test_ratio: share of each class held out for the last evaluation; 0 for none.
        advanced: conflicting_labels is read of it.

    Returns:
        tables: A folder with train.csv, validation.csv and test.csv, and left_out.csv of the pictures that are in none of them.
        label_map: A folder with labels.txt, whose lines are such as 0:daisy; for detection with label_map.pbtxt, ids from 1.
    """
    from pathlib import Path
    from typing import Any

    from kfp_vision import parameters, splitting

    how: dict[str, Any] = {"validation_ratio": validation_ratio, "test_ratio": test_ratio}
    how |= {"conflicting_labels": parameters.Advanced.parse(advanced).conflicting_labels}
    tables.metadata.update(splitting.write_tables(Path(images.path), Path(tables.path), Path(label_map.path), **how))
