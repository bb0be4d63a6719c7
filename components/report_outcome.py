from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def report_outcome(status: dsl.PipelineTaskFinalStatus, run_name: str, run_id: str) -> None:
    """Says how the run ended, whatever happened before: in its log, and to a webhook if a secret names one.

    Args:
        status: what KFP knows of the stages before.
        run_name: as the Kubeflow UI shows it; dsl.PIPELINE_JOB_NAME_PLACEHOLDER.
        run_id: as KFP knows it; dsl.PIPELINE_JOB_ID_PLACEHOLDER.
    """
    from kfp_vision import outcome

    outcome.report(status.state, run_name, run_id)
