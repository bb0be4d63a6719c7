from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def check_search(
    images_uri: str,
    labels: str,
    model_uri: str,
    network: str,
    checkpoint_uri: str,
    index_uri: str,
    queries_uri: str,
    nearest: int,
    label: str,
    audit: bool,
    validation_ratio: float,
    test_ratio: float,
    deploy_to: str,
    partitions: int,
    advanced: dict,
) -> None:
    """Validates the run form before any data moves: rejects invalid values, and images, a model or an index that do not exist.

    The inputs are the fields of the run form; see image_search.
    """
    fields = dict(locals())
    from kfp_vision.preflight import checks
    from kfp_vision.storage import reading_settings
    from kfp_vision.storage.retry import CHECK_SECONDS

    reading_settings.apply(advanced, at_most=CHECK_SECONDS)
    checks.check_search(fields)
