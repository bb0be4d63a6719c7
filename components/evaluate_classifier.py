from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


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
    """Measures the exported model on pictures that it was not trained on: the test split where there is one, else validation.

    It is accepted if it is good enough, better than always naming the largest class, and not worse on the same pictures than
    the model that is deployed now.

    Args:
        model: the model of train_classifier.
        validation_records: the pictures held out while training.
        test_records: the pictures held out for this stage; may be none.
        min_accuracy: a model below it is refused.
        deploy_to: none, or the model repository whose newest version it is compared with.
        test_image_uri: one more picture to name on the page; empty for none.
        unchanged: whether the deployed model was trained from the very same pictures and fields; see decide_training.
        advanced: beat_largest_class, compare_with_deployed and store_wait_seconds are read of it.

    Returns:
        metrics: Accuracy, also among the likeliest five names; precision, recall and F1 as macro and as weighted means. In its
            file, as JSON, all figures.
        classification: The confusion matrix and the ROC curve; in its file as JSON.
        report: A page with all figures, the learning curve, and the worst mistakes as pictures.
        verdict: Whether the model is accepted, with reasons, and a few of its answers, as JSON.
        Output: Whether the model is accepted, and anything about it is new.
    """
    from pathlib import Path

    from kfp_vision import storage
    from kfp_vision.evaluation import HEADLINES, Wishes, evaluate_classifier

    storage.wait_for_stores(advanced)
    inputs = (Path(model.path), Path(validation_records.path), Path(test_records.path))
    made = {"evaluation": Path(metrics.path), "page": Path(report.path), "verdict": Path(verdict.path)}
    evaluation = evaluate_classifier(*inputs, Wishes(min_accuracy, deploy_to, test_image_uri, advanced), **made)
    figures, roc = evaluation.metrics, evaluation.metrics.roc
    metrics.metadata.update({name: getattr(figures, name) for name in HEADLINES})
    classification.log_confusion_matrix(figures.labels, figures.confusion_matrix)
    classification.log_roc_curve(roc["false_positive_rate"], roc["true_positive_rate"], roc["thresholds"])
    drawn = {"labels": figures.labels, "confusion_matrix": figures.confusion_matrix, "roc": roc}
    storage.write_json(Path(classification.path), drawn)
    return evaluation.verdict.accepted and not unchanged
