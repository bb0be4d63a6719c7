from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def deploy_index(index: dsl.Input[dsl.Artifact], deploy_to: str, deployed: dsl.Output[dsl.Artifact]) -> None:
    """Brings an index to where the model lies that it is of, for servers to search in.

    Args:
        index: the index of index_images.
        deploy_to: a model folder or a model repository, here or in a bucket, with that model as its newest version.

    Returns:
        deployed: Where the index lies, as JSON.
    """
    from pathlib import Path

    from kfp_vision.search import beside

    deployed.metadata.update(beside.deploy_index(Path(index.path), deploy_to, Path(deployed.path)))
