from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def deploy_model(
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    proof: dsl.Input[dsl.Metrics],
    deploy_to: str,
    advanced: dict,
    endpoint: dsl.Output[dsl.Artifact],
) -> None:
    """Brings a model to where it answers from, if the verdict and the proof are of this very model.

    Args:
        model: the model of train_classifier.
        verdict: the verdict of evaluate_classifier on it; it must accept.
        proof: the proof of check_serving for it.
        deploy_to: a model repository, a folder of numbered versions here or in a bucket, or kserve for an InferenceService.
        advanced: versions_kept, canary_percent, runtime_version, store_wait_seconds and the fields that begin with service_ are
            read of it.

    Returns:
        endpoint: Where the model answers from, as JSON.
    """
    from pathlib import Path

    from kfp_vision import deployment, parameters, storage

    storage.wait_for_stores(advanced)
    settings = parameters.of_deployment(advanced)
    judgements = (Path(verdict.path), Path(proof.path))
    told = deployment.deploy_model(Path(model.path), model.uri, *judgements, deploy_to, settings, Path(endpoint.path))
    endpoint.metadata.update(told)
