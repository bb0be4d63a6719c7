from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_collected(model_uri: str, collected_uri: str, logged_uri: str, days: int, advanced: dict) -> None:
    """Validates the run form before any data moves: rejects invalid values, and a model or a collection that does not exist.

    The inputs are the fields of the run form; see drift_detection.
    """
    fields = dict(locals())
    from kfp_vision.preflight import checks
    from kfp_vision.storage import reading_settings
    from kfp_vision.storage.retry import CHECK_SECONDS

    reading_settings.apply(advanced, at_most=CHECK_SECONDS)
    checks.check_collected(fields)
