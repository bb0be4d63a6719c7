from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def deploy_model(
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    proof: dsl.Input[dsl.Metrics],
    metrics: dsl.Input[dsl.Metrics],
    deploy_to: str,
    advanced: dict,
    form: dict,
    pipeline: str,
    data_fingerprint: str,
    run_name: str,
    run_id: str,
    endpoint: dsl.Output[dsl.Artifact],
    card: dsl.Output[dsl.Markdown],
) -> None:
    """Deploys a model whose verdict and proof belong to it and accept it. A model repository gets the model's papers as well.

    Args:
        model: model from train_classifier.
        verdict: verdict on the model, from evaluate_classifier; must accept it.
        proof: proof for the model, from check_serving.
        metrics: metrics of the model, from evaluate_classifier, for its papers.
        deploy_to: model repository (a folder of numbered versions, local or in a bucket), or kserve for an InferenceService.
        advanced: advanced settings; uses versions_kept, canary_percent, runtime_version, store_wait_seconds and those that
            begin with service_.
        form: value of every field of the form, from check_run, for the model's papers.
        pipeline: name of the pipeline, for the papers.
        data_fingerprint: hash of the images, for the papers.
        run_name: name of the run, for the papers.
        run_id: id of the run, for the papers.

    Returns:
        endpoint: Address and version of the deployed model, as JSON.
        card: The model card: what the model is for, what it was made of, its figures and why it was accepted.
    """
    from pathlib import Path

    from kfp_vision.core.advanced import deployment_settings
    from kfp_vision.deployment import deploy, model_card
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    settings = deployment_settings(advanced)
    judgements = (Path(verdict.path), Path(proof.path))
    origin = model_card.Origin(pipeline, form, data_fingerprint, run_name, run_id)
    sources = model_card.Sources(Path(metrics.path), origin, Path(card.path))
    inputs = (Path(model.path), model.uri, *judgements)
    deployed = deploy.deploy_model(*inputs, deploy_to, settings, Path(endpoint.path), sources)
    endpoint.metadata.update(deployed)
