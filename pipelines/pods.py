"""What a stage's pod is given: room to write in, and the credentials of the stores that it reads."""

from kfp import dsl, kubernetes

from kfp_vision.stores import ENVIRONMENT

TMP = "/tmp"  # KFP writes here, and a root file system may be read-only
STORAGE_SECRET = "kfp-vision-storage"  # its keys are called as the variables of the environment that they fill


def scratch(task: dsl.PipelineTask) -> None:
    """Room for a stage to write below /tmp, where it downloads and unpacks archives."""
    kubernetes.empty_dir_mount(task, volume_name="tmp", mount_path=TMP)


def reads_stores(task: dsl.PipelineTask) -> None:
    """Gives a stage the credentials of the stores. A secret that is not there, or lacks some of them, is none too few."""
    variables = {name: name for name in ENVIRONMENT}
    kubernetes.use_secret_as_env(task, secret_name=STORAGE_SECRET, secret_key_to_env=variables, optional=True)
