from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def evaluate_classifier(
    model: dsl.Input[dsl.Model],
    validation_records: dsl.Input[dsl.Dataset],
    test_records: dsl.Input[dsl.Dataset],
    min_accuracy: float,
    test_image_uri: str,
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    verdict: dsl.Output[dsl.Artifact],
) -> bool:
    """Measures the exported model on pictures that it was not trained on: the test split where there is one, else validation.

    Args:
        model: the model of train_classifier.
        validation_records: the pictures held out while training.
        test_records: the pictures held out for this stage; may be none.
        min_accuracy: a model below it is refused.
        test_image_uri: one more picture to name on the page; empty for none.

    Returns:
        metrics: Accuracy, macro precision, recall and F1.
        classification: The confusion matrix and the ROC curve.
        report: A page with all figures, the learning curve, and the worst mistakes as pictures.
        verdict: All figures as JSON, and whether the model is accepted, with reasons.
        Output: Whether the model is accepted.
    """
    from pathlib import Path

    from kfp_vision import evaluation

    inputs = (Path(model.path), Path(validation_records.path), Path(test_records.path))
    outputs = {"page": Path(report.path), "verdict": Path(verdict.path)}
    figures = evaluation.evaluate_classifier(*inputs, min_accuracy=min_accuracy, test_image_uri=test_image_uri, **outputs)
    metrics.metadata.update({name: figures[name] for name in evaluation.HEADLINES})
    classification.log_confusion_matrix(figures["labels"], figures["confusion_matrix"])
    roc = figures["roc"]
    classification.log_roc_curve(roc["false_positive_rate"], roc["true_positive_rate"], roc["thresholds"])
    return figures["verdict"]["accepted"]
