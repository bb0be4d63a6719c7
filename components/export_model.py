from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def export_model(
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    train_records: dsl.Input[dsl.Dataset],
    validation_records: dsl.Input[dsl.Dataset],
    test_records: dsl.Input[dsl.Dataset],
    formats: str,
    deploy_to: str,
    advanced: dict,
    exports: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Exports an accepted model for other runtimes, and keeps the files that are not significantly worse than it.

    Each file is scored on the held-out images of the evaluation, in pairs with the model.

    Args:
        model: model from train_classifier.
        verdict: verdict on the model, from evaluate_classifier; must accept it.
        train_records: training images; int8 is calibrated on some of them.
        validation_records: validation images.
        test_records: test images; may be empty.
        formats: formats to export to, comma-separated.
        deploy_to: model repository to copy the files to; none or kserve for no copy.
        advanced: advanced settings; uses seed, store_wait_seconds and name_encoding.

    Returns:
        exports: A folder per format that is kept, with the model's file, labels.txt and model.json; exports.json is the table.
        report: Report with accuracy, size, time and largest difference of every format.
    """
    from pathlib import Path

    from kfp_vision.core.advanced import Advanced
    from kfp_vision.exports import export
    from kfp_vision.storage import reading_settings

    reading_settings.apply(advanced)
    records = export.Records(Path(train_records.path), Path(validation_records.path), Path(test_records.path))
    inputs, made = (Path(model.path), Path(verdict.path), records), (Path(exports.path), Path(report.path))
    seed = Advanced.parse(advanced).seed
    table = export.export_model(*inputs, formats, *made, deploy_to=deploy_to, seed=seed)
    exports.metadata.update(export.figures_of_kept(table))
