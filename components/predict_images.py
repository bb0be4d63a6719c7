from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def predict_images(
    model: dsl.Input[dsl.Model],
    predict_uri: str,
    all_scores: bool,
    partition: int,
    partitions: int,
    advanced: dict,
    predictions: dsl.Output[dsl.Dataset],
) -> None:
    """Classifies every image at a URI.

    Args:
        model: model from train_classifier or fetch_model.
        predict_uri: image, folder, archive (also over HTTP), or sample.
        all_scores: also write the scores of all classes.
        partition: number of the partition to classify, from 0.
        partitions: number of partitions; 1 for all images at once.
        advanced: advanced settings; uses name_encoding and store_wait_seconds.

    Returns:
        predictions: CSV with the header path,label,prediction,score,known,known_score; where images have several labels,
            prediction holds all of them with | between. It carries no metadata, because KFP passes the metadata of all
            partitions in one command-line argument.
    """
    from pathlib import Path

    from kfp_vision.prediction import batch, classifier
    from kfp_vision.repository.version import exported_version
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    version = exported_version(Path(model.path))
    given = (classifier.Classifier(version), version.labels, predict_uri, Path(predictions.path))
    batch.predict_images(
        *given,
        all_scores=all_scores,
        name_unknown=version.name_unknown,
        partition=partition,
        partitions=partitions,
        thresholds=version.thresholds,
    )
