from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def deploy_index(index: dsl.Input[dsl.Artifact], deploy_to: str, advanced: dict, deployed: dsl.Output[dsl.Artifact]) -> None:
    """Copies an index next to its deployed model, so that the model's servers can search it.

    Args:
        index: index from join_index.
        deploy_to: model folder or model repository, local or in a bucket, whose newest version is the model of the index.
        advanced: advanced settings; uses store_wait_seconds.

    Returns:
        deployed: Location of the deployed index, as JSON.
    """
    from pathlib import Path

    from kfp_vision.search import deploy_index as search_deploy_index
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    deployed.metadata.update(search_deploy_index.deploy_index(Path(index.path), deploy_to, Path(deployed.path)))
