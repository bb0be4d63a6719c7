from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def deploy_model(
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    proof: dsl.Input[dsl.Metrics],
    deploy_to: str,
    advanced: dict,
    endpoint: dsl.Output[dsl.Artifact],
) -> None:
    """Deploys a model whose verdict and proof belong to it and accept it.

    Args:
        model: model from train_classifier.
        verdict: verdict on the model, from evaluate_classifier; must accept it.
        proof: proof for the model, from check_serving.
        deploy_to: model repository (a folder of numbered versions, local or in a bucket), or kserve for an InferenceService.
        advanced: advanced settings; uses versions_kept, canary_percent, runtime_version, store_wait_seconds and those that
            begin with service_.

    Returns:
        endpoint: Address and version of the deployed model, as JSON.
    """
    from pathlib import Path

    from kfp_vision.core.advanced import deployment_settings
    from kfp_vision.deployment import deploy
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    settings = deployment_settings(advanced)
    judgements = (Path(verdict.path), Path(proof.path))
    deployed = deploy.deploy_model(Path(model.path), model.uri, *judgements, deploy_to, settings, Path(endpoint.path))
    endpoint.metadata.update(deployed)
