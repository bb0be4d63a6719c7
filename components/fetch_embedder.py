from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def fetch_embedder(model_uri: str, network: str, checkpoint_uri: str, advanced: dict, model: dsl.Output[dsl.Model]) -> None:
    """Fetches the newest version of a trained model, or builds an embedding model from a network with pretrained weights.

    Args:
        model_uri: a run's model folder, a model repository, or an archive of one; empty to use the network.
        network: such as inception_v1, googlenet, efficientnet_lite0 or resnet50; docs/reference/networks.md lists all.
        checkpoint_uri: weights of the network: a TF-Slim checkpoint, .npz, .pth or .keras file, or imagenet.
        advanced: advanced settings; uses name_encoding, store_wait_seconds.

    Returns:
        model: Model folder with its SavedModel.
    """
    from pathlib import Path

    from kfp_vision.search import build
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    version = build.fetch_embedder(model_uri, network, checkpoint_uri, Path(model.path))
    model.metadata.update({"model_name": version.name, "fingerprint": version.fingerprint})
