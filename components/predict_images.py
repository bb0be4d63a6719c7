from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def predict_images(model: dsl.Input[dsl.Model], predict_uri: str, predictions: dsl.Output[dsl.Dataset]) -> None:
    """Names every picture at a URI with a model.

    Args:
        model: the model of train_classifier.
        predict_uri: a picture, a folder, an archive (also over http), or sample.

    Returns:
        predictions: CSV with a header path,label,prediction,score.
    """
    from pathlib import Path

    from kfp_vision import prediction, repository

    version = repository.exported(Path(model.path))
    classifier = prediction.Classifier(version)
    counts = prediction.predict_images(classifier, version.labels, predict_uri, Path(predictions.path))
    predictions.metadata.update(counts)
