from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


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
    """Names every picture at a URI with a model.

    Args:
        model: the model of train_classifier or of fetch_model.
        predict_uri: a picture, a folder, an archive (also over http), or sample.
        all_scores: also write the scores of all classes.
        partition: which of the equal parts of the pictures is named here, from 0.
        partitions: how many parts there are; 1 for all pictures in one.
        advanced: store_wait_seconds is read of it.

    Returns:
        predictions: CSV with a header path,label,prediction,score. It says nothing of itself, since KFP hands those of all
            partitions over in a single argument.
    """
    from pathlib import Path

    from kfp_vision import prediction, repository, storage

    storage.wait_for_stores(advanced)
    version = repository.exported(Path(model.path))
    given = (prediction.Classifier(version), version.labels, predict_uri, Path(predictions.path))
    prediction.predict_images(*given, all_scores=all_scores, partition=partition, partitions=partitions)
