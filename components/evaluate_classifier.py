from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def evaluate_classifier(
    model: dsl.Input[dsl.Model],
    validation_records: dsl.Input[dsl.Dataset],
    test_records: dsl.Input[dsl.Dataset],
    min_accuracy: float,
    deploy_to: str,
    test_image_uri: str,
    unchanged: bool,
    advanced: dict,
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    verdict: dsl.Output[dsl.Artifact],
) -> bool:
    """Evaluates the exported model on held-out images: the test split if there is one, otherwise the validation split.

    Accepts the model if it reaches min_accuracy, beats always predicting the largest class, and is not worse than the deployed
    model on the same images. Where images have several labels, mean average precision stands for the accuracy, and scores that
    know nothing of the image for the largest class.

    Args:
        model: model from train_classifier.
        validation_records: validation images.
        test_records: test images; may be empty.
        min_accuracy: minimum accuracy, of several labels minimum mean average precision; a model below it is rejected.
        deploy_to: model repository whose newest version to compare with; none for no comparison.
        test_image_uri: additional image to classify on the report; empty for none.
        unchanged: whether the deployed model was trained on the same images and fields, from decide_training.
        advanced: advanced settings; uses beat_largest_class, compare_with_deployed, name_encoding and store_wait_seconds.

    Returns:
        metrics: Top-1 and top-5 accuracy, and macro and weighted averages of precision, recall and F1; of several labels, mean
            average precision, micro and macro averages, and the exact match ratio. Its file holds all metrics as JSON.
        classification: Confusion matrix and ROC curve, of several labels the curve alone; its file holds both as JSON.
        report: Report with all metrics, the learning curves and the worst mistakes as images.
        verdict: Whether the model is accepted and why, with a few of its predictions, as JSON.
        Output: Whether the model is accepted and differs from the deployed one in data or fields.
    """
    from pathlib import Path

    from kfp_vision.evaluation.evaluate import evaluate_classifier
    from kfp_vision.evaluation.gate import Criteria
    from kfp_vision.storage import atomic, reading_settings

    reading_settings.apply(advanced)
    inputs = (Path(model.path), Path(validation_records.path), Path(test_records.path))
    made = {"evaluation": Path(metrics.path), "page": Path(report.path), "verdict": Path(verdict.path)}
    evaluation = evaluate_classifier(*inputs, Criteria(min_accuracy, deploy_to, test_image_uri, advanced), **made)
    metrics.metadata.update(evaluation.headline)
    drawn = evaluation.draw(classification.log_confusion_matrix, classification.log_roc_curve)
    atomic.write_json(Path(classification.path), drawn)
    return evaluation.verdict.accepted and not unchanged
