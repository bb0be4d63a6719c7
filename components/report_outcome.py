from kfp import dsl

from kfp_vision.components.container_images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def report_outcome(status: dsl.PipelineTaskFinalStatus, run_name: str, run_id: str) -> None:
    """Reports how the run ended, in its log and to a webhook if a secret names one. Runs even if an earlier stage failed.

    Args:
        status: final status of the run, from KFP.
        run_name: name of the run on the Kubeflow page; dsl.PIPELINE_JOB_NAME_PLACEHOLDER.
        run_id: ID of the run in KFP; dsl.PIPELINE_JOB_ID_PLACEHOLDER.
    """
    from kfp_vision.reports import outcome

    outcome.report(status.state, run_name, run_id)
