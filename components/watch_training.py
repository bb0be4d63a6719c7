from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def watch_training(log_uri: str, mlpipeline_ui_metadata: dsl.Output[dsl.Artifact]) -> None:
    """Lets the user interface open TensorBoard where a training writes its events while it runs.

    Args:
        log_uri: the folder or bucket folder that train_classifier is given.

    Returns:
        mlpipeline_ui_metadata: What the user interface reads; the name is its own.
    """
    from pathlib import Path

    from kfp_vision import tensorboard

    tensorboard.write_link(log_uri, Path(mlpipeline_ui_metadata.path))
