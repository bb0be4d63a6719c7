"""The stages (KFP components), one file each: a contract that KFP compiles, and one call into the library."""

from kfp_vision.components.audit_images import audit_images
from kfp_vision.components.call_endpoint import call_endpoint
from kfp_vision.components.check_collected import check_collected
from kfp_vision.components.check_drift import check_drift
from kfp_vision.components.check_prediction import check_prediction
from kfp_vision.components.check_preparation import check_preparation
from kfp_vision.components.check_review import check_review
from kfp_vision.components.check_run import check_run
from kfp_vision.components.check_search import check_search
from kfp_vision.components.check_serving import check_serving
from kfp_vision.components.check_sweep import check_sweep
from kfp_vision.components.check_training import check_training
from kfp_vision.components.choose_trials import choose_trials
from kfp_vision.components.collect_logged import collect_logged
from kfp_vision.components.compare_trials import compare_trials
from kfp_vision.components.decide_training import decide_training
from kfp_vision.components.deploy_index import deploy_index
from kfp_vision.components.deploy_model import deploy_model
from kfp_vision.components.evaluate_classifier import evaluate_classifier
from kfp_vision.components.export_model import export_model
from kfp_vision.components.fetch_embedder import fetch_embedder
from kfp_vision.components.fetch_model import fetch_model
from kfp_vision.components.fetch_records import fetch_records
from kfp_vision.components.fingerprint_images import fingerprint_images
from kfp_vision.components.index_images import index_images
from kfp_vision.components.ingest_images import ingest_images
from kfp_vision.components.join_index import join_index
from kfp_vision.components.join_predictions import join_predictions
from kfp_vision.components.join_records import join_records
from kfp_vision.components.list_images import list_images
from kfp_vision.components.partition_records import partition_records
from kfp_vision.components.predict_images import predict_images
from kfp_vision.components.register_model import register_model
from kfp_vision.components.report_outcome import report_outcome
from kfp_vision.components.review_images import review_images
from kfp_vision.components.search_images import search_images
from kfp_vision.components.split_images import split_images
from kfp_vision.components.train_classifier import train_classifier
from kfp_vision.components.train_trial import train_trial
from kfp_vision.components.write_partition import write_partition
from kfp_vision.components.write_tfrecords import write_tfrecords

__all__ = [
    "audit_images",
    "call_endpoint",
    "check_collected",
    "check_drift",
    "check_prediction",
    "check_preparation",
    "check_review",
    "check_run",
    "check_search",
    "check_serving",
    "check_sweep",
    "check_training",
    "choose_trials",
    "collect_logged",
    "compare_trials",
    "decide_training",
    "deploy_index",
    "deploy_model",
    "evaluate_classifier",
    "export_model",
    "fetch_embedder",
    "fetch_model",
    "fetch_records",
    "fingerprint_images",
    "index_images",
    "ingest_images",
    "join_index",
    "join_predictions",
    "join_records",
    "list_images",
    "partition_records",
    "predict_images",
    "register_model",
    "report_outcome",
    "review_images",
    "search_images",
    "split_images",
    "train_classifier",
    "train_trial",
    "write_partition",
    "write_tfrecords",
]
