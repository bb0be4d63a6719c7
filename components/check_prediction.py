from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_prediction(model_uri: str, predict_uri: str, all_scores: bool, partitions: int, advanced: dict) -> None:
    """Validates the run form before any data moves: rejects invalid values, and a model or images that do not exist.

    The inputs are the fields of the run form; see batch_prediction.
    """
    fields = dict(locals())
    from kfp_vision.preflight import checks
    from kfp_vision.storage import reading_settings
    from kfp_vision.storage.retry import CHECK_SECONDS

    reading_settings.apply(advanced, at_most=CHECK_SECONDS)
    checks.check_prediction(fields)
