from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def join_predictions(
    parts: dsl.Input[list[dsl.Dataset]],
    model: dsl.Input[dsl.Model],
    predict_uri: str,
    predictions: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Merges the predictions of all partitions into one table, identical to that of a single predict_images.

    Args:
        parts: predictions of each partition.
        model: model that made the predictions; its classes are the folder names that count as labels.
        predict_uri: location of the images.

    Returns:
        predictions: CSV with the header path,label,prediction,score,known,known_score.
        metrics: Number of images, number of unreadable ones, and if folder names give the labels accuracy; of several labels,
            the exact match ratio.
    """
    from pathlib import Path

    from kfp_vision.prediction import batch
    from kfp_vision.repository import version
    from kfp_vision.storage import atomic

    about, tables = version.exported_version(Path(model.path)), [Path(part.path) for part in parts]
    given = (tables, about.labels, Path(predictions.path), predict_uri)
    joined = batch.join_predictions(*given, several=about.several)
    predictions.metadata.update(joined)
    figures = batch.summary_metrics(joined, several=about.several)
    metrics.metadata.update(figures)
    atomic.write_json(Path(metrics.path), joined | figures)
