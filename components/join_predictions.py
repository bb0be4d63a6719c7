from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def join_predictions(
    parts: dsl.Input[list[dsl.Dataset]],
    model: dsl.Input[dsl.Model],
    predict_uri: str,
    predictions: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Puts the tables of several partitions together: the table that one predict_images would have written.

    Args:
        parts: the predictions of each partition.
        model: the model that they are of, whose classes are the known names of folders.
        predict_uri: where the pictures lie.

    Returns:
        predictions: CSV with a header path,label,prediction,score.
        metrics: Pictures, how many of them could not be read, and accuracy where folders give the labels.
    """
    from pathlib import Path

    from kfp_vision import prediction, repository, storage

    labels = repository.exported(Path(model.path)).labels
    joined = prediction.join_predictions([Path(part.path) for part in parts], labels, Path(predictions.path), predict_uri)
    predictions.metadata.update(joined)
    metrics.metadata.update(prediction.headlines(joined))
    storage.write_json(Path(metrics.path), joined)
