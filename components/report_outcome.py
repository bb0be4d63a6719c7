from kfp import dsl

from kfp_vision.components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def report_outcome(status: dsl.PipelineTaskFinalStatus) -> None:
    """Says how the run ended, whatever happened before.

    Args:
        status: what KFP knows of the stages before.
    """
    from kfp_vision import outcome

    print(outcome.told(status.state))
