"""Deployment to KServe, against an API server that speaks Kubernetes' HTTP: what it holds in the end, or what is said."""

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path

import colours
import kube
import pytest
import yaml
from exported import version
from servers import NUMBERS, answering, free_port

from kfp_vision import __version__, cluster, deployment, inference_service, parameters, repository, storage, stored
from kfp_vision.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
ARTIFACT = "minio://mlpipeline/v2/artifacts/image-classification/17/train-classifier/model"


@pytest.fixture(autouse=True)
def quickly(tmp_path, monkeypatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(cluster, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def kubernetes(tmp_path, monkeypatch) -> Iterator[kube.Cluster]:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with kube.running(kube.Cluster(), tmp_path / "config") as running:
        yield running


@pytest.fixture
def models(s3) -> str:
    """A folder of a bucket for the models."""
    return f"s3://{s3.bucket(f'bucket-{next(NUMBERS)}', {'first': b'1'})}/models"


def settings(**given: object) -> dict[str, object]:
    return parameters.of_deployment({"service_account": "kfp-vision-models", **given})


def deploy(folder: Path, weights: bytes = b"weights", **given: object) -> dict[str, str]:
    """Deploys a model as the run of KFP has left it."""
    one = repository.Version(folder / "serving" / "1")
    if not one.folder.exists():
        version(one.folder, weights=weights)
    return inference_service.deploy(one, f"{ARTIFACT}-{folder.name}", settings(**given))


def refusal(*arguments: object, **given: object) -> str:
    with pytest.raises(InputError) as refused:
        deploy(*arguments, **given)
    line = str(refused.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


def predictor(kubernetes: kube.Cluster) -> dict[str, object]:
    return kubernetes.services["flowers"]["spec"]["predictor"]


def test_a_service_is_made_and_waited_for(kubernetes, tmp_path, capsys):
    told = deploy(tmp_path / "model")
    assert told == {
        "name": "flowers",
        "namespace": "models",
        "model_name": "flowers",
        "url": "http://flowers.example.org/1",
        "address": "http://flowers.models.svc.cluster.local",
    }
    assert predictor(kubernetes) == {
        "serviceAccountName": "kfp-vision-models",
        "model": {
            "modelFormat": {"name": "tensorflow"},
            "storageUri": f"s3{ARTIFACT.removeprefix('minio')}-model/serving",
            "resources": {"limits": {}},
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        },
    }
    assert capsys.readouterr().out.splitlines() == [
        "InferenceService flowers in models: made",
        "not ready yet: no word of KServe about it",
        "not ready yet: Ready is Unknown (PredictorNotReady)",
        "ready at http://flowers.example.org/1",
    ]


def test_deploying_twice_is_deploying_once(kubernetes, models, tmp_path, capsys):
    first = deploy(tmp_path / "model", service_repository=models)
    held, lying = copy.deepcopy(kubernetes.services), [found.name for found in storage.children(models)]
    assert deploy(tmp_path / "model", service_repository=models) == first
    assert kubernetes.services == held
    assert [found.name for found in storage.children(models)] == lying
    assert kubernetes.asked["create"] == 1 and kubernetes.asked["patch"] == 0
    assert "InferenceService flowers in models: as it was" in capsys.readouterr().out


def test_what_a_webhook_adds_is_no_difference(kubernetes, tmp_path):
    def complete(service: dict) -> None:
        model = service["spec"]["predictor"]["model"]
        model |= {"protocolVersion": "v1", "runtime": "kserve-tensorflow-serving", "name": ""}
        model["resources"] = {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "1", "memory": "2Gi"}}

    kubernetes.defaults = complete
    assert deploy(tmp_path / "model") == deploy(tmp_path / "model")
    assert kubernetes.asked["patch"] == 0


def test_another_model_changes_the_service_and_its_old_state_does_not_count(kubernetes, models, tmp_path):
    first = deploy(tmp_path / "first", service_repository=models)
    before = predictor(kubernetes)["model"]["storageUri"]
    second = deploy(tmp_path / "second", b"better", service_repository=models)
    assert (first["url"], second["url"]) == ("http://flowers.example.org/1", "http://flowers.example.org/2")
    after = predictor(kubernetes)["model"]["storageUri"]
    assert after != before
    for place, weights in ((before, b"weights"), (after, b"better")):  # a revision of the first may still read it
        with stored.brought(place) as path:
            assert (path / "1" / "variables" / "variables.index").read_bytes() == weights
    assert kubernetes.services["flowers"]["metadata"]["generation"] == 2


def test_a_change_that_kserve_has_nothing_to_do_for_ends_well(kubernetes, tmp_path, monkeypatch):
    deploy(tmp_path / "first")
    kubernetes.controller = lambda service: []
    monkeypatch.setattr(cluster, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(cluster, "WATCH_SECONDS", 1)
    assert deploy(tmp_path / "first", canary_percent=50)["url"] == "http://flowers.example.org/1"
    assert predictor(kubernetes)["canaryTrafficPercent"] == 50


def test_a_share_of_the_traffic_goes_to_a_model_until_it_is_given_all(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    deploy(tmp_path / "second", b"better", canary_percent=10)
    assert predictor(kubernetes)["canaryTrafficPercent"] == 10
    deploy(tmp_path / "second", canary_percent=100)
    assert "canaryTrafficPercent" not in predictor(kubernetes)
    deploy(tmp_path / "third", b"best", canary_percent=0)
    assert predictor(kubernetes)["canaryTrafficPercent"] == 0


def test_what_a_service_was_made_of_is_known_again(kubernetes, models, tmp_path):
    def decided(recipe: str, **given: object) -> deployment.Decision:
        how = settings(service_repository=models, **given)
        return deployment.decide_training("sample", "", recipe, True, "kserve", "flowers", how)

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
    assert container["env"] == [{"name": "STORAGE_URI", "value": f"s3{ARTIFACT.removeprefix('minio')}-model/serving"}]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    deploy(tmp_path / "model", **ours, service_image="registry.example.org/team/kfp-vision:7")
    assert predictor(kubernetes)["containers"][0]["image"] == "registry.example.org/team/kfp-vision:7"
    deploy(tmp_path / "model", service_gpus=1)
    assert "containers" not in predictor(kubernetes)
    assert predictor(kubernetes)["model"]["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    deploy(tmp_path / "model")
    assert predictor(kubernetes)["model"]["resources"] == {"limits": {}}
    deploy(tmp_path / "model", service_runtime="kfp-vision")
    assert "model" not in predictor(kubernetes)
    assert predictor(kubernetes)["containers"][0]["image"] == f"kfp-vision:{__version__}"


def test_who_else_changes_the_service_meanwhile_is_not_written_over(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    kubernetes.rivals = 3
    deploy(tmp_path / "second", b"better")
    assert kubernetes.asked["patch"] == 4
    assert kubernetes.services["flowers"]["metadata"]["labels"] == {"rivals": "0", "kfp-vision/role": "server"}
    assert predictor(kubernetes)["model"]["storageUri"].endswith("model-second/serving")


def test_a_service_that_never_holds_still_is_one_clear_line(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    kubernetes.rivals = 1000
    assert refusal(tmp_path / "second", b"better") == (
        "error: an InferenceService must hold still for as long as a change takes; got 10 conflicts at flowers in models. "
        "See who else changes it, and try again."
    )
    assert predictor(kubernetes)["model"]["storageUri"].endswith("model-first/serving")


@pytest.mark.parametrize("verb", ["get", "create", "patch", "watch"])
def test_who_may_not_is_told_what_to_apply(kubernetes, tmp_path, verb):
    if verb == "patch":
        deploy(tmp_path / "first")
    kubernetes.denied = {verb}
    assert refusal(tmp_path / "second", b"better") == (
        "error: deploy_to=kserve must be allowed to the service account that runs the stages; got HTTP 403 in models "
        '(inferenceservices.serving.kserve.io is forbidden: User "system:serviceaccount:models:pipeline-runner" cannot '
        f'{verb} resource "inferenceservices"). Apply the roles in manifests/: kubectl apply -k manifests.'
    )
    with contextlib.nullcontext() if verb == "watch" else pytest.raises(InputError, match="Apply the roles in manifests/"):
        inference_service.check("flowers", settings())


def test_the_role_in_manifests_allows_what_is_asked_and_nothing_else(kubernetes, tmp_path):
    deploy(tmp_path / "first")
    deploy(tmp_path / "second", b"better")
    rules = yaml.safe_load((ROOT / "manifests" / "base" / "role.yaml").read_text())["rules"]
    (rule,) = (rule for rule in rules if rule["apiGroups"] == ["serving.kserve.io"])
    assert rule["resources"] == ["inferenceservices"]
    assert set(rule["verbs"]) == set(kubernetes.asked)


def test_a_service_that_never_gets_ready_is_one_line_with_the_clusters_own_words(kubernetes, tmp_path):
    def fails(service: dict) -> list[dict]:
        because = {"reason": "RevisionFailed", "message": "Back-off pulling\nimage tensorflow/serving"}
        conditions = [kube.condition("PredictorReady", "False", **because)]
        conditions += [kube.condition("Ready", "False", reason="PredictorNotReady")]
        failure = {"lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no such bucket"}}
        return [{"observedGeneration": 1, "conditions": conditions, "modelStatus": failure}]

    kubernetes.controller = fails
    assert refusal(tmp_path / "model", service_wait_seconds=2) == (
        "error: an InferenceService must be ready within service_wait_seconds=2; got flowers in models: PredictorReady is "
        "False (RevisionFailed: Back-off pulling image tensorflow/serving); Ready is False (PredictorNotReady); "
        "ModelLoadFailed: no such bucket. See kubectl describe inferenceservice flowers -n models."
    )
    assert "flowers" in kubernetes.services  # for somebody to look at


def test_a_service_that_goes_while_it_is_waited_for_is_one_clear_line(kubernetes, tmp_path):
    kubernetes.controller, kubernetes.loses = lambda service: [], {"flowers"}
    assert refusal(tmp_path / "model") == (
        "error: an InferenceService must stay until it is ready; got flowers in models, which is gone. "
        "See who deleted it, and deploy again."
    )


def test_a_watch_that_is_too_old_or_breaks_off_is_begun_again(kubernetes, tmp_path):
    kubernetes.broken = [410, 0, 500, 0]
    assert deploy(tmp_path / "model")["url"] == "http://flowers.example.org/1"
    assert kubernetes.asked["watch"] == 5 and kubernetes.broken == []


def test_a_service_of_somebody_else_is_left_alone(kubernetes, tmp_path):
    theirs = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "flowers"}}
    theirs["spec"] = {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "gs://somewhere/else"}}}
    kubernetes.create(theirs, False)
    assert refusal(tmp_path / "model").startswith(
        "error: an InferenceService of the model's name must be one that kfp-vision made; got flowers in models. Choose another"
    )
    assert predictor(kubernetes)["model"]["modelFormat"] == {"name": "sklearn"}


def test_what_the_cluster_does_not_take_is_told_in_its_own_words(kubernetes, tmp_path):
    def deny(service: dict) -> None:
        raise kube.Refusal(403, "Forbidden", 'admission webhook "validator" denied the request: no such runtime')

    kubernetes.defaults = deny
    assert refusal(tmp_path / "model") == (
        'error: the cluster must take the InferenceService; got HTTP 403 in models (admission webhook "validator" denied the '
        "request: no such runtime). Change what it names, or ask who runs the cluster."
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
    with kube.running(kube.Cluster(), tmp_path / "config"):
        known = yaml.safe_load((tmp_path / "config").read_text())
    known["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "config").write_text(yaml.safe_dump(known))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert refusal(tmp_path / "model").startswith("error: the cluster must answer; got NewConnectionError. ")


def test_the_check_has_the_cluster_try_it_and_changes_nothing(kubernetes, models, tmp_path):
    def check() -> None:
        held, lying = copy.deepcopy(kubernetes.services), [found.name for found in storage.children(models)]
        for runtime in ("tensorflow", "kfp-vision"):
            deployment.check_target("kserve", "flowers", settings(service_repository=models, service_runtime=runtime))
        assert kubernetes.services == held
        assert [found.name for found in storage.children(models)] == lying

    check()
    assert kubernetes.tried == 2 and kubernetes.asked["create"] == 0
    deploy(tmp_path / "model", service_repository=models)
    check()
    assert kubernetes.tried == 4 and kubernetes.asked["create"] == 1 and kubernetes.asked["patch"] == 0


@pytest.mark.parametrize(
    ("name", "given", "line"),
    [
        ("My_flowers", {}, "model_name must be small letters, digits and -, and begin with a letter, for deploy_to=kserve"),
        ("3flowers", {}, "model_name must be small letters, digits and -, and begin with a letter, for deploy_to=kserve"),
        ("flowers", {"service_account": ""}, "deploy_to=kserve must have a place that KServe can read the model from; got"),
        ("flowers", {"service_repository": "/models"}, "service_repository of advanced must be a folder of a bucket, which"),
        (
            "flowers",
            {"service_repository": "cos://models-1/m", "service_account": ""},
            "KServe must have a service account to read cos:// addresses with; got cos://models-1/m. Set service_account of",
        ),
    ],
)
def test_what_no_service_can_be_made_of_is_refused_before_anybody_is_asked(kubernetes, name, given, line):
    with pytest.raises(InputError) as refused:
        deployment.check_target("kserve", name, settings(**given))
    assert str(refused.value).startswith(f"error: {line}")
    assert not kubernetes.asked and not kubernetes.tried


@pytest.mark.parametrize(
    ("uri", "account", "known"),
    [
        ("s3://artifacts/a/model?endpoint=https://minio.example.org:9000", "", "s3://artifacts/a/model/serving"),
        ("gs://artifacts/a/model", "", "gs://artifacts/a/model/serving"),
        ("minio://artifacts/a/model", "reader", "s3://artifacts/a/model/serving"),
        ("minio://artifacts/a/model", "", "KServe must have a service account to read minio:// addresses with; got minio"),
        ("/tmp/artifacts/a/model", "reader", "KServe must be able to read the model; got /tmp/artifacts/a/model/serving. Set "),
    ],
)
def test_an_artifact_is_named_as_kserve_knows_it_or_refused(kubernetes, tmp_path, uri, account, known):
    one = version(tmp_path / "1")
    if not known.startswith("KServe"):
        inference_service.deploy(one, uri, settings(service_account=account))
        assert predictor(kubernetes)["model"]["storageUri"] == known
        return
    with pytest.raises(InputError) as refused:
        inference_service.deploy(one, uri, settings(service_account=account))
    assert str(refused.value).startswith(f"error: {known}")
    assert kubernetes.services == {}


def test_within_the_cluster_its_own_address_is_asked(monkeypatch):
    endpoint = {"name": "flowers", "url": "http://flowers.example.org", "address": "http://flowers.models.svc.cluster.local/"}
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert inference_service.asked_at(endpoint) == "http://flowers.example.org/v1/models/flowers"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert inference_service.asked_at(endpoint) == "http://flowers.models.svc.cluster.local/v1/models/flowers"


def test_what_is_deployed_answers_from_where_the_service_is_told_to_read(kubernetes, models, tmp_path):
    model = tmp_path / "model"
    colours.write_version(model / "serving" / "1")
    about = {"model_fingerprint": repository.exported(model).fingerprint}
    (tmp_path / "verdict").write_text(json.dumps(about | {"verdict": {"accepted": True, "reasons": []}}))
    (tmp_path / "proof").write_text(json.dumps(about))
    (tmp_path / "green.jpg").write_bytes(colours.picture("green"))
    judgements = (tmp_path / "verdict", tmp_path / "proof")
    wishes = settings(service_repository=models, service_runtime="kfp-vision")
    with contextlib.ExitStack() as pods:

        def starts(service: dict) -> list[dict]:
            """What KServe's storage initializer and the container do."""
            (container,) = service["spec"]["predictor"]["containers"]
            where = pods.enter_context(stored.brought(container["env"][0]["value"]))
            given = {"/mnt/models": str(where), str(inference_service.PORT): "0"}
            url = pods.enter_context(answering([given.get(argument, argument) for argument in container["args"]]))
            ready = [kube.condition("Ready", "True")]
            return [{"observedGeneration": 1, "conditions": ready, "url": url, "address": {"url": url}}]

        kubernetes.controller = starts
        told = deployment.deploy_model(model, ARTIFACT, *judgements, "kserve", wishes, tmp_path / "endpoint")
        assert told["kind"] == "kserve" and told["model_name"] == "colours"
        assert json.loads((tmp_path / "endpoint").read_text()) == told
        nothing = (tmp_path / "no validation", tmp_path / "no test")
        answer = deployment.call_endpoint(tmp_path / "endpoint", *nothing, str(tmp_path / "green.jpg"), tmp_path / "answer")
    assert answer["prediction"] == "green"
    assert answer["url"] == f"{told['url']}/v1/models/colours:predict"
