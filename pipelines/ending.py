"""The exit handler of every pipeline: reports the outcome whether or not a stage failed."""

from kfp import dsl, kubernetes

from kfp_vision.components import report_outcome
from kfp_vision.pipelines.pods import equipped, with_secret
from kfp_vision.reports.outcome import REPORT_ENVIRONMENT

WEBHOOK_SECRET = "kfp-vision-webhook"  # each key has the name of the environment variable it sets
KFP_API_LABEL = "access-ml-pipeline"  # Kubeflow gives pods with this label a token for KFP's API, if a profile allows it


def outcome_reported() -> dsl.PipelineTask:
    """Creates the exit task, which reports how the run ended in its log, and to a webhook if a secret names one."""
    task = report_outcome(run_name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER, run_id=dsl.PIPELINE_JOB_ID_PLACEHOLDER)
    equipped(task)
    with_secret(task, WEBHOOK_SECRET, REPORT_ENVIRONMENT)
    return kubernetes.add_pod_label(task, KFP_API_LABEL, "true")
