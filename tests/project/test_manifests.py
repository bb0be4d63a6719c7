"""The manifests are valid against the published schemas of Kubernetes and KServe, and match the code and the page."""

import json
import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml
from kserve.constants import constants as of_kserve
from support import pod_security, published_schemas
from support.model_servers import program

from kfp_vision import __version__
from kfp_vision.components.container_images import GPU_IMAGE, SERVE_IMAGE, SERVE_NAME
from kfp_vision.core import subprocesses
from kfp_vision.core.advanced import deployment_settings
from kfp_vision.deployment import kserve
from kfp_vision.engines.choice import ENGINE_VARIABLE
from kfp_vision.engines.engine import OPENVINO_INT8
from kfp_vision.pipelines import ending, pods
from kfp_vision.reports import outcome, run_state
from kfp_vision.repository import registries
from kfp_vision.storage import base
from kfp_vision.training import job_client, tf_config, train_job, worker

FOLDER = Path(__file__).resolve().parents[2] / "manifests"
PAGE = FOLDER / "README.md"
FOLDERS = ("base", "namespace", "nodes")
SEPARATE = ("runtime", "training")  # applied separately, on clusters with KServe, and with Kubeflow Trainer
FILES = sorted(
    f"{folder}/{file.name}"
    for folder in FOLDERS + SEPARATE
    for file in (FOLDER / folder).glob("*.yaml")
    if file.stem != "kustomization"
)
TEMPLATES = {
    pods.STORAGE_SECRET: base.ENVIRONMENT_VARIABLES,
    ending.WEBHOOK_SECRET: outcome.REPORT_ENVIRONMENT,
    pods.REGISTRIES_SECRET: registries.ENVIRONMENT,
    "kfp-vision-models": (of_kserve.S3_ACCESS_KEY_ID_DEFAULT_NAME, of_kserve.S3_SECRET_ACCESS_KEY_DEFAULT_NAME),
}


def read(name: str) -> dict:
    (document,) = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return document


def kubectl(*arguments: object) -> list[dict]:
    """Returns the documents that kubectl prints without a cluster."""
    done = subprocess.run([program("kubectl"), *map(str, arguments)], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def build(folder: str | Path) -> dict[tuple[str, str], dict]:
    """Returns the resources of a kustomization, by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in kubectl("kustomize", FOLDER / folder)}


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_is_valid_against_its_published_schema(name):
    assert published_schemas.faults(read(name)) == []


@pytest.mark.parametrize("file", sorted((FOLDER / "pipelines").glob("[!k]*.yaml")), ids=lambda file: file.stem)
def test_a_pipeline_manifest_is_valid_and_holds_the_compiled_pipeline(file):
    pipeline, version = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    assert (pipeline["kind"], version["kind"]) == ("Pipeline", "PipelineVersion")
    assert published_schemas.faults(pipeline) == published_schemas.faults(version) == []
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"] == file.stem.replace("_", "-")
    assert version["metadata"]["name"] == f"{pipeline['metadata']['name']}-{__version__}"
    spec, platform = yaml.safe_load_all((FOLDER.parent / "pipelines" / file.name).read_text(encoding="utf-8"))
    assert version["spec"]["pipelineSpec"] == spec and version["spec"]["platformSpec"] == platform
    for path, value in (("pipelineSpec", "x"), ("spec", {}), ("displayName", 7)):
        assert published_schemas.faults(version | {"spec": version["spec"] | {path: value}}) != []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("base/role.yaml", ("rules", 0, "verbz"), ["get"]),
        ("base/role.yaml", ("rules", 0, "verbs"), "get"),
        ("base/role-binding.yaml", ("roleRef", "name"), 7),
        ("base/service-account-models.yaml", ("secrets",), {"name": "x"}),
        ("base/network-policy-stages.yaml", ("spec", "egress", 0, "port"), 53),
        ("base/network-policy-stages.yaml", ("spec", "egress", 0, "ports", 0, "port"), {"number": 53}),
        ("runtime/serving-runtime.yaml", ("spec", "container"), []),
        ("runtime/serving-runtime.yaml", ("spec", "containers"), None),
        ("runtime/serving-runtime.yaml", ("spec", "containers", 0, "ports", 0, "containerPort"), "8080"),
        ("runtime/serving-runtime.yaml", ("spec", "containers", 0, "readinessProbe", "httpGet", "ports"), 8080),
        ("namespace/namespace.yaml", ("metadata", "labels"), ["enforce"]),
        ("training/training-runtime.yaml", ("spec", "mlPolicy", "tensorflow"), {}),
        ("training/training-runtime.yaml", ("spec", "template", "spec", "network", "subdomain"), 7),
        ("training/training-runtime.yaml", ("spec", "template", "spec", "failurePolicy", "rules", 0, "reason"), "x"),
        ("training/network-policy-workers.yaml", ("spec", "ingress", 0, "ports", 0, "endPort"), "9"),
        ("nodes/cluster-role.yaml", ("rules", 0, "resource"), ["nodes"]),
        ("nodes/cluster-role-binding.yaml", ("subjects", 0, "name"), None),
    ],
)
def test_the_schemas_reject_a_faulty_manifest(name, path, value):
    document = read(name)
    node = document
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert published_schemas.faults(document) != []


CLUSTER_KINDS = {"Namespace", "ClusterRole", "ClusterRoleBinding"}  # kinds without a namespace


@pytest.mark.parametrize(
    ("folder", "namespace", "parts"),
    [
        ("", "kubeflow", ("base", "nodes")),
        ("namespace", "kfp-vision", FOLDERS),
        ("base", None, ("base",)),
        ("runtime", None, ("runtime",)),
        ("training", None, ("training",)),
    ],
)
def test_kustomize_builds_every_manifest_into_its_namespace(folder, namespace, parts):
    files = [name for name in FILES if name.startswith(parts)]
    expected = {(one["kind"], one["metadata"]["name"]) for one in map(read, files)}
    found = build(folder)
    assert found.keys() == expected
    assert [one for one in found.values() if published_schemas.faults(one)] == []
    assert {one["metadata"].get("namespace") for key, one in found.items() if key[0] not in CLUSTER_KINDS} == {namespace}
    assert {one["metadata"].get("namespace") for key, one in found.items() if key[0] in CLUSTER_KINDS} <= {None}
    assert ("Namespace" in {kind for kind, _ in found}) == (folder == "namespace")


@pytest.mark.parametrize("folder", ["", "namespace", "base"])
def test_the_default_manifests_hold_no_resources_that_only_some_clusters_know(folder):
    separate = ("serving.kserve.io/", "trainer.kubeflow.org/")
    assert {one["apiVersion"] for one in build(folder).values() if one["apiVersion"].startswith(separate)} == set()


def test_the_training_runtime_has_the_pods_that_the_code_gives_a_tfjob():
    jobset = read("training/training-runtime.yaml")["spec"]["template"]["spec"]
    (replicated,) = jobset["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (variable,) = pod["containers"][0].pop("env")
    assert (replicated["name"], variable["name"]) == (tf_config.REPLICATED_JOB, tf_config.JOBSET_VARIABLE)
    assert pod == train_job.pod_spec("node", {}) and job["template"]["metadata"]["labels"] == train_job.ROLE
    assert pod_security.violations(pod) == []
    assert published_schemas.faults({"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "spec": jobset}) == []


def test_the_training_runtime_tells_wrong_fields_lost_nodes_and_other_failures_apart():
    runtime = read("training/training-runtime.yaml")["spec"]["template"]["spec"]
    assert "ttlSecondsAfterFinished" not in json.dumps(runtime)  # Trainer 2.3 would run a failed job again, for ever
    job = runtime["replicatedJobs"][0]["template"]["spec"]
    codes = [rule.get("onExitCodes", {}).get("values") for rule in job["podFailurePolicy"]["rules"]]
    assert codes == [[worker.INPUT_ERROR_STATUS], None, [subprocesses.SIGTERM_STATUS]] and job["backoffLimit"] == 0
    # As Kubernetes words them (pkg/controller/job/pod_failure_policy.go), seen on 1.34.
    messages = {
        "FailJobSet": ["Container node for pod ns/p failed with exit code 3 matching FailJob rule at index 0"],
        "RestartJobSetAndIgnoreMaxRestarts": [
            "Container node for pod ns/p failed with exit code 143 matching FailJob rule at index 2",
            "Pod ns/p has condition DisruptionTarget matching FailJob rule at index 1",
        ],
    }
    rules = runtime["failurePolicy"]["rules"]
    for action, texts in messages.items():
        for text in texts:
            matching = [
                rule["action"] for rule in rules if any(re.search(one, text) for one in rule["onJobFailureMessagePatterns"])
            ]
            assert matching == [action]
    assert runtime["failurePolicy"]["maxRestarts"] == train_job.MAX_RESTARTS


def test_the_kustomization_lists_every_pipeline():
    files = sorted(file.name for file in (FOLDER / "pipelines").glob("[!k]*.yaml"))
    assert read("pipelines/kustomization.yaml")["resources"] == files
    assert {one["metadata"]["namespace"] for one in build("pipelines").values()} == {"kubeflow"}


def test_the_namespace_enforces_restricted_pod_security_of_a_fixed_version():
    labels = read("namespace/namespace.yaml")["metadata"]["labels"]
    modes_and_versions = {
        label.partition("/")[2]: value for label, value in labels.items() if label.startswith("pod-security.")
    }
    modes = ("enforce", "warn", "audit")
    versions = {f"{mode}-version": f"v{published_schemas.OLDEST_KUBERNETES}" for mode in modes}
    assert modes_and_versions == dict.fromkeys(modes, "restricted") | versions


def test_workers_reach_each_other_and_nobody_else_reaches_them():
    spec = build("training")["NetworkPolicy", "kfp-vision-workers"]["spec"]
    assert spec["podSelector"] == {"matchLabels": train_job.ROLE}
    (rule,) = spec["ingress"]
    assert rule["from"] == spec["egress"][0]["to"] == [{"podSelector": {"matchLabels": train_job.ROLE}}]
    assert rule["ports"] == spec["egress"][0]["ports"]
    (port,) = rule["ports"]
    assert port["port"] <= tf_config.PORT <= port["endPort"]
    outside = [peer["ipBlock"] for one in spec["egress"] for peer in one["to"] if "ipBlock" in peer]
    open_blocks = {block["cidr"]: block["except"] for block in outside if block["cidr"].endswith("/0")}
    assert "169.254.0.0/16" in open_blocks["0.0.0.0/0"] and "fd00:ec2::254/128" in open_blocks["::/0"]


@pytest.mark.parametrize("rights", [job_client.TRAIN_JOB_RIGHTS, job_client.TF_JOB_RIGHTS, job_client.POD_RIGHTS])
def test_the_stages_may_do_with_the_jobs_of_workers_what_the_check_asks_for(rights):
    rules = build("base")["Role", "kfp-vision-stages"]["rules"]
    for group, resource, verb in rights:
        assert [one for one in rules if group in one["apiGroups"] and resource in one["resources"] and verb in one["verbs"]]


@pytest.mark.parametrize("name", ["kfp-vision-stages", "kfp-vision-models"])
def test_a_network_policy_denies_its_pods_everything_but_the_listed_peers(name):
    spec = build("base")["NetworkPolicy", name]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    label = dict([pods.ROLE]) if name == "kfp-vision-stages" else kserve.SERVICE_LABELS
    assert spec["podSelector"] == {"matchLabels": label}
    assert [rule for rule in spec["egress"] if not rule.get("to") or not rule.get("ports")] == []
    assert [rule for rule in spec.get("ingress", []) if not rule.get("from") or not rule.get("ports")] == []
    assert ("ingress" in spec) == (name == "kfp-vision-models")  # no ingress to the stages
    outside = [peer["ipBlock"] for rule in spec["egress"] for peer in rule["to"] if "ipBlock" in peer]
    open_blocks = {block["cidr"]: block["except"] for block in outside if block["cidr"].endswith("/0")}
    assert "169.254.0.0/16" in open_blocks["0.0.0.0/0"] and "fd00:ec2::254/128" in open_blocks["::/0"]


def reachable_ports(policy: dict, namespace: str, labels: dict[str, str]) -> set[int]:
    """Returns the TCP ports that a network policy opens to a pod with these labels in a namespace."""
    namespace_labels = {"kubernetes.io/metadata.name": namespace}
    return {
        port["port"]
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
        if "ipBlock" not in peer
        and selects(peer.get("namespaceSelector"), namespace_labels)
        and selects(peer.get("podSelector"), labels)
        for port in rule["ports"]
        if port["protocol"] == "TCP"
    }


def selects(selector: dict | None, labels: dict[str, str]) -> bool:
    required = (selector or {}).get("matchLabels", {}).items()
    listed = (selector or {}).get("matchExpressions", [])
    assert {expression["operator"] for expression in listed} <= {"In"}
    return required <= labels.items() and all(labels.get(one["key"]) in one["values"] for one in listed)


# Labels and ports of pods in KFP 2.17: manifests/kustomize/base and third-party/seaweedfs; of the Model Registry:
# manifests/kustomize/base/model-registry-deployment.yaml of kubeflow/model-registry; MLflow's has no manifest.
@pytest.mark.parametrize(
    ("namespace", "labels", "ports"),
    [
        ("kubeflow", {"app": "ml-pipeline"}, {8887, run_state.API_PORT}),
        ("kubeflow", {"component": "metadata-grpc-server"}, {8080}),
        ("kubeflow", {"app": "seaweedfs"}, {8333}),
        ("kubeflow", {"component": "model-registry-server"}, {8080}),
        ("elsewhere", {"component": "model-registry-server"}, set()),
        ("elsewhere", {"app.kubernetes.io/name": "mlflow"}, {5000}),
        ("kubeflow", {"app": "mysql"}, set()),
        ("kubeflow", {"app": "ml-pipeline-ui"}, set()),
        ("elsewhere", {"app": "ml-pipeline"}, set()),
        ("elsewhere", kserve.SERVICE_LABELS, {kserve.PORT, 8012}),
        ("elsewhere", dict([pods.ROLE]), set()),
        ("istio-system", {"app": "istio-ingressgateway"}, {8080, 8081, 8012}),
    ],
)
def test_stages_reach_only_the_cluster_services_they_need(namespace, labels, ports):
    dns_ports = {53, 5353}  # open to every pod
    assert reachable_ports(build("")["NetworkPolicy", "kfp-vision-stages"], namespace, labels) == ports | dns_ports


def empty_lists(value: object, where: str = "") -> list[str]:
    """Returns the paths of the empty lists in a document."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where] * (value == []) + [found for key, one in entries for found in empty_lists(one, f"{where}.{key}")]


@pytest.mark.parametrize("name", FILES)
def test_applying_a_manifest_again_changes_nothing(name):
    # The API server drops empty lists, so that kubectl would report a change each time.
    assert empty_lists(read(name)) == []


# Services of KFP 2.17 and their ports: manifests/kustomize/base/pipeline and third-party/seaweedfs.
SERVICES = {"ml-pipeline": {8887, 8888}, "seaweedfs": {8111, 8333, 8888, 9000, 9333, 18888, 19333}}
SERVICES |= {"model-registry-service": {8080}}  # Kubeflow's: manifests/kustomize/base of kubeflow/model-registry


@pytest.mark.parametrize("folder", ["README.md", "components", "docs", "kfp_vision", "manifests", "pipelines", "tests"])
def test_every_address_in_kubeflow_is_a_service_of_kfp(folder):
    place = FOLDER.parent / folder
    files = (
        [place] if place.is_file() else [file for file in place.rglob("*") if file.suffix in (".py", ".md", ".env", ".yaml")]
    )
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    addresses = set(re.findall(r"\b([a-z][a-z0-9-]*)\.kubeflow(?:\.svc[a-z.]*)?:(\d+)", text))
    assert {(service, port) for service, port in addresses if int(port) not in SERVICES.get(service, ())} == set()
    assert re.findall(r"minio[-]service", text) == []


def test_each_role_is_bound_to_its_accounts_and_uses_no_wildcards():
    found = build("")
    bound = {}
    for (kind, name), one in found.items():
        if kind == "RoleBinding":
            role = found[one["roleRef"]["kind"], one["roleRef"]["name"]]
            assert {"*"}.isdisjoint(word for rule in role["rules"] for words in rule.values() for word in words)
            secrets = [rule for rule in role["rules"] if "secrets" in rule["resources"]]
            assert [rule for rule in secrets if not rule.get("resourceNames") or rule["verbs"] != ["get"]] == []
            bound[name] = sorted(subject["name"] for subject in one["subjects"])
    assert bound == {"kfp-vision-stages": ["kfp-vision-stages", "pipeline-runner"], "kfp-vision-runs": ["kfp-vision-stages"]}


@pytest.mark.parametrize("folder", ["", "namespace"])
def test_the_stages_accounts_may_only_list_nodes_cluster_wide(folder):
    found = build(folder)
    roles = {name: one for (kind, name), one in found.items() if kind == "ClusterRole"}
    (role,) = roles.values()
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
    (binding,) = [one for (kind, _), one in found.items() if kind == "ClusterRoleBinding"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kfp-vision-nodes"}
    assert roles.keys() == {"kfp-vision-nodes"}
    # KFP 2.17, manifests/kustomize/base/pipeline/pipeline-runner-sa.yaml, and ours, in either of the namespaces.
    accounts = {("kubeflow", "pipeline-runner"), ("kubeflow", "kfp-vision-stages"), ("kfp-vision", "kfp-vision-stages")}
    assert {(subject["namespace"], subject["name"]) for subject in binding["subjects"]} == accounts
    assert {subject["kind"] for subject in binding["subjects"]} == {"ServiceAccount"}
    assert binding == build("")["ClusterRoleBinding", "kfp-vision-nodes"]  # the same, since the last one applied wins


@pytest.mark.parametrize("folder", ["", "namespace"])
def test_the_cluster_role_is_optional(folder, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "manifests")
    kustomization = tmp_path / "manifests" / folder / "kustomization.yaml"
    content = yaml.safe_load(kustomization.read_text(encoding="utf-8"))
    del content["components"]
    kustomization.write_text(yaml.safe_dump(content), encoding="utf-8")
    remaining = build(kustomization.parent)
    removed = build(folder).keys() - remaining.keys()
    assert removed == {("ClusterRole", "kfp-vision-nodes"), ("ClusterRoleBinding", "kfp-vision-nodes")}


def test_the_pages_command_gives_the_accounts_of_a_profile_the_same_role():
    (block,) = [block for block in code_blocks(PAGE.read_text(encoding="utf-8")) if "create clusterrolebinding" in block]
    role, binding = (shlex.split(line) for line in block.replace("\\\n", "").splitlines())
    assert role == ["kubectl", "apply", "-f", "manifests/nodes/cluster-role.yaml"]
    (made,) = kubectl(*binding[1:], "--dry-run=client", "--output=yaml")
    assert made["roleRef"]["name"] == read("nodes/cluster-role.yaml")["metadata"]["name"]
    subjects = {(subject["namespace"], subject["name"]) for subject in made["subjects"]}
    assert subjects == {("team-a", "default-editor"), ("team-a", "kfp-vision-stages")}


# The requests of run_state.py, to Kubernetes and to a multi-user KFP (backend/src/apiserver/common/const.go).
@pytest.mark.parametrize(
    ("group", "resource", "verb"),
    [
        ("argoproj.io", "workflows", "get"),
        ("", "pods", "get"),
        ("", "pods/log", "get"),
        ("pipelines.kubeflow.org", "runs", "get"),
        ("pipelines.kubeflow.org", "runs", "readArtifact"),
    ],
)
def test_our_service_account_may_read_the_state_of_a_run(group, resource, verb):
    found = build("")
    bound = [one for (kind, _), one in found.items() if kind == "RoleBinding"]
    our_bindings = [one for one in bound if "kfp-vision-stages" in {subject["name"] for subject in one["subjects"]}]
    rules = [
        rule for one in our_bindings for rule in found["Role", one["roleRef"]["name"]]["rules"] if not rule.get("resourceNames")
    ]
    assert [rule for rule in rules if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_secret_template_has_the_keys_in_use_without_values(name):
    (secret,) = kubectl(
        "create", "secret", "generic", name, f"--from-env-file={FOLDER}/secrets/{name}.env", "--dry-run=client", "--output=yaml"
    )
    secret["metadata"].pop("creationTimestamp", None)  # null, in older versions
    assert published_schemas.faults(secret) == []
    assert secret["data"] == dict.fromkeys(TEMPLATES[name], "")


def test_the_registry_secret_template_is_a_docker_configuration():
    (host,) = json.loads((FOLDER / "secrets" / f"{pods.REGISTRY_SECRET}.dockerconfigjson").read_text())["auths"].items()
    assert host == ("registry.example.org", {"username": "", "password": ""})


def test_secret_templates_are_not_applied_with_the_manifests():
    assert [file.name for file in (FOLDER / "secrets").iterdir() if file.suffix in (".yaml", ".yml", ".json")] == []
    assert sorted(file.stem for file in (FOLDER / "secrets").iterdir()) == sorted([*TEMPLATES, pods.REGISTRY_SECRET])
    assert [kind for folder in ("", "namespace") for kind, _ in build(folder) if kind == "Secret"] == []
    assert read("base/service-account-models.yaml")["secrets"] == [{"name": "kfp-vision-models"}]


def test_the_page_describes_every_file():
    page = PAGE.read_text(encoding="utf-8")
    files = [str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*") if file.is_file() and file.name != "README.md"]
    described = [file for file in files if f"`{file}`" in page or file.startswith("pipelines/")]
    assert sorted(described) == sorted(files) and "`pipelines/`" in page


def code_blocks(page: str) -> list[str]:
    """Returns the indented blocks of a page: commands and examples."""
    return [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)]


def test_the_pages_example_sets_the_registry_of_the_runtime(tmp_path):
    (images,) = [block for block in code_blocks(PAGE.read_text(encoding="utf-8")) if block.startswith("images:")]
    shutil.copytree(FOLDER / "runtime", tmp_path / "runtime")
    with (tmp_path / "runtime" / "kustomization.yaml").open("a") as kustomization:
        kustomization.write(images)
    runtime = build(tmp_path / "runtime")["ServingRuntime", "kfp-vision"]
    assert runtime["spec"]["containers"][0]["image"] == f"registry.example.org/team/{SERVE_NAME}"


def test_the_pages_settings_make_sidecars_and_init_containers_meet_restricted_pod_security():
    page = code_blocks(PAGE.read_text(encoding="utf-8"))
    (executor,) = [yaml.safe_load(yaml.safe_load(block)["executor"]) for block in page if block.startswith("executor:")]
    (patch,) = [json.loads(block.split("'")[1]) for block in page if block.startswith("kubectl patch")]
    storage_initializer = patch["spec"]["container"]
    assert executor.keys() == storage_initializer.keys() == {"securityContext"}
    pod = {"containers": [{"name": "wait", **executor}, {"name": "storage-initializer", **storage_initializer}]}
    assert pod_security.violations(pod) == []


@pytest.mark.parametrize(("name", "image", "gpus"), [("", SERVE_IMAGE, 0), ("-gpu", GPU_IMAGE, 1)])
def test_the_serving_runtimes_match_what_the_deployment_creates(name, image, gpus):
    found = read(f"runtime/serving-runtime{name}.yaml")
    runtime = found["spec"]
    (model_format,) = runtime["supportedModelFormats"]
    assert found["metadata"]["name"] == f"kfp-vision{name}" and model_format["name"] == "kfp-vision"
    assert model_format["autoSelect"] == (not gpus)  # of two runtimes for a format, only one may be chosen by it
    (container,) = runtime["containers"]
    settings = deployment_settings({"service_image": image, "service_gpus": gpus})
    expected = kserve.manifest("{{.Name}}", "s3://bucket/model", "", settings)
    (made,) = expected["spec"]["predictor"]["containers"]
    assert container["image"] == image
    asked = made["resources"]["limits"][kserve.GPU_RESOURCE]
    assert container["resources"]["limits"].get(kserve.GPU_RESOURCE) == asked == (str(gpus) if gpus else None)
    shared_keys = ("name", "image", "command", "args", "ports", "readinessProbe", "securityContext", "terminationMessagePolicy")
    assert {key: container[key] for key in shared_keys} == {key: made[key] for key in shared_keys}
    assert runtime["labels"] == expected["metadata"]["labels"] == kserve.SERVICE_LABELS
    assert pod_security.violations({"containers": [container]}) == []


def test_the_pages_service_of_ones_own_is_valid_and_names_an_engine():
    page = (FOLDER.parent / "docs" / "how-to" / "kserve.md").read_text(encoding="utf-8")
    (service,) = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert published_schemas.faults(service) == []
    model = service["spec"]["predictor"]["model"]
    runtime = read("runtime/serving-runtime.yaml")["spec"]
    assert model["modelFormat"]["name"] in [one["name"] for one in runtime["supportedModelFormats"]]
    assert {one["name"]: one["value"] for one in model["env"]} == {ENGINE_VARIABLE: OPENVINO_INT8}


def test_with_the_deployments_settings_kserves_stock_runtime_meets_restricted_pod_security():
    # KServe 0.20, config/runtimes/kserve-tensorflow-serving.yaml
    stock = {"runAsUser": 1000, "allowPrivilegeEscalation": False, "privileged": False, "runAsNonRoot": True}
    container = {"name": "kserve-container", "securityContext": stock | {"capabilities": {"drop": ["ALL"]}}}
    assert pod_security.violations({"containers": [container]}) == ["seccompProfile of kserve-container"]
    expected = kserve.manifest("flowers", "s3://bucket/model", "", deployment_settings({"service_runtime": "tensorflow"}))
    container["securityContext"] |= expected["spec"]["predictor"]["model"]["securityContext"]
    assert pod_security.violations({"containers": [container]}) == []
