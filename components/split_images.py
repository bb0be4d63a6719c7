from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def split_images(
    images: dsl.Input[dsl.Dataset],
    validation_ratio: float,
    test_ratio: float,
    advanced: dict,
    train: dsl.Output[dsl.Dataset],
    validation: dsl.Output[dsl.Dataset],
    test: dsl.Output[dsl.Dataset],
    label_map: dsl.Output[dsl.Artifact],
    left_out: dsl.Output[dsl.Dataset],
) -> None:
    """Cuts the table of pictures into train, validation and test: the same pictures give the same splits everywhere.

    Args:
        images: the table of ingest_images.
        validation_ratio: share of each class held out while training.
        test_ratio: share of each class held out for the last evaluation; 0 for none.
        advanced: conflicting_labels is read of it.

    Returns:
        train: The table of pictures to train on.
        validation: The table of pictures to validate on.
        test: The table of pictures to test on.
        label_map: A folder with labels.txt, whose lines are such as 0:daisy; for detection with label_map.pbtxt, ids from 1.
        left_out: The table of pictures that are in no split: uri, label, reason.
    """
    from pathlib import Path

    from kfp_vision import parameters, splitting

    outputs = {"train": train, "validation": validation, "test": test, "label_map": label_map, "left_out": left_out}
    paths = {name: Path(artifact.path) for name, artifact in outputs.items()}
    counts = splitting.split_images(
        Path(images.path),
        validation_ratio=validation_ratio,
        test_ratio=test_ratio,
        conflicting_labels=parameters.advanced(advanced)["conflicting_labels"],
        **paths,
    )
    train.metadata.update({"pictures": counts["train"], "left_out": counts["left_out"]})
    validation.metadata["pictures"], test.metadata["pictures"] = counts["validation"], counts["test"]
