from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def fetch_embedder(model_uri: str, network: str, checkpoint_uri: str, model: dsl.Output[dsl.Model]) -> None:
    """Takes the newest version of a model that was trained before, or makes one of a network that was trained on ImageNet.

    Args:
        model_uri: a run's model folder, a model repository, or an archive of one; empty for the network.
        network: inception_v1, googlenet, or one of keras.applications, such as resnet50; see the README.
        checkpoint_uri: its weights: a TF-Slim checkpoint, an .npz, a .keras file, or imagenet.

    Returns:
        model: A model folder with its SavedModel.
    """
    from pathlib import Path

    from kfp_vision.search import sources

    version = sources.fetch_embedder(model_uri, network, checkpoint_uri, Path(model.path))
    model.metadata.update({"model_name": version.name, "fingerprint": version.fingerprint})
