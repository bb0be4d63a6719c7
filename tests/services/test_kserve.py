"""Deployment to KServe, against an API server that speaks Kubernetes' HTTP: what it holds in the end, or what is said."""

import contextlib
import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import colour_model, kubernetes_api, load_balancer
from support.exported_model import version
from support.model_servers import NUMBERS, answering, free_port

from kfp_vision import __version__
from kfp_vision.core.advanced import deployment_settings
from kfp_vision.core.errors import InputError
from kfp_vision.deployment import cluster, kserve
from kfp_vision.deployment import deploy as deployment_deploy
from kfp_vision.deployment.call import call_endpoint
from kfp_vision.deployment.decision import TrainingDecision, decide_training
from kfp_vision.deployment.deploy import check_target, deploy_model
from kfp_vision.repository import bucket
from kfp_vision.repository.version import Version, exported_version
from kfp_vision.serving import server
from kfp_vision.storage import reading, writing

ROOT = Path(__file__).resolve().parents[2]
ARTIFACT = "minio://mlpipeline/v2/artifacts/image-classification/17/train-classifier/model"


@pytest.fixture(autouse=True)
def quickly(tmp_path, monkeypatch) -> None:
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
    """KServe in its other mode."""
    kubernetes.mode = "Knative"
    return kubernetes


@pytest.fixture
def models(s3) -> str:
    """A folder of a bucket for the models."""
    return f"s3://{s3.bucket(f'bucket-{next(NUMBERS)}', {'first': b'1'})}/models"


def settings(**given: object) -> dict[str, object]:
    return deployment_settings({"service_account": "kfp-vision-models", **given})


def deploy(folder: Path, weights: bytes = b"weights", **given: object) -> dict[str, str]:
    """Deploys a model as the run of KFP has left it."""
    one = Version(folder / "serving" / "1")
    if not one.folder.exists():
        version(one.folder, weights=weights)
    return kserve.deploy(one, f"{ARTIFACT}-{folder.name}", settings(**given))


def refusal(*arguments: object, **given: object) -> str:
    with pytest.raises(InputError) as refused:
        deploy(*arguments, **given)
    line = str(refused.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


def predictor(kubernetes: kubernetes_api.Cluster) -> dict[str, object]:
    return kubernetes.services["flowers"]["spec"]["predictor"]


def read_from(kubernetes: kubernetes_api.Cluster) -> str:
    """Where our server reads the model."""
    ((variable,),) = [container["env"] for container in predictor(kubernetes)["containers"]]
    assert variable["name"] == "STORAGE_URI"
    return variable["value"]


def test_a_service_is_made_and_waited_for(kubernetes, tmp_path, capsys):
    told = deploy(tmp_path / "model", service_runtime="tensorflow")
    assert told == {
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


def test_deploying_twice_is_deploying_once(kubernetes, models, tmp_path, capsys):
    first = deploy(tmp_path / "model", service_repository=models)
    held, lying = copy.deepcopy(kubernetes.services), [found.name for found in reading.list_files(models)]
    assert deploy(tmp_path / "model", service_repository=models) == first
    assert kubernetes.services == held
    assert [found.name for found in reading.list_files(models)] == lying
    assert kubernetes.asked["create"] == 1 and kubernetes.asked["patch"] == 0
    assert "InferenceService flowers in models: unchanged" in capsys.readouterr().out


@pytest.mark.parametrize("runtime", ["tensorflow", "kfp-vision"])
def test_what_a_webhook_adds_is_no_difference(kubernetes, tmp_path, runtime):
    def complete(service: dict) -> None:
        predictor = service["spec"]["predictor"]
        model = predictor["model"] if runtime == "tensorflow" else predictor["containers"][0]
        if runtime == "tensorflow":
            model |= {"protocolVersion": "v1", "runtime": "kserve-tensorflow-serving", "name": ""}
        model["resources"] = {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "1", "memory": "2Gi"}}

    kubernetes.defaults = complete
    first = deploy(tmp_path / "model", service_runtime=runtime)
    assert first == deploy(tmp_path / "model", service_runtime=runtime)
    assert kubernetes.asked["patch"] == 0


def test_another_model_changes_the_service_and_its_old_state_does_not_count(kubernetes, models, tmp_path):
    first = deploy(tmp_path / "first", service_repository=models, service_runtime="tensorflow")
    before = predictor(kubernetes)["model"]["storageUri"]
    second = deploy(tmp_path / "second", b"better", service_repository=models, service_runtime="tensorflow")
    assert first["url"] == second["url"] and first["fingerprint"] != second["fingerprint"]
    after = predictor(kubernetes)["model"]["storageUri"]
    assert after != before
    for place, weights in ((before, b"weights"), (after, b"better")):  # a revision of the first may still read it
        with bucket.local_copy(place) as path:
            assert (path / "1" / "variables" / "variables.index").read_bytes() == weights
    assert kubernetes.services["flowers"]["metadata"]["generation"] == 2


def test_with_knative_the_old_state_of_a_service_does_not_count(knative, tmp_path, capsys):
    assert deploy(tmp_path / "first")["url"] == "http://flowers.example.org/1"
    assert deploy(tmp_path / "second", b"better")["url"] == "http://flowers.example.org/2"
    assert capsys.readouterr().out.splitlines()[:3] == [
        "InferenceService flowers in models: created",
        "not ready yet: KServe has not reported anything yet",
        "not ready yet: Ready is Unknown (PredictorNotReady)",
    ]


def test_a_change_that_kserve_has_nothing_to_do_for_ends_well(knative, tmp_path, monkeypatch):
    kubernetes = knative
    deploy(tmp_path / "first")
    kubernetes.controller = lambda service: []
    monkeypatch.setattr(cluster, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "WATCH_SECONDS", 1)
    assert deploy(tmp_path / "first", canary_percent=50)["url"] == "http://flowers.example.org/1"
    assert predictor(kubernetes)["canaryTrafficPercent"] == 50


def test_a_share_of_the_traffic_goes_to_a_model_until_it_is_given_all(knative, tmp_path):
    kubernetes = knative
    deploy(tmp_path / "first")
    deploy(tmp_path / "second", b"better", canary_percent=10)
    assert predictor(kubernetes)["canaryTrafficPercent"] == 10
    deploy(tmp_path / "second", canary_percent=100)
    assert "canaryTrafficPercent" not in predictor(kubernetes)
    deploy(tmp_path / "third", b"best", canary_percent=0)
    assert predictor(kubernetes)["canaryTrafficPercent"] == 0


def test_what_a_service_was_made_of_is_known_again(knative, models, tmp_path):
    kubernetes = knative

    def decided(recipe: str, **given: object) -> TrainingDecision:
        how = settings(service_repository=models, **given)
        return decide_training("sample", "", recipe, True, "kserve", "flowers", how)

    _, origin, unchanged = decided("fields")
    assert not unchanged
    version(tmp_path / "model" / "serving" / "1", trained_from=origin)
    deploy(tmp_path / "model", service_repository=models, canary_percent=10)
    assert decided("fields", canary_percent=10).unchanged
    assert not decided("fields").unchanged  # it is to get all requests now
    assert not decided("other fields", canary_percent=10).unchanged
    version(tmp_path / "older" / "serving" / "1", weights=b"other")
    deploy(tmp_path / "older", service_repository=models, canary_percent=10)
    kubernetes.services["flowers"]["metadata"]["annotations"] = {}
    assert not decided("fields", canary_percent=10).unchanged  # somebody else's


def test_our_server_and_the_stock_one_take_each_others_place(kubernetes, tmp_path):
    ours = {"service_runtime": "kfp-vision", "service_gpus": 2}
    deploy(tmp_path / "model", **ours)
    (container,) = predictor(kubernetes)["containers"]
    assert (container["name"], container["image"]) == ("kserve-container", f"kfp-vision-gpu:{__version__}")
    assert container["env"] == [{"name": "STORAGE_URI", "value": f"s3{ARTIFACT.removeprefix('minio')}-model/serving/"}]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    deploy(tmp_path / "model", **ours, service_image="registry.example.org/team/kfp-vision:7")
    assert predictor(kubernetes)["containers"][0]["image"] == "registry.example.org/team/kfp-vision:7"
    deploy(tmp_path / "model", service_gpus=1, service_runtime="tensorflow")
    assert "containers" not in predictor(kubernetes)
    assert predictor(kubernetes)["model"]["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    deploy(tmp_path / "model", service_runtime="tensorflow")
    assert predictor(kubernetes)["model"]["resources"] == {"limits": {}}
    deploy(tmp_path / "model")
    assert "model" not in predictor(kubernetes)
    assert predictor(kubernetes)["containers"][0]["image"] == f"kfp-vision:{__version__}"


def test_who_else_changes_the_service_meanwhile_is_not_written_over(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    kubernetes.rivals = 3
    deploy(tmp_path / "second", b"better")
    assert kubernetes.asked["patch"] == 4
    assert kubernetes.services["flowers"]["metadata"]["labels"] == {"rivals": "0", "kfp-vision/role": "server"}
    assert read_from(kubernetes).endswith("model-second/serving/")


def test_a_service_that_never_holds_still_is_one_clear_line(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    kubernetes.rivals = 1000
    assert refusal(tmp_path / "second", b"better") == (
        "error: an InferenceService must not be changed by others during an update; got 10 conflicts at flowers in models. "
        "See who else changes it, and try again."
    )
    assert read_from(kubernetes).endswith("model-first/serving/")


@pytest.mark.parametrize("verb", ["get", "create", "patch", "watch"])
def test_who_may_not_is_told_what_to_apply(knative, tmp_path, verb):
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


def test_the_role_in_manifests_allows_what_is_asked_and_nothing_else(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    deploy(tmp_path / "second", b"better")
    kubernetes.mode = "Knative"
    kubernetes.services.clear()
    deploy(tmp_path / "third", b"best")
    rules = yaml.safe_load((ROOT / "manifests" / "base" / "role.yaml").read_text())["rules"]
    given = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if group != "pipelines.kubeflow.org"
    }
    groups = {"deployments": "apps", "pods": ""}
    asked = {("serving.kserve.io", "inferenceservices", verb) for verb in kubernetes.asked}
    assert given == asked | {(groups[resource], resource, verb) for resource, verb in kubernetes.beside}


def counts(deployment: dict) -> tuple[int, int, int]:
    """Of pods: made anew, there in all, available."""
    return tuple(deployment["status"].get(kind, 0) for kind in ("updatedReplicas", "replicas", "availableReplicas"))


def test_a_roll_out_is_ready_at_its_last_step_and_at_none_before(kubernetes, tmp_path):
    first = deploy(tmp_path / "first")
    kubernetes.looks.clear()
    second = deploy(tmp_path / "second", b"better")
    assert {condition["status"] for service, _, _ in kubernetes.looks for condition in ready_in(service)} == {"True"}
    seen = [deployment for _, deployment, _ in kubernetes.looks]
    fingerprints = [one["spec"]["template"]["metadata"]["annotations"]["kfp-vision/fingerprint"] for one in seen]
    assert fingerprints == [first["fingerprint"], *[second["fingerprint"]] * 4]
    observed = [one["status"]["observedGeneration"] == one["metadata"]["generation"] for one in seen]
    assert observed == [True, False, True, True, True]
    assert [counts(one) for one in seen] == [(1, 1, 1), (1, 1, 1), (1, 2, 1), (1, 2, 2), (1, 1, 1)]


def ready_in(service: dict) -> list[dict]:
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


def unmade(deployment: dict, pod: dict) -> None:
    """Kubernetes lets the pod not in."""
    pod["status"] = {}
    deployment["status"] |= {"updatedReplicas": 0, "replicas": deployment["status"]["replicas"] - 1}


def forbidden(deployment: dict, pod: dict, message: str) -> None:
    """Kubernetes lets the pod not in, and says why."""
    unmade(deployment, pod)
    failure = kubernetes_api.condition("ReplicaFailure", "True", reason="FailedCreate", message=message)
    deployment["status"]["conditions"].append(failure)


def without_account(deployment: dict, pod: dict) -> None:
    message = (
        'pods "flowers-predictor-6f9" is forbidden: error looking up service account models/nobody: serviceaccount "nobody" '
        "not found"
    )
    forbidden(deployment, pod, message)


def against_pod_security(deployment: dict, pod: dict) -> None:
    message = (
        'pods "flowers-predictor-6f9-x" is forbidden: violates PodSecurity "restricted:v1.30": allowPrivilegeEscalation != '
        'false (container "storage-initializer" must set securityContext.allowPrivilegeEscalation=false)'
    )
    forbidden(deployment, pod, message)


def without_key(deployment: dict, pod: dict) -> None:
    said = "Traceback (most recent call last):\n  File x\nRuntimeError: S3 authentication failed. Set AWS_ACCESS_KEY_ID\n"
    ended = {"terminated": {"reason": "Error", "exitCode": 1, "message": said}}
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
    said = "open http\nerror: a model must load and answer; got /mnt/models/1 (no graph). Train or export it again.\n"
    ended = {"terminated": {"reason": "Error", "exitCode": 1, "message": said}}
    pod["status"]["containerStatuses"] = [{"name": "kserve-container", "ready": False, "state": ended}]


TROUBLES = [
    (
        without_image,
        f"the container image kfp-vision:{__version__} cannot be pulled (ImagePullBackOff: Back-off pulling image "
        f'"kfp-vision:{__version__}": ErrImagePull: not found)',
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
HOW = {"service_wait_seconds": 1}
RULE = "error: an InferenceService must be ready within service_wait_seconds=1; got flowers in models: "
LOOK = "See kubectl -n models describe pod -l serving.kserve.io/inferenceservice=flowers."


@pytest.mark.parametrize(("trouble", "said"), TROUBLES, ids=[trouble.__name__ for trouble, _ in TROUBLES])
def test_what_does_not_come_up_is_told_by_its_pods_and_taken_back(kubernetes, tmp_path, trouble, said):
    deploy(tmp_path / "first")
    before = copy.deepcopy(kubernetes.services["flowers"])
    kubernetes.trouble = trouble
    line = refusal(tmp_path / "second", b"better", **HOW)
    assert line == f"{RULE}{said}; rolled back to the previous model, which answers. {LOOK}"
    after = kubernetes.services["flowers"]
    assert (after["spec"], after["metadata"]["annotations"]) == (before["spec"], before["metadata"]["annotations"])
    assert kubernetes.deployments["flowers"]["spec"]["template"]["metadata"]["annotations"].items() <= (
        before["metadata"]["annotations"].items()
    )
    assert [kubernetes_api.is_ready(pod) for pod in kubernetes.pods["flowers"]] == [True]
    assert deploy(tmp_path / "first")["url"]  # as it was


@pytest.mark.parametrize(("trouble", "said"), TROUBLES, ids=[trouble.__name__ for trouble, _ in TROUBLES])
def test_what_is_not_taken_back_is_no_more_deployed_when_it_is_asked_for_again(kubernetes, tmp_path, capsys, trouble, said):
    origin = "f" * 64
    deploy(tmp_path / "first")
    kubernetes.trouble = trouble
    version(tmp_path / "second" / "serving" / "1", weights=b"better", trained_from=origin)
    for done in ("updated", "unchanged"):
        line = refusal(tmp_path / "second", **HOW, service_rollback=False)
        assert line == f"{RULE}{said}; the previous model still answers. {LOOK}"
        assert f"InferenceService flowers in models: {done}" in capsys.readouterr().out
        if trouble not in (without_account, against_pod_security):
            assert ready_in(kubernetes.services["flowers"])[0]["status"] == "True"  # KServe says it, all along
        assert not kserve.is_deployed_from("flowers", origin, settings(**HOW))
    kubernetes.trouble = None
    kubernetes._steps["flowers"] = kubernetes_api.deque(kubernetes._rollout("flowers"))
    deploy(tmp_path / "second", **HOW)
    assert kserve.is_deployed_from("flowers", origin, settings(**HOW))


@pytest.mark.parametrize(("trouble", "said"), TROUBLES, ids=[trouble.__name__ for trouble, _ in TROUBLES])
def test_the_first_that_does_not_come_up_stays_to_be_looked_at(kubernetes, tmp_path, trouble, said):
    kubernetes.trouble = trouble
    line = refusal(tmp_path / "first", **HOW)
    assert line == f"{RULE}{said}; no model answers, and the new InferenceService is kept for inspection. {LOOK}"
    assert kubernetes.asked["patch"] == 0 and "flowers" in kubernetes.services


def test_what_kserve_can_make_nothing_of_ends_at_once(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    invalid = {"reason": "NoSupportingRuntime", "message": "No runtime found to support specified framework/version"}
    parts = [
        kubernetes_api.condition("PredictorReady", "False", **invalid),
        kubernetes_api.condition("Ready", "False", **invalid),
    ]
    parts += [{**kubernetes_api.condition("Stopped", "False"), "severity": "Info"}]
    kubernetes.more = {"conditions": parts, "modelStatus": {"transitionStatus": "InvalidSpec", "lastFailureInfo": invalid}}
    line = refusal(tmp_path / "second", b"better", service_rollback=False)  # of ten minutes
    said = "PredictorReady is False (NoSupportingRuntime: No runtime found to support specified framework/version)"
    assert line.partition("got flowers in models: ")[2] == f"{said}; the previous model still answers. {LOOK}"


def test_a_service_at_zero_is_not_ready(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    kubernetes.deployments["flowers"]["spec"]["replicas"] = 0
    kubernetes.deployments["flowers"]["status"] |= dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas"), 0)
    assert f"{RULE}it is scaled to zero, so that no server answers; " in refusal(tmp_path / "first", **HOW)


def test_with_knative_what_does_not_come_up_is_taken_back_as_well(knative, tmp_path):
    deploy(tmp_path / "first")
    before = copy.deepcopy(predictor(knative))
    good, tried = knative.controller, []

    def fails(service: dict) -> list[dict]:
        tried.append(service)
        failed = kubernetes_api.condition("Ready", "False", reason="RevisionFailed", message="no such image")
        return good(service) if len(tried) > 1 else [{"observedGeneration": 7, "conditions": [failed]}]

    knative.controller = fails
    said = "Ready is False (RevisionFailed: no such image); rolled back to the previous model, which answers."
    assert refusal(tmp_path / "second", b"better", **HOW).startswith(f"{RULE}{said}")
    assert predictor(knative) == before


def test_what_somebody_else_has_changed_meanwhile_is_not_taken_back(kubernetes, tmp_path):
    deploy(tmp_path / "first")

    def somebody(deployment: dict, pod: dict) -> None:
        without_image(deployment, pod)
        kubernetes.services["flowers"]["metadata"]["annotations"]["kfp-vision/fingerprint"] = "another run's"

    kubernetes.trouble = somebody
    assert "; the previous model still answers. " in refusal(tmp_path / "second", b"better", **HOW)
    assert read_from(kubernetes).endswith("model-second/serving/")


def test_with_knative_a_service_that_never_gets_ready_is_one_line_with_the_clusters_own_words(knative, tmp_path):
    kubernetes = knative

    def fails(service: dict) -> list[dict]:
        because = {"reason": "RevisionFailed", "message": "Back-off pulling\nimage tensorflow/serving"}
        conditions = [kubernetes_api.condition("PredictorReady", "False", **because)]
        conditions += [kubernetes_api.condition("Ready", "False", reason="PredictorNotReady")]
        failure = {"lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no such bucket"}}
        return [{"observedGeneration": 1, "conditions": conditions, "modelStatus": failure}]

    kubernetes.controller = fails
    assert refusal(tmp_path / "model", service_wait_seconds=2) == (
        "error: an InferenceService must be ready within service_wait_seconds=2; got flowers in models: PredictorReady is "
        "False (RevisionFailed: Back-off pulling image tensorflow/serving); Ready is False (PredictorNotReady); "
        "ModelLoadFailed: no such bucket; no model answers, and the new InferenceService is kept for inspection. "
        "See kubectl -n models describe pod -l serving.kserve.io/inferenceservice=flowers."
    )
    assert "flowers" in kubernetes.services  # for somebody to look at


def test_a_service_that_goes_while_it_is_waited_for_is_one_clear_line(knative, tmp_path):
    kubernetes = knative
    kubernetes.controller, kubernetes.loses = lambda service: [], {"flowers"}
    assert refusal(tmp_path / "model") == (
        "error: an InferenceService must exist until it is ready; got flowers in models, which was deleted. "
        "See who deleted it, and deploy again."
    )


def test_a_watch_that_is_too_old_or_breaks_off_is_begun_again(knative, tmp_path):
    kubernetes = knative
    kubernetes.broken = [410, 0, 500, 0]
    assert deploy(tmp_path / "model")["url"] == "http://flowers.example.org/1"
    assert kubernetes.asked["watch"] == 5 and kubernetes.broken == []


def test_a_service_of_somebody_else_is_left_alone(kubernetes, tmp_path):
    theirs = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "flowers"}}
    theirs["spec"] = {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "gs://somewhere/else"}}}
    kubernetes.create(theirs, False)
    assert refusal(tmp_path / "model").startswith(
        "error: an InferenceService with the model's name must be one that kfp-vision created; got flowers in models. Choose"
    )
    assert predictor(kubernetes)["model"]["modelFormat"] == {"name": "sklearn"}


def test_what_the_cluster_does_not_take_is_told_in_its_own_words(kubernetes, tmp_path):
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


def test_without_a_cluster_it_is_said_at_once(tmp_path, monkeypatch):
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


def test_the_check_has_the_cluster_try_it_and_changes_nothing(kubernetes, models, tmp_path):
    def check() -> None:
        held, lying = copy.deepcopy(kubernetes.services), [found.name for found in reading.list_files(models)]
        for runtime in ("tensorflow", "kfp-vision"):
            check_target("kserve", "flowers", settings(service_repository=models, service_runtime=runtime))
        assert kubernetes.services == held
        assert [found.name for found in reading.list_files(models)] == lying

    check()
    assert kubernetes.tried == 2 and kubernetes.asked["create"] == 0
    deploy(tmp_path / "model", service_repository=models)
    check()
    assert kubernetes.tried == 4 and kubernetes.asked["create"] == 1 and kubernetes.asked["patch"] == 0


@pytest.mark.parametrize(
    ("name", "given", "line"),
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
def test_what_no_service_can_be_made_of_is_refused_before_anybody_is_asked(kubernetes, name, given, line):
    with pytest.raises(InputError) as refused:
        check_target("kserve", name, settings(**given))
    assert str(refused.value).startswith(f"error: {line}")
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
def test_an_artifact_is_named_as_kserve_knows_it_or_refused(kubernetes, tmp_path, uri, account, known):
    one = version(tmp_path / "1")
    if not known.startswith("KServe"):
        kserve.deploy(one, uri, settings(service_account=account))
        assert read_from(kubernetes) == known
        return
    with pytest.raises(InputError) as refused:
        kserve.deploy(one, uri, settings(service_account=account))
    assert str(refused.value).startswith(f"error: {known}")
    assert kubernetes.services == {}


@pytest.mark.parametrize(("length", "fits"), [(46, True), (47, False), (61, False)])  # with -predictor-models, 63 at most
def test_a_name_that_is_too_long_for_an_address_is_refused_before_anything_is_made(kubernetes, length, fits):
    name = "f" * length
    with contextlib.nullcontext() if fits else pytest.raises(InputError) as refused:
        check_target("kserve", name, settings())
    assert kubernetes.asked["create"] == 0
    if not fits:
        assert str(refused.value) == (
            "error: NAME-predictor-NAMESPACE must have at most 63 characters, since it is part of the host name; got "
            f"{name}-predictor-models ({length + 17}). Choose a model_name of at most 46 characters in models."
        )


def test_with_knative_a_long_name_is_left_to_the_cluster(knative):
    check_target("kserve", "f" * 47, settings())


def test_a_share_of_the_requests_is_refused_where_kserve_has_no_knative(kubernetes):
    with pytest.raises(InputError) as refused:
        check_target("kserve", "flowers", settings(canary_percent=10))
    assert str(refused.value) == (
        "error: canary_percent of advanced must be 100 in KServe's Standard mode, which cannot split traffic; got 10. "
        "Leave it out, or run KServe in Knative mode."
    )
    assert kubernetes.asked["create"] == 0


@pytest.mark.parametrize("right", ["get deployments", "list pods"])
def test_a_right_to_see_the_roll_out_that_lacks_is_told_before_anything_is_made(kubernetes, right):
    kubernetes.denied = {right}
    with pytest.raises(
        InputError, match=rf"cannot {right[:4].strip()} .*Apply the roles in manifests/: kubectl apply -k manifests"
    ):
        check_target("kserve", "flowers", settings())
    assert kubernetes.asked["create"] == 0


def test_in_another_namespace_the_remedy_is_the_binding(kubernetes):
    with pytest.raises(InputError) as refused:
        check_target("kserve", "flowers", settings(service_namespace="elsewhere"))
    assert str(refused.value).endswith(
        ". Give it the role there: kubectl apply -n elsewhere -k manifests/base; kubectl -n elsewhere create rolebinding "
        "kfp-vision-deployers --role=kfp-vision-stages --serviceaccount=models:pipeline-runner."
    )


@pytest.mark.parametrize("runtime", ["tensorflow", "kfp-vision"])
def test_what_a_person_changed_by_hand_survives_the_next_model(kubernetes, tmp_path, runtime):
    deploy(tmp_path / "first", service_runtime=runtime)
    there = predictor(kubernetes)
    there |= {"minReplicas": 2, "nodeSelector": {"pool": "gpu"}}
    ours = there["model"] if runtime == "tensorflow" else there["containers"][0]
    ours.setdefault("env", []).append({"name": "OMP_NUM_THREADS", "value": "4"})
    ours["resources"] = {"requests": {"cpu": "3"}, "limits": {"cpu": "3", "memory": "6Gi"}}
    if runtime == "kfp-vision":
        ours["readinessProbe"]["initialDelaySeconds"] = 30
        there["containers"].append({"name": "proxy", "image": "proxy:1"})
    by_hand = copy.deepcopy(there)
    deploy(tmp_path / "first", service_runtime=runtime)
    assert kubernetes.asked["patch"] == 0  # the very same model is no change
    deploy(tmp_path / "second", b"better", service_runtime=runtime)
    wanted = copy.deepcopy(by_hand)
    read = f"s3{ARTIFACT.removeprefix('minio')}-second/serving/"
    if runtime == "tensorflow":
        wanted["model"]["storageUri"] = read
    else:
        wanted["containers"][0]["env"][0]["value"] = read
    assert predictor(kubernetes) == wanted
    deploy(tmp_path / "second", service_runtime=runtime, service_gpus=1)
    changed = predictor(kubernetes)["model"] if runtime == "tensorflow" else predictor(kubernetes)["containers"][0]
    assert changed["resources"]["limits"] == {"cpu": "3", "memory": "6Gi", "nvidia.com/gpu": "1"}
    deploy(tmp_path / "second", service_runtime=runtime)
    assert predictor(kubernetes) == wanted


@pytest.mark.parametrize("runtime", ["tensorflow", "kfp-vision"])
def test_what_a_service_is_given_stands_in_it_and_is_left_alone_where_it_is_not_given(kubernetes, tmp_path, runtime):
    given = {"service_resources": {"cpu": 2, "memory": "4Gi"}, "service_replicas": "1-3", "service_timeout": 30}
    given |= {"runtime_version": "2.14.1"} if runtime == "tensorflow" else {}
    deploy(tmp_path / "first", service_runtime=runtime, **given)
    there = predictor(kubernetes)
    ours = there["model"] if runtime == "tensorflow" else there["containers"][0]
    both = {"cpu": "2", "memory": "4Gi"}
    assert ours["resources"] == {"requests": both, "limits": both}
    assert (there["minReplicas"], there["maxReplicas"], there["timeout"]) == (1, 3, 30)
    assert ours.get("runtimeVersion") == given.get("runtime_version")
    kept = copy.deepcopy((ours["resources"], ours.get("runtimeVersion"), there["maxReplicas"], there["timeout"]))
    deploy(tmp_path / "second", b"better", service_runtime=runtime)
    there = predictor(kubernetes)
    ours = there["model"] if runtime == "tensorflow" else there["containers"][0]
    assert (ours["resources"], ours.get("runtimeVersion"), there["maxReplicas"], there["timeout"]) == kept
    parts = {"requests": {"cpu": "500m"}, "limits": {"cpu": "4"}}
    deploy(tmp_path / "second", service_runtime=runtime, service_resources=parts, service_replicas="2")
    there = predictor(kubernetes)
    ours = there["model"] if runtime == "tensorflow" else there["containers"][0]
    assert ours["resources"] == {name: {**both, **part} for name, part in parts.items()}
    assert (there["minReplicas"], there["maxReplicas"]) == (2, 2)


def test_what_does_not_change_how_it_is_served_restarts_nothing(kubernetes, tmp_path):
    version(tmp_path / "model" / "serving" / "1", trained_from="f" * 64)
    deploy(tmp_path / "model")
    held = copy.deepcopy(kubernetes.services)
    others = {"service_wait_seconds": 30.0, "versions_kept": 3, "service_rollback": False, "service_namespace": "models"}
    deploy(tmp_path / "model", **others)
    assert kubernetes.services == held and kubernetes.asked["patch"] == 0
    assert kserve.is_deployed_from("flowers", "f" * 64, settings(**others))
    assert not kserve.is_deployed_from("flowers", "f" * 64, settings(service_replicas="2"))


@pytest.mark.parametrize(
    ("stage", "gpus", "image"),
    [
        ("registry.example.org/team/kfp-vision:0.1.0", 0, "registry.example.org/team/kfp-vision:0.1.0"),
        ("registry.example.org:5000/kfp-vision:0.1.0", 1, "registry.example.org:5000/kfp-vision-gpu:0.1.0"),
        ("registry.example.org/team/own:7", 0, f"kfp-vision:{__version__}"),
        ("kfp-vision@sha256:0123", 1, f"kfp-vision-gpu:{__version__}"),
    ],
)
def test_our_server_comes_from_where_the_stages_come_from(kubernetes, tmp_path, monkeypatch, stage, gpus, image):
    kubernetes.stages["this-pod"] = stage
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KFP_POD_NAME", "this-pod")
    deploy(tmp_path / "model", service_gpus=gpus)
    assert predictor(kubernetes)["containers"][0]["image"] == image


def test_the_repository_keeps_the_newest_models_and_those_that_are_read(kubernetes, models, s3, tmp_path):
    folders = []
    for number, weights in enumerate((b"first", b"second", b"third", b"fourth", b"fifth")):
        made = deploy(tmp_path / str(number), weights, service_repository=models, versions_kept=2)
        folders.append(made["fingerprint"][:16])
        there = s3.folder / models.removeprefix("s3://") / "flowers" / folders[-1]
        for file in there.rglob("*"):
            os.utime(file, (1e9 + number, 1e9 + number))
        if number == 0:
            writing.write_file(b"somebody's", f"{models}/flowers/notes/read.me")
    lying = {found.name.partition("/")[0] for found in reading.list_files(f"{models}/flowers")}
    # The fifth is served. Its predecessor's pod was still ending, which reads the fourth; of the others the newest two.
    assert lying == {"notes", *folders[1:]}
    deploy(tmp_path / "5", b"sixth", service_repository=models, versions_kept=0)
    assert {found.name.partition("/")[0] for found in reading.list_files(f"{models}/flowers")} > {"notes", *folders[1:]}


def test_within_the_cluster_its_own_address_is_asked(monkeypatch):
    endpoint = {"name": "flowers", "url": "http://flowers.example.org", "address": "http://flowers.models.svc.cluster.local/"}
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert kserve.request_url(endpoint) == "http://flowers.example.org/v1/models/flowers"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert kserve.request_url(endpoint) == "http://flowers.models.svc.cluster.local/v1/models/flowers"


def test_what_is_deployed_answers_from_where_the_service_is_told_to_read(knative, models, tmp_path):
    kubernetes = knative
    model = tmp_path / "model"
    colour_model.write_version(model / "serving" / "1")
    about = {"model_fingerprint": exported_version(model).fingerprint}
    (tmp_path / "verdict").write_text(json.dumps(about | {"verdict": {"accepted": True, "reasons": []}}))
    (tmp_path / "proof").write_text(json.dumps(about))
    (tmp_path / "green.jpg").write_bytes(colour_model.picture("green"))
    judgements = (tmp_path / "verdict", tmp_path / "proof")
    wishes = settings(service_repository=models)
    with contextlib.ExitStack() as pods:

        def starts(service: dict) -> list[dict]:
            """What KServe's storage initializer and the container do."""
            (container,) = service["spec"]["predictor"]["containers"]
            where = pods.enter_context(bucket.local_copy(container["env"][0]["value"]))
            given = {"/mnt/models": str(where), str(kserve.PORT): "0"}
            url = pods.enter_context(answering([given.get(argument, argument) for argument in container["args"]]))
            ready = [kubernetes_api.condition("Ready", "True")]
            return [{"observedGeneration": 1, "conditions": ready, "url": url, "address": {"url": url}}]

        kubernetes.controller = starts
        told = deploy_model(model, ARTIFACT, *judgements, "kserve", wishes, tmp_path / "endpoint")
        assert told["kind"] == "kserve" and told["model_name"] == "colours"
        assert json.loads((tmp_path / "endpoint").read_text()) == told
        nothing = (tmp_path / "no validation", tmp_path / "no test")
        answer = call_endpoint(tmp_path / "endpoint", *nothing, str(tmp_path / "green.jpg"), tmp_path / "answer")
    assert answer["prediction"] == "green"
    assert answer["url"] == f"{told['url']}/v1/models/colours:predict"


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[tuple[Path, str, Path, str]]:
    """Two models that call the same colours by other names, each with the address of a real server of it."""
    old, new = (tmp_path_factory.mktemp(name) for name in ("old", "new"))
    colour_model.write_version(old / "serving" / "1", ("rose", "leaf", "sky"))
    colour_model.write_version(new / "serving" / "1")
    with server.run_server(old) as old_url, server.run_server(new) as new_url:
        yield old, old_url, new, new_url


def asked(model: Path, url: str, tmp_path: Path) -> dict[str, object]:
    """What `call_endpoint` makes of a deployed model behind an address."""
    where = {"kind": "kserve", "name": "colours", "namespace": "models", "model_name": "colours", "url": url, "address": url}
    what = {"fingerprint": exported_version(model).fingerprint, "share": 100}
    (tmp_path / "endpoint").write_text(json.dumps(where | what))
    (tmp_path / "green.jpg").write_bytes(colour_model.picture("green"))
    nothing = (tmp_path / "no validation", tmp_path / "no test")
    return call_endpoint(tmp_path / "endpoint", *nothing, str(tmp_path / "green.jpg"), tmp_path / "answer")


@pytest.mark.parametrize("late", [0, 1, 5])
def test_the_answer_of_a_server_that_ends_late_is_not_taken_for_the_new_ones(
    two, kubernetes, tmp_path, monkeypatch, capsys, late
):
    old, old_url, new, new_url = two
    monkeypatch.setattr(deployment_deploy, "PAUSE_SECONDS", 0.01)
    with load_balancer.fronting(lambda: old_url if len(front.led) < late else new_url) as front:
        answer = asked(new, front.url, tmp_path)
    assert (answer["prediction"], front.led) == ("green", [old_url] * late + [new_url])
    assert answer["url"] == f"{front.url}/v1/models/colours:predict"
    said = capsys.readouterr().out
    before, after = (exported_version(model).fingerprint[:12] for model in (old, new))
    again = f"POST {front.url}/v1/models/colours:predict gave one of {before} instead of {after}; trying again"
    assert said.splitlines().count(again) == (late > 0)
    assert f"POST {answer['url']}" in said.splitlines()


def test_a_server_that_never_gives_way_is_one_clear_line(two, kubernetes, tmp_path, monkeypatch):
    old, old_url, new, _ = two
    monkeypatch.setattr(deployment_deploy, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(deployment_deploy, "SECONDS_TO_TAKE_OVER", 0.2)
    with load_balancer.fronting(lambda: old_url) as front, pytest.raises(InputError) as refused:
        asked(new, front.url, tmp_path)
    before, after = (exported_version(model).fingerprint[:12] for model in (old, new))
    assert str(refused.value) == (
        f"error: the deployed model must answer within 0.2 s of being ready; got one of {before} for {after} at "
        f"{front.url}/v1/models/colours:predict. See kubectl -n models get pods, and which of them the address leads to."
    )
    assert not (tmp_path / "answer").exists()


def test_of_servers_that_do_not_say_which_model_answers_the_pods_tell(two, kubernetes, tmp_path, monkeypatch):
    """As KServe's stock runtime is one: the address leads to whichever pod is there, ending or not."""
    old, old_url, new, new_url = two
    monkeypatch.setattr(deployment_deploy, "PAUSE_SECONDS", 0.01)
    kubernetes.lingers = 4
    how = settings(service_runtime="tensorflow")
    of = {}
    for model, url in ((old, old_url), (new, new_url)):
        kserve.deploy(exported_version(model), f"{ARTIFACT}-{model.name}", how)
        of[exported_version(model).fingerprint] = url

    def ending_first() -> str:
        pods = kubernetes.pods["colours"]
        first = next((pod for pod in pods if "deletionTimestamp" in pod["metadata"]), pods[0])
        return of[first["metadata"]["annotations"]["kfp-vision/fingerprint"]]

    assert ending_first() == old_url
    with load_balancer.fronting(ending_first, hidden=("kfp-vision-fingerprint",)) as front:
        answer = asked(new, front.url, tmp_path)
    assert answer["prediction"] == "green"
    assert front.led[0] == old_url and front.led[-1] == new_url


def test_a_roll_out_over_two_real_servers_ends_with_the_new_ones_answer(two, kubernetes, models, tmp_path, monkeypatch):
    """The whole way: while the pods are exchanged the address leads to whichever are ready, the one before first."""
    old, old_url, new, new_url = two
    monkeypatch.setattr(deployment_deploy, "PAUSE_SECONDS", 0.01)
    of = {exported_version(model).fingerprint: url for model, url in ((old, old_url), (new, new_url))}
    late = iter([old_url, old_url])  # connections that find the way to a pod that is ending

    def ready() -> str:
        pods = [pod for pod in kubernetes.pods["colours"] if kubernetes_api.is_ready(pod)]
        return next(late, None) or of[pods[0]["metadata"]["annotations"]["kfp-vision/fingerprint"]]

    with load_balancer.fronting(ready) as front:
        for model in (old, new):
            told = kserve.deploy(exported_version(model), ARTIFACT, settings(service_repository=models))
        assert told["fingerprint"] == exported_version(new).fingerprint
        assert asked(new, front.url, tmp_path)["prediction"] == "green"
    assert front.led == [old_url, old_url, new_url]
