from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def register_model(
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    metrics: dsl.Input[dsl.Metrics],
    report: dsl.Input[dsl.HTML],
    register_in: str,
    form: dict,
    pipeline: str,
    data_fingerprint: str,
    run_name: str,
    run_id: str,
    registered: dsl.Output[dsl.Artifact],
) -> None:
    """Registers an accepted model in MLflow and in Kubeflow's Model Registry, each once by its fingerprint.

    A registry that refuses or does not answer is a warning in the log, and the stage succeeds.

    Args:
        model: model from train_classifier.
        verdict: verdict on the model, from evaluate_classifier; must accept it.
        metrics: metrics of the model, from evaluate_classifier.
        report: report on the model, from evaluate_classifier.
        register_in: mlflow, model-registry or both, comma-separated; each with an address as mlflow+http://host:5000.
        form: value of every field of the form, from check_run.
        pipeline: name of the pipeline.
        data_fingerprint: hash of the images.
        run_name: name of the run.
        run_id: id of the run.

    Returns:
        registered: The version in each registry, or the reason of its failure, as JSON.
    """
    from pathlib import Path

    from kfp_vision.deployment import model_card, register

    origin = model_card.Origin(pipeline, form, data_fingerprint, run_name, run_id)
    judgements = (Path(verdict.path), Path(metrics.path), Path(report.path))
    judged = register.Judged(Path(model.path), model.uri, *judgements)
    register.register_model(judged, register_in, origin, Path(registered.path))
