from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def join_predictions(
    prediction_parts: dsl.Input[list[dsl.Dataset]],
    counts: list,
    predict_uri: str,
    predictions: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Puts the tables of several partitions together: the table that one predict_images would have written.

    Args:
        prediction_parts: the predictions of each partition.
        counts: what each of them counted.
        predict_uri: where the pictures lie.

    Returns:
        predictions: CSV with a header path,label,prediction,score.
        metrics: Pictures, how many of them could not be read, and accuracy where folders give the labels.
    """
    from pathlib import Path

    from kfp_vision import prediction

    parts = [Path(part.path) for part in prediction_parts]
    joined = prediction.join_predictions(parts, counts, Path(predictions.path), predict_uri)
    predictions.metadata.update(joined)
    metrics.metadata.update(prediction.headlines(joined))
