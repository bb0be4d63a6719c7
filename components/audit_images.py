from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def audit_images(
    index: dsl.Input[dsl.Artifact],
    validation_ratio: float,
    test_ratio: float,
    findings: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Audits an index for near-duplicates and label issues (labels that are probably wrong).

    Args:
        index: index of the images, from join_index.
        validation_ratio: share of each class that a training would hold out for validation, from 0 to 1.
        test_ratio: share of each class that a training would hold out for the final test, from 0 to 1.

    Returns:
        findings: Table with the columns path, leave_out, finding, label, instead, other and score; a training accepts it as
            leave_out_uri.
        page: Report with near-duplicates, label issues and a map of the images.
        metrics: Number of findings of each kind.
    """
    from pathlib import Path

    from kfp_vision.search import audit
    from kfp_vision.storage import atomic

    outputs = {"table": Path(findings.path), "page": Path(page.path)}
    found = audit.audit_index(Path(index.path), validation_ratio=validation_ratio, test_ratio=test_ratio, **outputs)
    metrics.metadata.update(found)
    atomic.write_json(Path(metrics.path), found)
