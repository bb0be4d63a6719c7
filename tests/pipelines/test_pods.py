"""The pods of the stages: resources, deadlines, retries, secrets and nodes, as the committed pipelines specify them."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from support import pod_security, pod_specs, published_schemas

from kfp_vision import REGISTRY, __version__
from kfp_vision.pipelines import PIPELINES

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("stage", "image", "cores", "memory", "room", "time", "tries", "cached", "secrets", "node")
TABLE = """
call_endpoint       kfp-vision      1-8     2Gi-8Gi    100Gi   12h   3  no   storage  any
check_collected     kfp-vision      250m-2  256Mi-2Gi  10Gi    10m   1  no   storage,registries  any
collect_logged      kfp-vision      1-8     2Gi-8Gi    100Gi   12h   3  no   storage  any
check_drift         kfp-vision      250m-2  256Mi-2Gi  100Gi   12h   3  no   storage  any
check_prediction    kfp-vision      250m-2  256Mi-2Gi  10Gi    10m   1  no   storage,registries  any
check_preparation   kfp-vision      250m-2  256Mi-2Gi  10Gi    10m   1  no   storage  any
check_review        kfp-vision      250m-2  256Mi-2Gi  10Gi    10m   1  no   storage,registries  any
check_run           kfp-vision      250m-2  1Gi-4Gi    10Gi    10m   1  no   storage,registries  any
check_search        kfp-vision      250m-2  1Gi-4Gi    10Gi    10m   1  no   storage,registries  any
check_sweep         kfp-vision      250m-2  1Gi-4Gi    10Gi    10m   1  no   storage,registries  any
check_training      kfp-vision      250m-2  1Gi-4Gi    10Gi    10m   1  no   storage,registries  any
audit_images        kfp-vision      1-8     2Gi-8Gi    100Gi   12h   3  yes  none     any
choose_trials       kfp-vision      250m-2  256Mi-2Gi  10Gi    1h    3  yes  none     any
compare_trials      kfp-vision      250m-2  256Mi-2Gi  100Gi   6h    3  yes  none     any
decide_training     kfp-vision      250m-2  256Mi-2Gi  10Gi    12h   3  no   storage  any
check_serving       kfp-vision      1-8     2Gi-8Gi    100Gi   12h   3  no   none     any
deploy_index        kfp-vision      250m-2  256Mi-2Gi  500Gi   12h   3  no   storage  any
deploy_model        kfp-vision      250m-2  256Mi-2Gi  100Gi   12h   3  no   storage  any
evaluate_classifier kfp-vision      1-8     2Gi-8Gi    100Gi   12h   3  no   storage  any
export_model        kfp-vision      1-8     2Gi-8Gi    500Gi   24h   3  no   storage  any
fetch_embedder      kfp-vision      1-8     2Gi-8Gi    100Gi   12h   3  no   storage,registries  any
fetch_records       kfp-vision      1-8     512Mi-8Gi  500Gi   24h   3  no   storage  any
fetch_model         kfp-vision      250m-2  256Mi-2Gi  100Gi   12h   3  no   storage,registries  any
fingerprint_images  kfp-vision      250m-2  256Mi-2Gi  10Gi    12h   3  no   storage  any
index_images        kfp-vision      1-8     2Gi-8Gi    500Gi   72h   3  yes  storage  any
ingest_images       kfp-vision      1-8     512Mi-8Gi  500Gi   24h   3  yes  storage  any
join_index          kfp-vision      1-8     2Gi-8Gi    500Gi   24h   3  yes  none     any
join_predictions    kfp-vision      250m-2  256Mi-2Gi  100Gi   6h    3  yes  none     any
join_records        kfp-vision      1-8     512Mi-8Gi  500Gi   24h   3  yes  none     any
list_images         kfp-vision      1-8     512Mi-8Gi  500Gi   24h   3  yes  storage  any
partition_records   kfp-vision      250m-2  256Mi-2Gi  10Gi    1h    3  yes  none     any
predict_images      kfp-vision      1-8     2Gi-8Gi    500Gi   72h   3  no   storage  any
register_model      kfp-vision      250m-2  256Mi-2Gi  100Gi   1h    3  no   storage,registries  any
report_outcome      kfp-vision      250m-2  256Mi-2Gi  10Gi    10m   3  no   webhook  any
review_images       kfp-vision      1-8     2Gi-8Gi    500Gi   72h   3  no   storage  any
search_images       kfp-vision      1-8     2Gi-8Gi    100Gi   12h   3  no   storage  any
split_images        kfp-vision      250m-2  256Mi-8Gi  10Gi    6h    3  yes  none     any
train_classifier    kfp-vision-gpu  2-16    4Gi-32Gi   500Gi   336h  3  yes  storage,registries  gpu,selector,tolerations
train_trial         kfp-vision-gpu  2-16    4Gi-32Gi   500Gi   336h  3  yes  storage,registries  gpu,selector,tolerations
write_partition     kfp-vision      1-8     512Mi-8Gi  500Gi   24h   3  yes  storage  any
write_tfrecords     kfp-vision      1-8     512Mi-8Gi  500Gi   24h   3  yes  storage  any
"""


def pod_rows(name: str) -> dict[str, tuple[str, ...]]:
    """Returns the row of each stage, read from a committed pipeline."""
    spec, platform = yaml.safe_load_all((ROOT / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8"))
    executors = spec["deploymentSpec"]["executors"]
    on_kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    graphs = [spec["root"], *(one for one in spec["components"].values() if "dag" in one)]
    tasks = {task["componentRef"]["name"]: task for graph in graphs for task in graph["dag"]["tasks"].values()}
    rows = {}
    for component, task in tasks.items():
        if "executorLabel" not in spec["components"][component]:
            continue
        executor = spec["components"][component]["executorLabel"]
        container, pod = executors[executor]["container"], on_kubernetes[executor]
        image, version = container["image"].removeprefix(f"{REGISTRY}/").split(":")
        assert version == __version__
        resources, (mount,) = container["resources"], pod["emptyDirMounts"]
        assert mount["mountPath"] == "/tmp" and pod["imagePullPolicy"] == "IfNotPresent"
        assert [secret["secretName"] for secret in pod["imagePullSecret"]] == ["kfp-vision-registry"]
        assert pod["securityContext"] == {"runAsNonRoot": True}
        assert pod["podMetadata"]["labels"].items() >= {"kfp-vision/role": "stage"}.items()
        retries = task.get("retryPolicy", {}).get("maxRetryCount", 0)
        seconds = int(pod["activeDeadlineSeconds"])
        if retries:
            expected = {"backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": f"{seconds * 3}s"}
            assert task["retryPolicy"] == expected | {"maxRetryCount": 2}
        secrets = [secret["secretName"].removeprefix("kfp-vision-") for secret in pod.get("secretAsEnv", [])]
        node = ["gpu"] * ("accelerator" in resources)
        node += ["selector"] * ("nodeSelector" in pod) + ["tolerations"] * ("tolerations" in pod)
        rows[component.removeprefix("comp-").replace("-", "_")] = (
            image,
            f"{resources['resourceCpuRequest']}-{resources['resourceCpuLimit']}",
            f"{resources['resourceMemoryRequest']}-{resources['resourceMemoryLimit']}",
            mount["sizeLimit"],
            f"{seconds // 3600}h" if seconds >= 3600 else f"{seconds // 60}m",
            str(1 + retries),
            "yes" if task["cachingOptions"].get("enableCache") else "no",
            ",".join(secrets) or "none",
            ",".join(node) or "any",
        )
    return rows


@pytest.mark.parametrize("name", PIPELINES)
def test_each_stage_has_the_resources_in_the_table(name):
    rows = {stage: tuple(row) for stage, *row in map(str.split, TABLE.strip().splitlines())}
    found = pod_rows(name)
    assert {stage: dict(zip(COLUMNS[1:], row, strict=True)) for stage, row in found.items()} == {
        stage: dict(zip(COLUMNS[1:], rows[stage], strict=True)) for stage in found
    }


def test_the_table_lists_exactly_the_stages_of_the_pipelines():
    assert {line.split()[0] for line in TABLE.strip().splitlines()} == {stage for name in PIPELINES for stage in pod_rows(name)}


@pytest.mark.parametrize("name", PIPELINES)
def test_each_stages_pod_is_valid_and_meets_restricted_pod_security(name):
    pods = pod_specs.pods(name)
    assert len(pods) >= len(pod_rows(name)) > 0
    assert {stage: published_schemas.faults(pod) + pod_security.violations(pod["spec"]) for stage, pod in pods.items()} == {
        stage: [] for stage in pods
    }


@pytest.fixture
def training_pod() -> dict:
    return copy.deepcopy(pod_specs.pods("image_classification")["exec-train-classifier"])


def test_a_pod_has_everything_that_the_pipeline_specifies(training_pod):
    (_, main), spec = training_pod["spec"]["containers"], training_pod["spec"]
    assert main["resources"] == {
        "limits": {"cpu": "16", "memory": "32Gi", "nvidia.com/gpu": "1"},
        "requests": {"cpu": "2", "memory": "4Gi"},
    }
    key = {"secretKeyRef": {"name": "kfp-vision-storage", "key": "AWS_ACCESS_KEY_ID", "optional": True}}
    assert {"name": "AWS_ACCESS_KEY_ID", "valueFrom": key} in main["env"]
    assert {"name": "tmp", "emptyDir": {"sizeLimit": "500Gi"}} in spec["volumes"]
    assert (spec["activeDeadlineSeconds"], spec["nodeSelector"], len(spec["tolerations"])) == (14 * 86400, {"disk": "ssd"}, 1)


@pytest.mark.parametrize("resource", ["amd.com/gpu", "nvidia.com/mig-1g.10gb", "gpu.intel.com/i915"])
@pytest.mark.parametrize("name", [name for name in PIPELINES if "gpu_type" in PIPELINES[name].component_spec.inputs])
def test_any_gpu_resource_of_the_form_reaches_the_pod_of_the_training(name, resource, monkeypatch):
    monkeypatch.setitem(pod_specs.FIELDS, "gpu_type", resource)
    pods = pod_specs.pods.__wrapped__(name)
    limits = {stage: pod["spec"]["containers"][1]["resources"]["limits"] for stage, pod in pods.items()}
    gpus = {stage: {one: count for one, count in limits[stage].items() if "/" in one} for stage in pods}
    training = "exec-train-trial" if name == "hyperparameter_sweep" else "exec-train-classifier"
    assert {stage: asked for stage, asked in gpus.items() if asked} == {training: {resource: "1"}}
    assert published_schemas.faults(pods[training]) == []


def test_restricted_pod_security_needs_the_pipelines_run_as_non_root(training_pod):
    del training_pod["spec"]["containers"][1]["securityContext"]["runAsNonRoot"]
    assert pod_security.violations(training_pod["spec"]) == ["runAsNonRoot of main"]


def test_a_pod_without_kfps_security_context_is_rejected(training_pod):
    for container in training_pod["spec"]["initContainers"] + training_pod["spec"]["containers"]:
        container["securityContext"] = {"runAsNonRoot": True} if container["name"] == "main" else {}
    del training_pod["spec"]["securityContext"]
    found = pod_security.violations(training_pod["spec"])
    broken = {name: [line.split()[0] for line in found if line.split()[-1] == name] for name in ("main", "wait")}
    assert broken["main"] == ["allowPrivilegeEscalation", "capabilities", "seccompProfile"]
    assert broken["wait"] == ["allowPrivilegeEscalation", "capabilities", "runAsNonRoot", "seccompProfile"]


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        (("hostNetwork",), True, "hostNetwork of the pod"),
        (("hostPID",), True, "hostPID of the pod"),
        (("volumes", 0), {"name": "root", "hostPath": {"path": "/"}}, "volume type of root"),
        (("securityContext", "sysctls"), [{"name": "kernel.msgmax", "value": "1"}], "sysctl kernel.msgmax"),
        (("securityContext", "runAsUser"), 0, "runAsUser of the pod"),
        (("securityContext", "windowsOptions"), {"hostProcess": True}, "hostProcess of the pod"),
        (("securityContext", "seLinuxOptions"), {"type": "spc_t"}, "seLinuxOptions of the pod"),
        (("containers", 1, "securityContext", "runAsUser"), 0, "runAsUser of main"),
        (("containers", 1, "securityContext", "runAsNonRoot"), False, "runAsNonRoot of main"),
        (("containers", 1, "securityContext", "privileged"), True, "privileged of main"),
        (("containers", 1, "securityContext", "allowPrivilegeEscalation"), True, "allowPrivilegeEscalation of main"),
        (("containers", 1, "securityContext", "capabilities"), {"drop": ["NET_RAW"]}, "capabilities of main"),
        (("containers", 1, "securityContext", "capabilities", "add"), ["SYS_ADMIN"], "capabilities of main"),
        (("containers", 1, "securityContext", "seccompProfile"), {"type": "Unconfined"}, "seccompProfile of main"),
        (("containers", 1, "securityContext", "appArmorProfile"), {"type": "Unconfined"}, "appArmorProfile of main"),
        (("containers", 1, "securityContext", "procMount"), "Unmasked", "procMount of main"),
        (("containers", 1, "ports"), [{"containerPort": 80, "hostPort": 80}], "hostPort of main"),
        (("containers", 1, "livenessProbe"), {"httpGet": {"port": 80, "host": "10.0.0.1"}}, "host of a probe of main"),
        (("initContainers", 0, "securityContext", "runAsNonRoot"), False, "runAsNonRoot of init"),
    ],
)
def test_each_rule_of_restricted_pod_security_is_checked(training_pod, path, value, found):
    node = training_pod["spec"]
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert pod_security.violations(training_pod["spec"]) == [found]


@pytest.mark.parametrize("name", PIPELINES)
def test_accelerators_node_selector_and_tolerations_reach_stages_in_conditions_and_loops(name):
    spec, platform = yaml.safe_load_all((ROOT / "pipelines" / f"{name}.yaml").read_text(encoding="utf-8"))
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    found = []
    for component in (one for one in spec["components"].values() if "dag" in one):
        gpus = {
            f"pipelinechannel--{one}-gpus" for one in component["dag"]["tasks"]
        }  # counts given by a stage of the same group
        available = component.get("inputDefinitions", {}).get("parameters", {}).keys() | gpus
        for task in component["dag"]["tasks"].values():
            label = spec["components"][task["componentRef"]["name"]].get("executorLabel")
            settings = yaml.safe_dump(
                [pods.get(label), spec["deploymentSpec"]["executors"].get(label, {}).get("container", {}).get("resources")]
            )
            used = set(re.findall(r"pipelinechannel--[\w-]+", settings))
            assert used <= available, label
            found += used
    inputs = PIPELINES[name].component_spec.inputs.keys()
    fields = {"gpu_type", "node_selector", "tolerations"} & inputs
    field_names = {one.removeprefix("pipelinechannel--") for one in found if not one.endswith("-gpus")}
    assert field_names == fields
    assert [one for one in found if one.endswith("-gpus")] == [
        one for one in found if one.startswith("pipelinechannel--check-")
    ]
    assert len(found) == len(fields) + ("gpu_count" in inputs)
