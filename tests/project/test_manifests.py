"""Every manifest is what Kubernetes and KServe publish of its kind, and fits the rest of the house."""

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
from kfp_vision.components.images import CPU_IMAGE
from kfp_vision.core.advanced import deployment_settings
from kfp_vision.deployment import kserve
from kfp_vision.pipelines import ending, pods
from kfp_vision.reports import outcome, run_state
from kfp_vision.storage import base

FOLDER = Path(__file__).resolve().parents[2] / "manifests"
PAGE = FOLDER / "README.md"
FOLDERS = ("base", "namespace", "nodes")
APART = ("runtime",)  # applied by itself, where KServe is
FILES = sorted(
    f"{folder}/{file.name}"
    for folder in FOLDERS + APART
    for file in (FOLDER / folder).glob("*.yaml")
    if file.stem != "kustomization"
)
TEMPLATES = {
    pods.STORAGE_SECRET: base.ENVIRONMENT_VARIABLES,
    ending.WEBHOOK_SECRET: outcome.REPORT_ENVIRONMENT,
    "kfp-vision-models": (of_kserve.S3_ACCESS_KEY_ID_DEFAULT_NAME, of_kserve.S3_SECRET_ACCESS_KEY_DEFAULT_NAME),
}


def read(name: str) -> dict:
    (document,) = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return document


def kubectl(*arguments: object) -> list[dict]:
    """What kubectl makes, without a cluster."""
    done = subprocess.run([program("kubectl"), *map(str, arguments)], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def built(folder: str | Path) -> dict[tuple[str, str], dict]:
    """What a kustomization applies, by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in kubectl("kustomize", FOLDER / folder)}


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_passes_its_published_schema(name):
    assert published_schemas.faults(read(name)) == []


@pytest.mark.parametrize("file", sorted((FOLDER / "pipelines").glob("[!k]*.yaml")), ids=lambda file: file.stem)
def test_a_pipeline_is_what_kfp_publishes_of_its_kind(file):
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
        ("nodes/cluster-role.yaml", ("rules", 0, "resource"), ["nodes"]),
        ("nodes/cluster-role-binding.yaml", ("subjects", 0, "name"), None),
    ],
)
def test_a_manifest_with_a_fault_does_not_pass(name, path, value):
    document = read(name)
    within = document
    for step in path[:-1]:
        within = within[step]
    within[path[-1]] = value
    assert published_schemas.faults(document) != []


OF_THE_CLUSTER = {"Namespace", "ClusterRole", "ClusterRoleBinding"}  # kinds in no namespace


@pytest.mark.parametrize(
    ("folder", "namespace", "parts"),
    [
        ("", "kubeflow", ("base", "nodes")),
        ("namespace", "kfp-vision", FOLDERS),
        ("base", None, ("base",)),
        ("runtime", None, APART),
    ],
)
def test_kustomize_builds_every_manifest_into_its_namespace(folder, namespace, parts):
    files = [name for name in FILES if name.startswith(parts)]
    wanted = {(one["kind"], one["metadata"]["name"]) for one in map(read, files)}
    found = built(folder)
    assert found.keys() == wanted
    assert [one for one in found.values() if published_schemas.faults(one)] == []
    assert {one["metadata"].get("namespace") for key, one in found.items() if key[0] not in OF_THE_CLUSTER} == {namespace}
    assert {one["metadata"].get("namespace") for key, one in found.items() if key[0] in OF_THE_CLUSTER} <= {None}
    assert ("Namespace" in {kind for kind, _ in found}) == (folder == "namespace")


@pytest.mark.parametrize("folder", ["", "namespace", "base"])
def test_what_every_cluster_gets_holds_nothing_that_only_kserve_knows(folder):
    assert {one["apiVersion"] for one in built(folder).values() if one["apiVersion"].startswith("serving.kserve.io/")} == set()


def test_kustomize_takes_every_pipeline_there_is():
    files = sorted(file.name for file in (FOLDER / "pipelines").glob("[!k]*.yaml"))
    assert read("pipelines/kustomization.yaml")["resources"] == files
    assert {one["metadata"]["namespace"] for one in built("pipelines").values()} == {"kubeflow"}


def test_pod_security_is_restricted_by_the_rules_of_one_version():
    labels = read("namespace/namespace.yaml")["metadata"]["labels"]
    said = {label.partition("/")[2]: value for label, value in labels.items() if label.startswith("pod-security.")}
    modes = ("enforce", "warn", "audit")
    versions = {f"{mode}-version": f"v{published_schemas.OLDEST_KUBERNETES}" for mode in modes}
    assert said == dict.fromkeys(modes, "restricted") | versions


@pytest.mark.parametrize("name", ["kfp-vision-stages", "kfp-vision-models"])
def test_a_network_policy_denies_all_it_does_not_name_to_the_pods_it_is_for(name):
    spec = built("base")["NetworkPolicy", name]["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    label = dict([pods.ROLE]) if name == "kfp-vision-stages" else kserve.SERVICE_LABELS
    assert spec["podSelector"] == {"matchLabels": label}
    assert [rule for rule in spec["egress"] if not rule.get("to") or not rule.get("ports")] == []
    assert [rule for rule in spec.get("ingress", []) if not rule.get("from") or not rule.get("ports")] == []
    assert ("ingress" in spec) == (name == "kfp-vision-models")  # nobody reaches a stage
    outside = [peer["ipBlock"] for rule in spec["egress"] for peer in rule["to"] if "ipBlock" in peer]
    wide = {block["cidr"]: block["except"] for block in outside if block["cidr"].endswith("/0")}
    assert "169.254.0.0/16" in wide["0.0.0.0/0"] and "fd00:ec2::254/128" in wide["::/0"]


def reached(policy: dict, namespace: str, labels: dict[str, str]) -> set[int]:
    """The ports at which a network policy lets its pods reach a pod of some labels in a namespace."""
    within = {"kubernetes.io/metadata.name": namespace}
    return {
        port["port"]
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
        if "ipBlock" not in peer and selects(peer.get("namespaceSelector"), within) and selects(peer.get("podSelector"), labels)
        for port in rule["ports"]
        if port["protocol"] == "TCP"
    }


def selects(selector: dict | None, labels: dict[str, str]) -> bool:
    wanted = (selector or {}).get("matchLabels", {}).items()
    listed = (selector or {}).get("matchExpressions", [])
    assert {expression["operator"] for expression in listed} <= {"In"}
    return wanted <= labels.items() and all(labels.get(one["key"]) in one["values"] for one in listed)


# Labels and ports of pods as KFP 2.17 makes them: manifests/kustomize/base and third-party/seaweedfs.
@pytest.mark.parametrize(
    ("namespace", "labels", "ports"),
    [
        ("kubeflow", {"app": "ml-pipeline"}, {8887, run_state.API_PORT}),
        ("kubeflow", {"component": "metadata-grpc-server"}, {8080}),
        ("kubeflow", {"app": "seaweedfs"}, {8333}),
        ("kubeflow", {"app": "mysql"}, set()),
        ("kubeflow", {"app": "ml-pipeline-ui"}, set()),
        ("elsewhere", {"app": "ml-pipeline"}, set()),
        ("elsewhere", kserve.SERVICE_LABELS, {kserve.PORT, 8012}),
        ("elsewhere", dict([pods.ROLE]), set()),
        ("istio-system", {"app": "istio-ingressgateway"}, {8080, 8081, 8012}),
    ],
)
def test_stages_reach_of_the_cluster_what_they_need_and_nothing_else(namespace, labels, ports):
    of_names = {53, 5353}  # at any pod
    assert reached(built("")["NetworkPolicy", "kfp-vision-stages"], namespace, labels) == ports | of_names


def empty(value: object, where: str = "") -> list[str]:
    """Where lists are empty in a document."""
    within = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where] * (value == []) + [found for key, one in within for found in empty(one, f"{where}.{key}")]


@pytest.mark.parametrize("name", FILES)
def test_applied_again_a_manifest_changes_nothing(name):
    # The API server leaves out an empty list, and kubectl then finds it missing and says `configured` each time.
    assert empty(read(name)) == []


# Services of KFP 2.17 and their ports: manifests/kustomize/base/pipeline and third-party/seaweedfs.
SERVICES = {"ml-pipeline": {8887, 8888}, "seaweedfs": {8111, 8333, 8888, 9000, 9333, 18888, 19333}}


@pytest.mark.parametrize("folder", ["README.md", "components", "kfp_vision", "manifests", "pipelines", "tests"])
def test_an_address_in_kubeflow_is_one_of_kfps_services(folder):
    place = FOLDER.parent / folder
    files = (
        [place] if place.is_file() else [file for file in place.rglob("*") if file.suffix in (".py", ".md", ".env", ".yaml")]
    )
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = set(re.findall(r"\b([a-z][a-z0-9-]*)\.kubeflow(?:\.svc[a-z.]*)?:(\d+)", text))
    assert {(service, port) for service, port in named if int(port) not in SERVICES.get(service, ())} == set()
    assert re.findall(r"minio[-]service", text) == []


def test_each_role_is_bound_to_who_needs_it_and_gives_no_right_to_everything():
    found = built("")
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
def test_who_runs_the_stages_may_list_the_nodes_and_nothing_else_of_the_cluster(folder):
    found = built(folder)
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
    assert binding == built("")["ClusterRoleBinding", "kfp-vision-nodes"]  # whichever is applied last


@pytest.mark.parametrize("folder", ["", "namespace"])
def test_without_its_line_the_right_of_the_whole_cluster_is_left_out(folder, tmp_path):
    shutil.copytree(FOLDER, tmp_path / "manifests")
    kustomization = tmp_path / "manifests" / folder / "kustomization.yaml"
    content = yaml.safe_load(kustomization.read_text(encoding="utf-8"))
    del content["components"]
    kustomization.write_text(yaml.safe_dump(content), encoding="utf-8")
    left = built(kustomization.parent)
    gone = built(folder).keys() - left.keys()
    assert gone == {("ClusterRole", "kfp-vision-nodes"), ("ClusterRoleBinding", "kfp-vision-nodes")}


def test_the_page_gives_the_accounts_of_a_profile_the_same_right():
    (block,) = [block for block in blocks(PAGE.read_text(encoding="utf-8")) if "create clusterrolebinding" in block]
    role, binding = (shlex.split(line) for line in block.replace("\\\n", "").splitlines())
    assert role == ["kubectl", "apply", "-f", "manifests/nodes/cluster-role.yaml"]
    (made,) = kubectl(*binding[1:], "--dry-run=client", "--output=yaml")
    assert made["roleRef"]["name"] == read("nodes/cluster-role.yaml")["metadata"]["name"]
    subjects = {(subject["namespace"], subject["name"]) for subject in made["subjects"]}
    assert subjects == {("team-a", "default-editor"), ("team-a", "kfp-vision-stages")}


# What runs.py asks: of Kubernetes, and of a KFP that knows its users (backend/src/apiserver/common/const.go).
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
def test_our_own_account_may_ask_how_a_run_went(group, resource, verb):
    found = built("")
    bound = [one for (kind, _), one in found.items() if kind == "RoleBinding"]
    ours = [one for one in bound if "kfp-vision-stages" in {subject["name"] for subject in one["subjects"]}]
    rules = [rule for one in ours for rule in found["Role", one["roleRef"]["name"]]["rules"] if not rule.get("resourceNames")]
    assert [rule for rule in rules if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_the_keys_that_are_read_and_no_value(name):
    (secret,) = kubectl(
        "create", "secret", "generic", name, f"--from-env-file={FOLDER}/secrets/{name}.env", "--dry-run=client", "--output=yaml"
    )
    secret["metadata"].pop("creationTimestamp", None)  # of older versions, and null
    assert published_schemas.faults(secret) == []
    assert secret["data"] == dict.fromkeys(TEMPLATES[name], "")


def test_the_template_of_the_registrys_secret_is_what_kubernetes_pulls_with():
    (host,) = json.loads((FOLDER / "secrets" / f"{pods.REGISTRY_SECRET}.dockerconfigjson").read_text())["auths"].items()
    assert host == ("registry.example.org", {"username": "", "password": ""})


def test_no_template_is_applied_with_a_folder():
    assert [file.name for file in (FOLDER / "secrets").iterdir() if file.suffix in (".yaml", ".yml", ".json")] == []
    assert sorted(file.stem for file in (FOLDER / "secrets").iterdir()) == sorted([*TEMPLATES, pods.REGISTRY_SECRET])
    assert [kind for folder in ("", "namespace") for kind, _ in built(folder) if kind == "Secret"] == []
    assert read("base/service-account-models.yaml")["secrets"] == [{"name": "kfp-vision-models"}]


def test_the_page_about_them_tells_of_every_file():
    page = PAGE.read_text(encoding="utf-8")
    files = [str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*") if file.is_file() and file.name != "README.md"]
    told = [file for file in files if f"`{file}`" in page or file.startswith("pipelines/")]
    assert sorted(told) == sorted(files) and "`pipelines/`" in page


def blocks(page: str) -> list[str]:
    """What a page shows indented: commands and examples."""
    return [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)]


def test_the_page_names_a_registry_for_the_runtime(tmp_path):
    (images,) = [block for block in blocks(PAGE.read_text(encoding="utf-8")) if block.startswith("images:")]
    shutil.copytree(FOLDER / "runtime", tmp_path / "runtime")
    with (tmp_path / "runtime" / "kustomization.yaml").open("a") as kustomization:
        kustomization.write(images)
    (runtime,) = built(tmp_path / "runtime").values()
    assert runtime["spec"]["containers"][0]["image"] == f"registry.example.org/team/{CPU_IMAGE}"


def test_what_the_page_has_the_owner_say_of_the_containers_beside_lets_them_in_where_pod_security_is_restricted():
    page = blocks(PAGE.read_text(encoding="utf-8"))
    (executor,) = [yaml.safe_load(yaml.safe_load(block)["executor"]) for block in page if block.startswith("executor:")]
    (patch,) = [json.loads(block.split("'")[1]) for block in page if block.startswith("kubectl patch")]
    fetching = patch["spec"]["container"]
    assert executor.keys() == fetching.keys() == {"securityContext"}
    pod = {"containers": [{"name": "wait", **executor}, {"name": "storage-initializer", **fetching}]}
    assert pod_security.violations(pod) == []


def test_the_runtime_is_what_the_deployment_makes_itself():
    runtime = read("runtime/serving-runtime.yaml")["spec"]
    (container,) = runtime["containers"]
    settings = deployment_settings({"service_image": CPU_IMAGE})
    wanted = kserve.manifest("{{.Name}}", "s3://bucket/model", "", settings)
    (made,) = wanted["spec"]["predictor"]["containers"]
    assert container["image"] == CPU_IMAGE
    same = ("name", "image", "command", "args", "ports", "readinessProbe", "securityContext", "terminationMessagePolicy")
    assert {key: container[key] for key in same} == {key: made[key] for key in same}
    assert runtime["labels"] == wanted["metadata"]["labels"] == kserve.SERVICE_LABELS
    assert pod_security.violations({"containers": [container]}) == []


def test_what_the_deployment_adds_to_kserves_stock_runtime_lets_it_in_where_pod_security_is_restricted():
    # KServe 0.20, config/runtimes/kserve-tensorflow-serving.yaml
    stock = {"runAsUser": 1000, "allowPrivilegeEscalation": False, "privileged": False, "runAsNonRoot": True}
    container = {"name": "kserve-container", "securityContext": stock | {"capabilities": {"drop": ["ALL"]}}}
    assert pod_security.violations({"containers": [container]}) == ["seccompProfile of kserve-container"]
    wanted = kserve.manifest("flowers", "s3://bucket/model", "", deployment_settings({"service_runtime": "tensorflow"}))
    container["securityContext"] |= wanted["spec"]["predictor"]["model"]["securityContext"]
    assert pod_security.violations({"containers": [container]}) == []
