from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def audit_images(
    index: dsl.Input[dsl.Artifact],
    validation_ratio: float,
    test_ratio: float,
    findings: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Looks in an index for what is wrong with the pictures: copies, and labels that may be wrong.

    Args:
        index: the index of index_images.
        validation_ratio: share of each class that a training would hold out while training.
        test_ratio: share of each class that it would hold out for the last evaluation.

    Returns:
        findings: A table with path, leave_out, finding, label, instead, other and score; leave_out_uri of a training takes it.
        page: The copies, the suspicious labels, and a map of the pictures.
        metrics: How many of each there are.
    """
    from pathlib import Path

    from kfp_vision import storage
    from kfp_vision.search import audit

    outputs = {"table": Path(findings.path), "page": Path(page.path)}
    found = audit.audit(Path(index.path), validation_ratio=validation_ratio, test_ratio=test_ratio, **outputs)
    metrics.metadata.update(found)
    storage.write_json(Path(metrics.path), found)
