"""Deployment to KServe, against an API server that speaks Kubernetes' HTTP: the resulting services and the errors."""

import contextlib
import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import colour_model, kubernetes_api, load_balancer, published_schemas
from support.exported_model import version
from support.model_servers import NUMBERS, answering, free_port

from kfp_vision import REGISTRY, __version__
from kfp_vision.collection import settings as collect_settings
from kfp_vision.core.advanced import deployment_settings
from kfp_vision.core.errors import InputError
from kfp_vision.deployment import cluster, kserve
from kfp_vision.deployment import deploy as deployment_deploy
from kfp_vision.deployment.call import call_endpoint
from kfp_vision.deployment.decide_training import TrainingDecision, decide_training
from kfp_vision.deployment.deploy import check_target, deploy_model
from kfp_vision.engines.engine import OPENVINO_FILE
from kfp_vision.repository import bucket_repository
from kfp_vision.repository.version import Version, exported_version
from kfp_vision.serving import server
from kfp_vision.storage import reading, writing

ROOT = Path(__file__).resolve().parents[2]
ARTIFACT = "minio://mlpipeline/v2/artifacts/image-classification/17/train-classifier/model"


@pytest.fixture(autouse=True)
def short_pauses(tmp_path, monkeypatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(cluster, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "BACK_SECONDS", 5)


@pytest.fixture
def kubernetes(tmp_path, monkeypatch) -> Iterator[kubernetes_api.Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kubernetes_api.running(kubernetes_api.Cluster(), tmp_path / "config") as running:
        yield running


@pytest.fixture
def knative(kubernetes) -> kubernetes_api.Cluster:
    """Returns a cluster with KServe in Knative mode."""
    kubernetes.mode = "Knative"
    return kubernetes


@pytest.fixture
def models(s3) -> str:
    """Returns the URI of a bucket folder for models."""
    return f"s3://{s3.bucket(f'bucket-{next(NUMBERS)}', {'first': b'1'})}/models"


def settings(**options: object) -> dict[str, object]:
    return deployment_settings({"service_account": "kfp-vision-models", **options})


def write_openvino_file(one: Version) -> None:
    """Adds the file that the server computes without TensorFlow, as exports of this release hold it."""
    (one.folder / OPENVINO_FILE).parent.mkdir()
    (one.folder / OPENVINO_FILE).write_text("<net/>")


def deploy(folder: Path, weights: bytes = b"weights", **options: object) -> dict[str, str]:
    """Deploys a model from the artifact of a KFP run."""
    one = Version(folder / "serving" / "1")
    if not one.folder.exists():
        version(one.folder, weights=weights)
        write_openvino_file(one)
    return kserve.deploy(one, f"{ARTIFACT}-{folder.name}", settings(**options))


def refusal(*arguments: object, **options: object) -> str:
    with pytest.raises(InputError) as raised:
        deploy(*arguments, **options)
    line = str(raised.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


def predictor(kubernetes: kubernetes_api.Cluster) -> dict[str, object]:
    return kubernetes.services["flowers"]["spec"]["predictor"]


def model_uri(kubernetes: kubernetes_api.Cluster) -> str:
    """Returns the URI from which our server reads the model."""
    ((variable,),) = [container["env"] for container in predictor(kubernetes)["containers"]]
    assert variable["name"] == "STORAGE_URI"
    return variable["value"]


def test_creates_a_service_and_waits_until_it_is_ready(kubernetes, tmp_path, capsys):
    endpoint = deploy(tmp_path / "model", service_runtime="tensorflow")
    assert endpoint == {
        "name": "flowers",
        "namespace": "models",
        "model_name": "flowers",
        "url": "http://flowers-models.example.com",
        "address": "http://flowers-predictor.models.svc.cluster.local",
        "fingerprint": Version(tmp_path / "model" / "serving" / "1").fingerprint,
        "share": 100,
    }
    assert predictor(kubernetes) == {
        "serviceAccountName": "kfp-vision-models",
        "model": {
            "modelFormat": {"name": "tensorflow"},
            "storageUri": f"s3{ARTIFACT.removeprefix('minio')}-model/serving/",
            "resources": {"limits": {}},
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "terminationMessagePolicy": "FallbackToLogsOnError",
        },
    }
    assert capsys.readouterr().out.splitlines() == [
        "InferenceService flowers in models: created",
        "not ready yet: KServe has not created the Deployment yet",
        "not ready yet: Kubernetes has not started the rollout yet",
        "not ready yet: 1 of 1 pods updated, 1 in total, 0 available",
        "not ready yet: PredictorReady is False (MinimumReplicasUnavailable: Deployment minimum availability)",
        "ready at http://flowers-models.example.com, within the cluster http://flowers-predictor.models.svc.cluster.local",
    ]


def test_deploying_the_same_model_again_changes_nothing(kubernetes, models, tmp_path, capsys):
    first = deploy(tmp_path / "model", service_repository=models)
    services, files = copy.deepcopy(kubernetes.services), [found.name for found in reading.list_files(models)]
    assert deploy(tmp_path / "model", service_repository=models) == first
    assert kubernetes.services == services
    assert [found.name for found in reading.list_files(models)] == files
    assert kubernetes.asked["create"] == 1 and kubernetes.asked["patch"] == 0
    assert "InferenceService flowers in models: unchanged" in capsys.readouterr().out


@pytest.mark.parametrize("runtime", ["tensorflow", "kfp-vision"])
def test_ignores_defaults_added_by_a_webhook(kubernetes, tmp_path, runtime):
    def add_defaults(service: dict) -> None:
        predictor = service["spec"]["predictor"]
        model = predictor["model"] if runtime == "tensorflow" else predictor["containers"][0]
        if runtime == "tensorflow":
            model |= {"protocolVersion": "v1", "runtime": "kserve-tensorflow-serving", "name": ""}
        model["resources"] = {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "1", "memory": "2Gi"}}

    kubernetes.defaults = add_defaults
    first = deploy(tmp_path / "model", service_runtime=runtime)
    assert first == deploy(tmp_path / "model", service_runtime=runtime)
    assert kubernetes.asked["patch"] == 0


def test_updates_the_service_for_another_model_and_ignores_its_old_state(kubernetes, models, tmp_path):
    first = deploy(tmp_path / "first", service_repository=models, service_runtime="tensorflow")
    before = predictor(kubernetes)["model"]["storageUri"]
    second = deploy(tmp_path / "second", b"better", service_repository=models, service_runtime="tensorflow")
    assert first["url"] == second["url"] and first["fingerprint"] != second["fingerprint"]
    after = predictor(kubernetes)["model"]["storageUri"]
    assert after != before
    for uri, weights in ((before, b"weights"), (after, b"better")):  # a revision of the first model may still read its files
        with bucket_repository.local_copy(uri) as path:
            assert (path / "1" / "variables" / "variables.index").read_bytes() == weights
    assert kubernetes.services["flowers"]["metadata"]["generation"] == 2


def test_with_knative_ignores_the_old_state_of_a_service(knative, tmp_path, capsys):
    assert deploy(tmp_path / "first")["url"] == "http://flowers.example.org/1"
    assert deploy(tmp_path / "second", b"better")["url"] == "http://flowers.example.org/2"
    assert capsys.readouterr().out.splitlines()[:3] == [
        "InferenceService flowers in models: created",
        "not ready yet: KServe has not reported anything yet",
        "not ready yet: Ready is Unknown (PredictorNotReady)",
    ]


def test_succeeds_if_kserve_does_not_react_to_a_change(knative, tmp_path, monkeypatch):
    kubernetes = knative
    deploy(tmp_path / "first")
    kubernetes.controller = lambda service: []
    monkeypatch.setattr(cluster, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "WATCH_SECONDS", 1)
    assert deploy(tmp_path / "first", canary_percent=50)["url"] == "http://flowers.example.org/1"
    assert predictor(kubernetes)["canaryTrafficPercent"] == 50


def test_canary_percent_sets_and_removes_the_traffic_share(knative, tmp_path):
    kubernetes = knative
    deploy(tmp_path / "first")
    deploy(tmp_path / "second", b"better", canary_percent=10)
    assert predictor(kubernetes)["canaryTrafficPercent"] == 10
    deploy(tmp_path / "second", canary_percent=100)
    assert "canaryTrafficPercent" not in predictor(kubernetes)
    deploy(tmp_path / "third", b"best", canary_percent=0)
    assert predictor(kubernetes)["canaryTrafficPercent"] == 0


def test_decide_training_recognizes_what_the_service_was_trained_from(knative, models, tmp_path):
    kubernetes = knative

    def decide(recipe: str, **options: object) -> TrainingDecision:
        service_settings = settings(service_repository=models, **options)
        return decide_training("sample", "", recipe, True, "kserve", "flowers", service_settings)

    _, origin, unchanged = decide("fields")
    assert not unchanged
    version(tmp_path / "model" / "serving" / "1", trained_from=origin)
    deploy(tmp_path / "model", service_repository=models, canary_percent=10)
    assert decide("fields", canary_percent=10).unchanged
    assert not decide("fields").unchanged  # all requests should go to it now
    assert not decide("other fields", canary_percent=10).unchanged
    version(tmp_path / "older" / "serving" / "1", weights=b"other")
    deploy(tmp_path / "older", service_repository=models, canary_percent=10)
    kubernetes.services["flowers"]["metadata"]["annotations"] = {}
    assert not decide("fields", canary_percent=10).unchanged  # created by somebody else


def test_switches_between_our_server_and_the_stock_runtime(kubernetes, tmp_path):
    our_server = {"service_runtime": "kfp-vision", "service_gpus": 2}
    deploy(tmp_path / "model", **our_server)
    (container,) = predictor(kubernetes)["containers"]
    assert (container["name"], container["image"]) == ("kserve-container", f"{REGISTRY}/kfp-vision-gpu:{__version__}")
    assert container["env"] == [{"name": "STORAGE_URI", "value": f"s3{ARTIFACT.removeprefix('minio')}-model/serving/"}]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    deploy(tmp_path / "model", **our_server, service_image="registry.example.org/team/kfp-vision:7")
    assert predictor(kubernetes)["containers"][0]["image"] == "registry.example.org/team/kfp-vision:7"
    deploy(tmp_path / "model", service_gpus=1, service_runtime="tensorflow")
    assert "containers" not in predictor(kubernetes)
    assert predictor(kubernetes)["model"]["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    deploy(tmp_path / "model", service_runtime="tensorflow")
    assert predictor(kubernetes)["model"]["resources"] == {"limits": {}}
    deploy(tmp_path / "model")
    assert "model" not in predictor(kubernetes)
    assert predictor(kubernetes)["containers"][0]["image"] == f"{REGISTRY}/kfp-vision-serve:{__version__}"


def test_does_not_overwrite_concurrent_changes(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    kubernetes.rivals = 3
    deploy(tmp_path / "second", b"better")
    assert kubernetes.asked["patch"] == 4
    assert kubernetes.services["flowers"]["metadata"]["labels"] == {"rivals": "0", "kfp-vision/role": "server"}
    assert model_uri(kubernetes).endswith("model-second/serving/")


def test_gives_up_with_one_line_after_ten_conflicts(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    kubernetes.rivals = 1000
    assert refusal(tmp_path / "second", b"better") == (
        "error: an InferenceService must not be changed by others during an update; got 10 conflicts at flowers in models. "
        "See who else changes it, and try again."
    )
    assert model_uri(kubernetes).endswith("model-first/serving/")


@pytest.mark.parametrize("verb", ["get", "create", "patch", "watch"])
def test_without_permission_the_error_names_the_roles_to_apply(knative, tmp_path, verb):
    kubernetes = knative
    if verb == "patch":
        deploy(tmp_path / "first")
    kubernetes.denied = {verb}
    assert refusal(tmp_path / "second", b"better") == (
        "error: deploy_to=kserve must be allowed to the service account that runs the stages; got HTTP 403 in models "
        '(inferenceservices.serving.kserve.io is forbidden: User "system:serviceaccount:models:pipeline-runner" cannot '
        f'{verb} resource "inferenceservices"). Apply the roles in manifests/: kubectl apply -k manifests.'
    )
    with contextlib.nullcontext() if verb == "watch" else pytest.raises(InputError, match="Apply the roles in manifests/"):
        kserve.check_kserve("flowers", settings())


# What the role allows for the message at the end of a run, and for a training on several machines.
FOR_OTHERS = {
    ("pipelines.kubeflow.org", "runs"),
    ("trainer.kubeflow.org", "trainjobs"),
    ("trainer.kubeflow.org", "trainingruntimes"),
    ("kubeflow.org", "tfjobs"),
    ("jobset.x-k8s.io", "jobsets"),
    ("batch", "jobs"),
    ("", "pods/log"),
    ("", "events"),
}


def test_the_role_in_manifests_allows_exactly_the_requests_that_are_sent(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    deploy(tmp_path / "second", b"better")
    kubernetes.mode = "Knative"
    kubernetes.services.clear()
    deploy(tmp_path / "third", b"best")
    rules = yaml.safe_load((ROOT / "manifests" / "base" / "role.yaml").read_text())["rules"]
    allowed = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if (group, resource) not in FOR_OTHERS
    } - {("", "pods", "get")}  # its own, of a stage that starts workers
    groups = {"deployments": "apps", "pods": ""}
    sent = {("serving.kserve.io", "inferenceservices", verb) for verb in kubernetes.asked}
    assert allowed == sent | {(groups[resource], resource, verb) for resource, verb in kubernetes.beside}


def pod_counts(deployment: dict) -> tuple[int, int, int]:
    """Returns the numbers of updated, existing and available pods."""
    return tuple(deployment["status"].get(kind, 0) for kind in ("updatedReplicas", "replicas", "availableReplicas"))


def test_waits_until_the_last_step_of_a_rollout(kubernetes, tmp_path):
    first = deploy(tmp_path / "first")
    kubernetes.looks.clear()
    second = deploy(tmp_path / "second", b"better")
    assert {condition["status"] for service, _, _ in kubernetes.looks for condition in ready_conditions(service)} == {"True"}
    seen = [deployment for _, deployment, _ in kubernetes.looks]
    fingerprints = [one["spec"]["template"]["metadata"]["annotations"]["kfp-vision/fingerprint"] for one in seen]
    assert fingerprints == [first["fingerprint"], *[second["fingerprint"]] * 4]
    observed = [one["status"]["observedGeneration"] == one["metadata"]["generation"] for one in seen]
    assert observed == [True, False, True, True, True]
    assert [pod_counts(one) for one in seen] == [(1, 1, 1), (1, 1, 1), (1, 2, 1), (1, 2, 2), (1, 1, 1)]


def ready_conditions(service: dict) -> list[dict]:
    return [condition for condition in service["status"]["conditions"] if condition["type"] == "Ready"]


def waiting(container: str, reason: str, message: str = "") -> dict:
    return {"name": container, "ready": False, "state": {"waiting": {"reason": reason, "message": message}}}


def without_image(deployment: dict, pod: dict) -> None:
    image = pod["spec"]["containers"][0]["image"]
    message = f'Back-off pulling image "{image}": ErrImagePull: not found'
    pod["status"]["containerStatuses"] = [waiting("kserve-container", "ImagePullBackOff", message)]


def without_room(deployment: dict, pod: dict) -> None:
    message = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available"
    pod["status"]["conditions"] = [kubernetes_api.condition("PodScheduled", "False", reason="Unschedulable", message=message)]


def without_pod(deployment: dict, pod: dict) -> None:
    """Kubernetes creates no pod."""
    pod["status"] = {}
    deployment["status"] |= {"updatedReplicas": 0, "replicas": deployment["status"]["replicas"] - 1}


def forbid_pod(deployment: dict, pod: dict, message: str) -> None:
    """Kubernetes rejects the pod with a message."""
    without_pod(deployment, pod)
    failure = kubernetes_api.condition("ReplicaFailure", "True", reason="FailedCreate", message=message)
    deployment["status"]["conditions"].append(failure)


def without_account(deployment: dict, pod: dict) -> None:
    message = (
        'pods "flowers-predictor-6f9" is forbidden: error looking up service account models/nobody: serviceaccount "nobody" '
        "not found"
    )
    forbid_pod(deployment, pod, message)


def against_pod_security(deployment: dict, pod: dict) -> None:
    message = (
        'pods "flowers-predictor-6f9-x" is forbidden: violates PodSecurity "restricted:v1.30": allowPrivilegeEscalation != '
        'false (container "storage-initializer" must set securityContext.allowPrivilegeEscalation=false)'
    )
    forbid_pod(deployment, pod, message)


def without_key(deployment: dict, pod: dict) -> None:
    message = "Traceback (most recent call last):\n  File x\nRuntimeError: S3 authentication failed. Set AWS_ACCESS_KEY_ID\n"
    ended = {"terminated": {"reason": "Error", "exitCode": 1, "message": message}}
    again = waiting("storage-initializer", "CrashLoopBackOff", "back-off 10s restarting failed container")
    pod["status"]["initContainerStatuses"] = [again | {"lastState": ended}]
    pod["status"]["containerStatuses"] = [waiting("kserve-container", "PodInitializing")]


def without_memory(deployment: dict, pod: dict) -> None:
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    pod["status"]["initContainerStatuses"] = [
        {"name": "storage-initializer", "ready": True, "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}
    ]
    again = waiting("kserve-container", "CrashLoopBackOff", "back-off 20s restarting failed container")
    pod["status"]["containerStatuses"] = [again | {"lastState": ended}]


def with_a_broken_model(deployment: dict, pod: dict) -> None:
    message = "open http\nerror: a model must load and answer; got /mnt/models/1 (no graph). Train or export it again.\n"
    ended = {"terminated": {"reason": "Error", "exitCode": 1, "message": message}}
    pod["status"]["containerStatuses"] = [{"name": "kserve-container", "ready": False, "state": ended}]


FAILURES = [
    (
        without_image,
        f"the container image {REGISTRY}/kfp-vision-serve:{__version__} cannot be pulled (ImagePullBackOff: Back-off pulling "
        f'image "{REGISTRY}/kfp-vision-serve:{__version__}": ErrImagePull: not found)',
    ),
    (
        without_room,
        "no node takes its pod (Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are "
        "available)",
    ),
    (
        without_account,
        'FailedCreate: pods "flowers-predictor-6f9" is forbidden: error looking up service account models/nobody: '
        'serviceaccount "nobody" not found',
    ),
    (
        against_pod_security,
        'FailedCreate: pods "flowers-predictor-6f9-x" is forbidden: violates PodSecurity "restricted:v1.30": '
        'allowPrivilegeEscalation != false (container "storage-initializer" must set '
        "securityContext.allowPrivilegeEscalation=false)",
    ),
    (without_key, "storage-initializer ended: RuntimeError: S3 authentication failed. Set AWS_ACCESS_KEY_ID"),
    (
        without_memory,
        "kserve-container exceeded its memory limit of 2Gi and was killed (OOMKilled; set service_resources of advanced)",
    ),
    (
        with_a_broken_model,
        "kserve-container ended: error: a model must load and answer; got /mnt/models/1 (no graph). Train or export it again.",
    ),
]
WAIT_ONE_SECOND = {"service_wait_seconds": 1}
RULE = "error: an InferenceService must be ready within service_wait_seconds=1; got flowers in models: "
REMEDY = "See kubectl -n models describe pod -l serving.kserve.io/inferenceservice=flowers."


@pytest.mark.parametrize(("failure", "reason"), FAILURES, ids=[failure.__name__ for failure, _ in FAILURES])
def test_a_model_that_does_not_start_is_explained_by_its_pods_and_rolled_back(kubernetes, tmp_path, failure, reason):
    deploy(tmp_path / "first")
    before = copy.deepcopy(kubernetes.services["flowers"])
    kubernetes.trouble = failure
    line = refusal(tmp_path / "second", b"better", **WAIT_ONE_SECOND)
    assert line == f"{RULE}{reason}; rolled back to the previous model, which answers. {REMEDY}"
    after = kubernetes.services["flowers"]
    assert (after["spec"], after["metadata"]["annotations"]) == (before["spec"], before["metadata"]["annotations"])
    assert kubernetes.deployments["flowers"]["spec"]["template"]["metadata"]["annotations"].items() <= (
        before["metadata"]["annotations"].items()
    )
    assert [kubernetes_api.is_ready(pod) for pod in kubernetes.pods["flowers"]] == [True]
    assert deploy(tmp_path / "first")["url"]  # as before


@pytest.mark.slow
@pytest.mark.parametrize(("failure", "reason"), FAILURES, ids=[failure.__name__ for failure, _ in FAILURES])
def test_a_failed_model_without_rollback_does_not_count_as_deployed(kubernetes, tmp_path, capsys, failure, reason):
    origin = "f" * 64
    deploy(tmp_path / "first")
    kubernetes.trouble = failure
    write_openvino_file(version(tmp_path / "second" / "serving" / "1", weights=b"better", trained_from=origin))
    for done in ("updated", "unchanged"):
        line = refusal(tmp_path / "second", **WAIT_ONE_SECOND, service_rollback=False)
        assert line == f"{RULE}{reason}; the previous model still answers. {REMEDY}"
        assert f"InferenceService flowers in models: {done}" in capsys.readouterr().out
        if failure not in (without_account, against_pod_security):
            assert ready_conditions(kubernetes.services["flowers"])[0]["status"] == "True"  # KServe reports it the whole time
        assert not kserve.is_deployed_from("flowers", origin, settings(**WAIT_ONE_SECOND))
    kubernetes.trouble = None
    kubernetes._steps["flowers"] = kubernetes_api.deque(kubernetes._rollout("flowers"))
    deploy(tmp_path / "second", **WAIT_ONE_SECOND)
    assert kserve.is_deployed_from("flowers", origin, settings(**WAIT_ONE_SECOND))


@pytest.mark.parametrize(("failure", "reason"), FAILURES, ids=[failure.__name__ for failure, _ in FAILURES])
def test_a_first_model_that_does_not_start_is_kept_for_inspection(kubernetes, tmp_path, failure, reason):
    kubernetes.trouble = failure
    line = refusal(tmp_path / "first", **WAIT_ONE_SECOND)
    assert line == f"{RULE}{reason}; no model answers, and the new InferenceService is kept for inspection. {REMEDY}"
    assert kubernetes.asked["patch"] == 0 and "flowers" in kubernetes.services


def test_an_invalid_service_fails_at_once(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    invalid = {"reason": "NoSupportingRuntime", "message": "No runtime found to support specified framework/version"}
    parts = [
        kubernetes_api.condition("PredictorReady", "False", **invalid),
        kubernetes_api.condition("Ready", "False", **invalid),
    ]
    parts += [{**kubernetes_api.condition("Stopped", "False"), "severity": "Info"}]
    kubernetes.more = {"conditions": parts, "modelStatus": {"transitionStatus": "InvalidSpec", "lastFailureInfo": invalid}}
    line = refusal(tmp_path / "second", b"better", service_rollback=False)  # does not wait ten minutes
    reason = "PredictorReady is False (NoSupportingRuntime: No runtime found to support specified framework/version)"
    assert line.partition("got flowers in models: ")[2] == f"{reason}; the previous model still answers. {REMEDY}"


def test_a_service_scaled_to_zero_is_not_ready(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    kubernetes.deployments["flowers"]["spec"]["replicas"] = 0
    kubernetes.deployments["flowers"]["status"] |= dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 0)
    assert f"{RULE}it is scaled to zero, so that no server answers; " in refusal(tmp_path / "first", **WAIT_ONE_SECOND)


def test_with_knative_a_model_that_does_not_start_is_rolled_back(knative, tmp_path):
    deploy(tmp_path / "first")
    before = copy.deepcopy(predictor(knative))
    succeed, attempts = knative.controller, []

    def fail(service: dict) -> list[dict]:
        attempts.append(service)
        failed = kubernetes_api.condition("Ready", "False", reason="RevisionFailed", message="no such image")
        return succeed(service) if len(attempts) > 1 else [{"observedGeneration": 7, "conditions": [failed]}]

    knative.controller = fail
    reason = "Ready is False (RevisionFailed: no such image); rolled back to the previous model, which answers."
    assert refusal(tmp_path / "second", b"better", **WAIT_ONE_SECOND).startswith(f"{RULE}{reason}")
    assert predictor(knative) == before


def test_does_not_roll_back_a_service_changed_concurrently(kubernetes, tmp_path):
    deploy(tmp_path / "first")

    def change_concurrently(deployment: dict, pod: dict) -> None:
        without_image(deployment, pod)
        kubernetes.services["flowers"]["metadata"]["annotations"]["kfp-vision/fingerprint"] = "another run's"

    kubernetes.trouble = change_concurrently
    assert "; the previous model still answers. " in refusal(tmp_path / "second", b"better", **WAIT_ONE_SECOND)
    assert model_uri(kubernetes).endswith("model-second/serving/")


@pytest.mark.slow
def test_with_knative_the_error_quotes_why_a_service_is_not_ready(knative, tmp_path):
    kubernetes = knative

    def fail(service: dict) -> list[dict]:
        details = {"reason": "RevisionFailed", "message": "Back-off pulling\nimage tensorflow/serving"}
        conditions = [kubernetes_api.condition("PredictorReady", "False", **details)]
        conditions += [kubernetes_api.condition("Ready", "False", reason="PredictorNotReady")]
        failure = {"lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no such bucket"}}
        return [{"observedGeneration": 1, "conditions": conditions, "modelStatus": failure}]

    kubernetes.controller = fail
    assert refusal(tmp_path / "model", service_wait_seconds=2) == (
        "error: an InferenceService must be ready within service_wait_seconds=2; got flowers in models: PredictorReady is "
        "False (RevisionFailed: Back-off pulling image tensorflow/serving); Ready is False (PredictorNotReady); "
        "ModelLoadFailed: no such bucket; no model answers, and the new InferenceService is kept for inspection. "
        "See kubectl -n models describe pod -l serving.kserve.io/inferenceservice=flowers."
    )
    assert "flowers" in kubernetes.services  # kept for inspection


def test_reports_a_service_deleted_while_waiting_in_one_line(knative, tmp_path):
    kubernetes = knative
    kubernetes.controller, kubernetes.loses = lambda service: [], {"flowers"}
    assert refusal(tmp_path / "model") == (
        "error: an InferenceService must exist until it is ready; got flowers in models, which was deleted. "
        "See who deleted it, and deploy again."
    )


def test_restarts_a_watch_that_expires_or_breaks_off(knative, tmp_path):
    kubernetes = knative
    kubernetes.broken = [410, 0, 500, 0]
    assert deploy(tmp_path / "model")["url"] == "http://flowers.example.org/1"
    assert kubernetes.asked["watch"] == 5 and kubernetes.broken == []


def test_rejects_a_service_that_it_did_not_create(kubernetes, tmp_path):
    foreign = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "flowers"}}
    foreign["spec"] = {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "gs://somewhere/else"}}}
    kubernetes.create(foreign, False)
    assert refusal(tmp_path / "model").startswith(
        "error: an InferenceService with the model's name must be one that kfp-vision created; got flowers in models. Choose"
    )
    assert predictor(kubernetes)["model"]["modelFormat"] == {"name": "sklearn"}


def test_the_error_quotes_why_the_cluster_rejects_the_service(kubernetes, tmp_path):
    def deny(service: dict) -> None:
        raise kubernetes_api.Refusal(403, "Forbidden", 'admission webhook "validator" denied the request: no such runtime')

    kubernetes.defaults = deny
    assert refusal(tmp_path / "model") == (
        'error: the cluster must accept the InferenceService; got HTTP 403 in models (admission webhook "validator" denied the '
        "request: no such runtime). Change the setting it names, or ask the cluster's administrator."
    )
    kubernetes.missing = True
    assert "the cluster must have KServe, and the namespace; got HTTP 404 in models (the server could not find" in (
        refusal(tmp_path / "model")
    )


def test_fails_at_once_without_a_cluster(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    line = "error: deploy_to=kserve must run in a cluster, or find the configuration of one; got "
    assert refusal(tmp_path / "model").startswith(line)
    with kubernetes_api.running(kubernetes_api.Cluster(), tmp_path / "config"):
        known = yaml.safe_load((tmp_path / "config").read_text())
    known["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "config").write_text(yaml.safe_dump(known))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert refusal(tmp_path / "model").startswith("error: the cluster must answer; got NewConnectionError. ")


def test_check_target_makes_a_dry_run_and_changes_nothing(kubernetes, models, tmp_path):
    def check() -> None:
        services, files = copy.deepcopy(kubernetes.services), [found.name for found in reading.list_files(models)]
        for runtime in ("tensorflow", "kfp-vision"):
            check_target("kserve", "flowers", settings(service_repository=models, service_runtime=runtime))
        assert kubernetes.services == services
        assert [found.name for found in reading.list_files(models)] == files

    check()
    assert kubernetes.tried == 2 and kubernetes.asked["create"] == 0
    deploy(tmp_path / "model", service_repository=models)
    check()
    assert kubernetes.tried == 4 and kubernetes.asked["create"] == 1 and kubernetes.asked["patch"] == 0


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        (
            "My_flowers",
            {},
            "model_name must be lower-case letters, digits and -, and begin with a letter, for",
        ),
        ("3flowers", {}, "model_name must be lower-case letters, digits and -, and begin with a letter, for"),
        ("flowers", {"service_account": ""}, "deploy_to=kserve must have a location that KServe can read the model from; got"),
        ("flowers", {"service_repository": "/models"}, "service_repository of advanced must be a folder in a bucket, which"),
        (
            "flowers",
            {"service_repository": "cos://models-1/m", "service_account": ""},
            "KServe must have a service account to read cos:// URIs; got cos://models-1/m. Set service_account of",
        ),
    ],
)
def test_check_target_rejects_invalid_settings_without_a_request(kubernetes, name, options, line):
    with pytest.raises(InputError) as raised:
        check_target("kserve", name, settings(**options))
    assert str(raised.value).startswith(f"error: {line}")
    assert not kubernetes.asked and not kubernetes.tried


@pytest.mark.parametrize(
    ("uri", "account", "known"),
    [
        ("s3://artifacts/a/model?endpoint=https://minio.example.org:9000", "", "s3://artifacts/a/model/serving/"),
        ("gs://artifacts/a/model", "", "gs://artifacts/a/model/serving/"),
        ("minio://artifacts/a/model", "reader", "s3://artifacts/a/model/serving/"),
        ("minio://artifacts/a/model", "", "KServe must have a service account to read minio:// URIs; got minio"),
        ("/tmp/artifacts/a/model", "reader", "KServe must be able to read the model; got /tmp/artifacts/a/model/serving. Set "),
    ],
)
def test_translates_or_rejects_the_uri_of_the_model_artifact(kubernetes, tmp_path, uri, account, known):
    one = version(tmp_path / "1")
    if not known.startswith("KServe"):
        kserve.deploy(one, uri, settings(service_account=account))
        assert model_uri(kubernetes) == known
        return
    with pytest.raises(InputError) as raised:
        kserve.deploy(one, uri, settings(service_account=account))
    assert str(raised.value).startswith(f"error: {known}")
    assert kubernetes.services == {}


@pytest.mark.parametrize(("length", "fits"), [(46, True), (47, False), (61, False)])  # with -predictor-models, 63 at most
def test_check_target_rejects_a_name_too_long_for_a_host_name(kubernetes, length, fits):
    name = "f" * length
    with contextlib.nullcontext() if fits else pytest.raises(InputError) as raised:
        check_target("kserve", name, settings())
    assert kubernetes.asked["create"] == 0
    if not fits:
        assert str(raised.value) == (
            "error: NAME-predictor-NAMESPACE must have at most 63 characters, since it is part of the host name; got "
            f"{name}-predictor-models ({length + 17}). Choose a model_name of at most 46 characters in models."
        )


def test_with_knative_the_length_of_a_name_is_not_checked(knative):
    check_target("kserve", "f" * 47, settings())


def test_rejects_canary_percent_in_standard_mode(kubernetes):
    with pytest.raises(InputError) as raised:
        check_target("kserve", "flowers", settings(canary_percent=10))
    assert str(raised.value) == (
        "error: canary_percent of advanced must be 100 in KServe's Standard mode, which cannot split traffic; got 10. "
        "Leave it out, or run KServe in Knative mode."
    )
    assert kubernetes.asked["create"] == 0


@pytest.mark.parametrize("right", ["get deployments", "list pods"])
def test_check_target_reports_missing_permissions_for_the_rollout(kubernetes, right):
    kubernetes.denied = {right}
    with pytest.raises(
        InputError, match=rf"cannot {right[:4].strip()} .*Apply the roles in manifests/: kubectl apply -k manifests"
    ):
        check_target("kserve", "flowers", settings())
    assert kubernetes.asked["create"] == 0


def test_in_another_namespace_the_error_suggests_a_role_binding(kubernetes):
    with pytest.raises(InputError) as raised:
        check_target("kserve", "flowers", settings(service_namespace="elsewhere"))
    assert str(raised.value).endswith(
        ". Give it the role there: kubectl apply -n elsewhere -k manifests/base; kubectl -n elsewhere create rolebinding "
        "kfp-vision-deployers --role=kfp-vision-stages --serviceaccount=models:pipeline-runner."
    )


@pytest.mark.parametrize("runtime", ["tensorflow", "kfp-vision"])
def test_keeps_manual_changes_when_the_model_changes(kubernetes, tmp_path, runtime):
    deploy(tmp_path / "first", service_runtime=runtime)
    spec = predictor(kubernetes)
    spec |= {"minReplicas": 2, "nodeSelector": {"pool": "gpu"}}
    server_spec = spec["model"] if runtime == "tensorflow" else spec["containers"][0]
    server_spec.setdefault("env", []).append({"name": "OMP_NUM_THREADS", "value": "4"})
    server_spec["resources"] = {"requests": {"cpu": "3"}, "limits": {"cpu": "3", "memory": "6Gi"}}
    if runtime == "kfp-vision":
        server_spec["readinessProbe"]["initialDelaySeconds"] = 30
        spec["containers"].append({"name": "proxy", "image": "proxy:1"})
    edited = copy.deepcopy(spec)
    deploy(tmp_path / "first", service_runtime=runtime)
    assert kubernetes.asked["patch"] == 0  # the same model changes nothing
    deploy(tmp_path / "second", b"better", service_runtime=runtime)
    wanted = copy.deepcopy(edited)
    uri = f"s3{ARTIFACT.removeprefix('minio')}-second/serving/"
    if runtime == "tensorflow":
        wanted["model"]["storageUri"] = uri
    else:
        wanted["containers"][0]["env"][0]["value"] = uri
    assert predictor(kubernetes) == wanted
    deploy(tmp_path / "second", service_runtime=runtime, service_gpus=1)
    changed = predictor(kubernetes)["model"] if runtime == "tensorflow" else predictor(kubernetes)["containers"][0]
    assert changed["resources"]["limits"] == {"cpu": "3", "memory": "6Gi", "nvidia.com/gpu": "1"}
    deploy(tmp_path / "second", service_runtime=runtime)
    assert predictor(kubernetes) == wanted


@pytest.mark.parametrize("runtime", ["tensorflow", "kfp-vision"])
def test_sets_the_given_service_options_and_keeps_the_others(kubernetes, tmp_path, runtime):
    options = {"service_resources": {"cpu": 2, "memory": "4Gi"}, "service_replicas": "1-3", "service_timeout": 30}
    options |= {"runtime_version": "2.14.1"} if runtime == "tensorflow" else {}
    deploy(tmp_path / "first", service_runtime=runtime, **options)
    spec = predictor(kubernetes)
    server_spec = spec["model"] if runtime == "tensorflow" else spec["containers"][0]
    cpu_and_memory = {"cpu": "2", "memory": "4Gi"}
    assert server_spec["resources"] == {"requests": cpu_and_memory, "limits": cpu_and_memory}
    assert (spec["minReplicas"], spec["maxReplicas"], spec["timeout"]) == (1, 3, 30)
    assert server_spec.get("runtimeVersion") == options.get("runtime_version")
    kept = copy.deepcopy((server_spec["resources"], server_spec.get("runtimeVersion"), spec["maxReplicas"], spec["timeout"]))
    deploy(tmp_path / "second", b"better", service_runtime=runtime)
    spec = predictor(kubernetes)
    server_spec = spec["model"] if runtime == "tensorflow" else spec["containers"][0]
    assert (server_spec["resources"], server_spec.get("runtimeVersion"), spec["maxReplicas"], spec["timeout"]) == kept
    parts = {"requests": {"cpu": "500m"}, "limits": {"cpu": "4"}}
    deploy(tmp_path / "second", service_runtime=runtime, service_resources=parts, service_replicas="2")
    spec = predictor(kubernetes)
    server_spec = spec["model"] if runtime == "tensorflow" else spec["containers"][0]
    assert server_spec["resources"] == {name: {**cpu_and_memory, **part} for name, part in parts.items()}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 2)


def variables(kubernetes) -> dict[str, object]:
    """Returns the environment of our server's container: values, and secrets as `secret/key`."""
    found = {}
    for one in predictor(kubernetes)["containers"][0]["env"]:
        key = one.get("valueFrom", {}).get("secretKeyRef")
        assert not key or key["optional"]
        found[one["name"]] = f"{key['name']}/{key['key']}" if key else one["value"]
    return found


def test_pods_collect_if_asked_to_until_asked_not_to(kubernetes, tmp_path):
    deploy(tmp_path / "model", collected_uri="s3://bucket/collected")
    assert list(variables(kubernetes)) == ["STORAGE_URI"]  # of a training that looks for drift alone
    asked = {"service_collect": "0.25", "collected_uri": "s3://bucket/collected"}
    deploy(tmp_path / "model", **asked)
    given = variables(kubernetes)
    assert (given["KFP_VISION_COLLECT"], given["KFP_VISION_COLLECT_SHARE"]) == ("s3://bucket/collected", "0.25")
    assert given["AWS_SECRET_ACCESS_KEY"] == "kfp-vision-collect/AWS_SECRET_ACCESS_KEY"
    environment = {name: value for name, value in given.items() if name.startswith("KFP_VISION_COLLECT")}
    found = collect_settings.read_settings(environment=environment | {"KFP_VISION_COLLECT": str(tmp_path)})
    assert (found.uri, found.share, found.images) == (str(tmp_path), 0.25, False)
    deploy(tmp_path / "better", b"better")
    assert variables(kubernetes) | {"STORAGE_URI": ""} == given | {"STORAGE_URI": ""}  # left as it is
    deploy(tmp_path / "better", b"better", service_collect="0")
    off = variables(kubernetes)["KFP_VISION_COLLECT"]
    assert collect_settings.read_settings(environment={"KFP_VISION_COLLECT": off}) is None


def test_an_inference_service_that_collects_is_valid_against_kserves_schema():
    asked = settings(service_collect="0.25", collected_uri="s3://bucket/collected", service_image="registry/server:1")
    wanted = kserve.manifest("flowers", "s3://bucket/model/", "f", asked)
    wanted["spec"]["predictor"] = {name: value for name, value in wanted["spec"]["predictor"].items() if value is not None}
    del wanted["spec"]["predictor"]["containers"][0]["resources"]  # a limit of None removes an earlier one
    assert published_schemas.faults(wanted) == []
    wanted["spec"]["predictor"]["containers"][0]["env"][-1]["valueFrom"]["secretKeyRef"]["keys"] = "x"
    assert published_schemas.faults(wanted) != []


def test_settings_unrelated_to_serving_restart_nothing(kubernetes, tmp_path):
    served = version(tmp_path / "model" / "serving" / "1", trained_from="f" * 64)
    deploy(tmp_path / "model")
    services = copy.deepcopy(kubernetes.services)
    unrelated = {
        "collected_uri": "s3://bucket/collected",
        "service_wait_seconds": 30.0,
        "versions_kept": 3,
        "service_rollback": False,
        "service_namespace": "models",
    }
    deploy(tmp_path / "model", **unrelated)
    assert kubernetes.services == services and kubernetes.asked["patch"] == 0
    assert kserve.is_deployed_from("flowers", "f" * 64, settings(**unrelated))
    assert not kserve.is_deployed_from("flowers", "f" * 64, settings(service_replicas="2"))
    assert kserve.serves("flowers", served.fingerprint, settings())
    assert not kserve.serves("flowers", "f" * 64, settings()) and not kserve.serves("roses", served.fingerprint, settings())


@pytest.mark.parametrize(
    ("stage", "gpus", "image"),
    [
        ("registry.example.org/team/kfp-vision:0.1.0", 0, "registry.example.org/team/kfp-vision-serve:0.1.0"),
        ("registry.example.org:5000/kfp-vision:0.1.0", 1, "registry.example.org:5000/kfp-vision-gpu:0.1.0"),
        ("registry.example.org/team/own:7", 0, f"{REGISTRY}/kfp-vision-serve:{__version__}"),
        ("kfp-vision@sha256:0123", 1, f"{REGISTRY}/kfp-vision-gpu:{__version__}"),
    ],
)
def test_our_server_uses_the_registry_of_the_stages_image(kubernetes, tmp_path, monkeypatch, stage, gpus, image):
    kubernetes.stages["this-pod"] = stage
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KFP_POD_NAME", "this-pod")
    deploy(tmp_path / "model", service_gpus=gpus)
    assert predictor(kubernetes)["containers"][0]["image"] == image


@pytest.mark.parametrize(
    ("has_file", "about", "image"),
    [
        (True, {}, "kfp-vision-serve"),
        (True, {"advanced": {"engine": "openvino"}}, "kfp-vision-serve"),
        (True, {"advanced": {"engine": "tensorflow"}}, "kfp-vision"),
        (False, {}, "kfp-vision"),
    ],
)
def test_a_model_that_only_tensorflow_computes_gets_the_image_that_has_it(kubernetes, tmp_path, has_file, about, image):
    one = version(tmp_path / "model" / "serving" / "1", **about)
    if has_file:
        write_openvino_file(one)
    deploy(tmp_path / "model")
    assert predictor(kubernetes)["containers"][0]["image"] == f"{REGISTRY}/{image}:{__version__}"


def test_the_repository_keeps_the_newest_models_and_those_in_use(kubernetes, models, s3, tmp_path):
    folders = []
    for number, weights in enumerate((b"first", b"second", b"third", b"fourth", b"fifth")):
        made = deploy(tmp_path / str(number), weights, service_repository=models, versions_kept=2)
        folders.append(made["fingerprint"][:16])
        stored = s3.folder / models.removeprefix("s3://") / "flowers" / folders[-1]
        for file in stored.rglob("*"):
            os.utime(file, (1e9 + number, 1e9 + number))
        if number == 0:
            writing.write_file(b"somebody's", f"{models}/flowers/notes/read.me")
    remaining = {found.name.partition("/")[0] for found in reading.list_files(f"{models}/flowers")}
    # The fifth is served, the fourth was still read by a terminating pod, and the two newest of the others are kept.
    assert remaining == {"notes", *folders[1:]}
    deploy(tmp_path / "5", b"sixth", service_repository=models, versions_kept=0)
    assert {found.name.partition("/")[0] for found in reading.list_files(f"{models}/flowers")} > {"notes", *folders[1:]}


def test_uses_the_internal_address_within_the_cluster(monkeypatch):
    endpoint = {"name": "flowers", "url": "http://flowers.example.org", "address": "http://flowers.models.svc.cluster.local/"}
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert kserve.request_url(endpoint) == "http://flowers.example.org/v1/models/flowers"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert kserve.request_url(endpoint) == "http://flowers.models.svc.cluster.local/v1/models/flowers"


@pytest.mark.slow
def test_a_deployed_model_answers_from_the_uri_in_its_service(knative, models, tmp_path):
    kubernetes = knative
    model = tmp_path / "model"
    colour_model.write_version(model / "serving" / "1")
    fingerprint = {"model_fingerprint": exported_version(model).fingerprint}
    (tmp_path / "verdict").write_text(json.dumps(fingerprint | {"verdict": {"accepted": True, "reasons": []}}))
    (tmp_path / "proof").write_text(json.dumps(fingerprint))
    (tmp_path / "green.jpg").write_bytes(colour_model.picture("green"))
    judgements = (tmp_path / "verdict", tmp_path / "proof")
    options = settings(service_repository=models)
    with contextlib.ExitStack() as pods:

        def start_server(service: dict) -> list[dict]:
            """Acts as KServe's storage initializer and the container."""
            (container,) = service["spec"]["predictor"]["containers"]
            location = pods.enter_context(bucket_repository.local_copy(container["env"][0]["value"]))
            replacements = {"/mnt/models": str(location), str(kserve.PORT): "0"}
            url = pods.enter_context(answering([replacements.get(argument, argument) for argument in container["args"]]))
            ready = [kubernetes_api.condition("Ready", "True")]
            return [{"observedGeneration": 1, "conditions": ready, "url": url, "address": {"url": url}}]

        kubernetes.controller = start_server
        endpoint = deploy_model(model, ARTIFACT, *judgements, "kserve", options, tmp_path / "endpoint")
        assert endpoint["kind"] == "kserve" and endpoint["model_name"] == "colours"
        assert json.loads((tmp_path / "endpoint").read_text()) == endpoint
        missing_records = (tmp_path / "no validation", tmp_path / "no test")
        answer = call_endpoint(tmp_path / "endpoint", *missing_records, str(tmp_path / "green.jpg"), tmp_path / "answer")
    assert answer["prediction"] == "green"
    assert answer["url"] == f"{endpoint['url']}/v1/models/colours:predict"


@pytest.fixture(scope="module")
def two_servers(tmp_path_factory) -> Iterator[tuple[Path, str, Path, str]]:
    """Yields two models with different names for the same colours, each with the address of a real server."""
    old, new = (tmp_path_factory.mktemp(name) for name in ("old", "new"))
    colour_model.write_version(old / "serving" / "1", ("rose", "leaf", "sky"))
    colour_model.write_version(new / "serving" / "1")
    with server.run_server(old) as old_url, server.run_server(new) as new_url:
        yield old, old_url, new, new_url


def call_model(model: Path, url: str, tmp_path: Path) -> dict[str, object]:
    """Calls the model behind an address with `call_endpoint`, and returns its answer."""
    location = {"kind": "kserve", "name": "colours", "namespace": "models", "model_name": "colours", "url": url, "address": url}
    model_info = {"fingerprint": exported_version(model).fingerprint, "share": 100}
    (tmp_path / "endpoint").write_text(json.dumps(location | model_info))
    (tmp_path / "green.jpg").write_bytes(colour_model.picture("green"))
    missing_records = (tmp_path / "no validation", tmp_path / "no test")
    return call_endpoint(tmp_path / "endpoint", *missing_records, str(tmp_path / "green.jpg"), tmp_path / "answer")


@pytest.mark.parametrize("stale_answers", [0, 1, 5])
def test_call_endpoint_retries_answers_of_the_previous_model(
    two_servers, kubernetes, tmp_path, monkeypatch, capsys, stale_answers
):
    old, old_url, new, new_url = two_servers
    monkeypatch.setattr(deployment_deploy, "PAUSE_SECONDS", 0.01)
    with load_balancer.fronting(lambda: old_url if len(front.led) < stale_answers else new_url) as front:
        answer = call_model(new, front.url, tmp_path)
    assert (answer["prediction"], front.led) == ("green", [old_url] * stale_answers + [new_url])
    assert answer["url"] == f"{front.url}/v1/models/colours:predict"
    printed = capsys.readouterr().out
    before, after = (exported_version(model).fingerprint[:12] for model in (old, new))
    again = f"POST {front.url}/v1/models/colours:predict gave one of {before} instead of {after}; trying again"
    assert printed.splitlines().count(again) == (stale_answers > 0)
    assert f"POST {answer['url']}" in printed.splitlines()


def test_call_endpoint_reports_a_server_that_is_never_replaced_in_one_line(two_servers, kubernetes, tmp_path, monkeypatch):
    old, old_url, new, _ = two_servers
    monkeypatch.setattr(deployment_deploy, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(deployment_deploy, "SECONDS_TO_TAKE_OVER", 0.2)
    with load_balancer.fronting(lambda: old_url) as front, pytest.raises(InputError) as raised:
        call_model(new, front.url, tmp_path)
    before, after = (exported_version(model).fingerprint[:12] for model in (old, new))
    assert str(raised.value) == (
        f"error: the deployed model must answer within 0.2 s of being ready; got one of {before} for {after} at "
        f"{front.url}/v1/models/colours:predict. See kubectl -n models get pods, and which of them the address leads to."
    )
    assert not (tmp_path / "answer").exists()


def test_without_fingerprints_in_answers_call_endpoint_waits_for_the_old_pods_to_end(
    two_servers, kubernetes, tmp_path, monkeypatch
):
    """KServe's stock runtime is such a server; the address leads to any pod, terminating or not."""
    old, old_url, new, new_url = two_servers
    monkeypatch.setattr(deployment_deploy, "PAUSE_SECONDS", 0.01)
    kubernetes.lingers = 4
    service_settings = settings(service_runtime="tensorflow")
    url_of = {}
    for model, url in ((old, old_url), (new, new_url)):
        kserve.deploy(exported_version(model), f"{ARTIFACT}-{model.name}", service_settings)
        url_of[exported_version(model).fingerprint] = url

    def terminating_pod_first() -> str:
        pods = kubernetes.pods["colours"]
        first = next((pod for pod in pods if "deletionTimestamp" in pod["metadata"]), pods[0])
        return url_of[first["metadata"]["annotations"]["kfp-vision/fingerprint"]]

    assert terminating_pod_first() == old_url
    with load_balancer.fronting(terminating_pod_first, hidden=("kfp-vision-fingerprint",)) as front:
        answer = call_model(new, front.url, tmp_path)
    assert answer["prediction"] == "green"
    assert front.led[0] == old_url and front.led[-1] == new_url


def test_a_rollout_between_two_real_servers_ends_with_an_answer_of_the_new_one(
    two_servers, kubernetes, models, tmp_path, monkeypatch
):
    """End to end: during the rollout the address leads to a ready pod, the previous model's first."""
    old, old_url, new, new_url = two_servers
    monkeypatch.setattr(deployment_deploy, "PAUSE_SECONDS", 0.01)
    url_of = {exported_version(model).fingerprint: url for model, url in ((old, old_url), (new, new_url))}
    stale_answers = iter([old_url, old_url])  # connections that still reach a terminating pod

    def ready_pod() -> str:
        pods = [pod for pod in kubernetes.pods["colours"] if kubernetes_api.is_ready(pod)]
        return next(stale_answers, None) or url_of[pods[0]["metadata"]["annotations"]["kfp-vision/fingerprint"]]

    with load_balancer.fronting(ready_pod) as front:
        for model in (old, new):
            endpoint = kserve.deploy(exported_version(model), ARTIFACT, settings(service_repository=models))
        assert endpoint["fingerprint"] == exported_version(new).fingerprint
        assert call_model(new, front.url, tmp_path)["prediction"] == "green"
    assert front.led == [old_url, old_url, new_url]
