"""Whether the nodes of a cluster can run the training, by the documented rules of Kubernetes."""

import pytest
from support.kubernetes_nodes import node

from kfp_vision.core.errors import InputError
from kfp_vision.preflight import nodes

GPU = "nvidia.com/gpu"
TAINT = {"key": "key1", "value": "value1", "effect": "NoSchedule"}


# https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration, "Concepts".
@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "key1", "operator": "Equal", "value": "value1", "effect": "NoSchedule"}, True),
        ({"key": "key1", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "key1", "value": "value1", "effect": "NoSchedule"}, True),  # the default for operator is Equal
        ({"key": "key1", "operator": "", "value": "value1", "effect": ""}, True),
        ({"key": "key1", "operator": "Exists"}, True),  # an empty effect matches all effects with key key1
        ({"operator": "Exists"}, True),  # an empty key with Exists matches all keys, values and effects
        ({"key": "", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "key1", "operator": "Equal", "value": "value2", "effect": "NoSchedule"}, False),
        ({"key": "key1", "operator": "Equal", "effect": "NoSchedule"}, False),
        ({"key": "key2", "operator": "Exists"}, False),
        ({"key": "key1", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "key1", "operator": "Exists", "effect": "PreferNoSchedule"}, False),
        ({"key": "Key1", "operator": "Exists"}, False),
    ],
)
def test_tolerations_match_taints_as_in_kubernetes(toleration, tolerated):
    assert nodes.tolerates(toleration, TAINT) == tolerated
    candidate = node("gpu-1", {GPU: "1"}, taints=[TAINT])
    assert (nodes.node_obstacle(candidate, nodes.NodeRequirements(GPU, 1, {}, [toleration])) is None) == tolerated


@pytest.mark.parametrize("toleration", [{"key": "key1"}, {"key": "key1", "operator": "Equal", "value": ""}])
def test_a_taint_without_value_matches_a_toleration_without_value(toleration):
    assert nodes.tolerates(toleration, {"key": "key1", "effect": "NoSchedule"})


@pytest.mark.parametrize(
    ("effects", "tolerations", "fits"),
    [
        # The example of that page: one taint with effect NoSchedule is not tolerated.
        (["NoSchedule", "NoExecute"], ["NoSchedule", "NoExecute"], True),
        (["NoSchedule", "NoExecute"], ["NoSchedule"], False),
        (["NoSchedule", "NoExecute"], ["NoExecute"], False),
        (["PreferNoSchedule"], [], True),
        (["NoExecute"], [], False),
    ],
)
def test_every_taint_that_repels_pods_must_be_tolerated(effects, tolerations, fits):
    candidate = node("one", taints=[{"key": "key1", "effect": effect} for effect in effects])
    accepted = [{"key": "key1", "operator": "Exists", "effect": effect} for effect in tolerations]
    assert (
        nodes.node_obstacle(candidate, nodes.NodeRequirements(GPU, 0, {"kubernetes.io/os": "linux"}, accepted)) is None
    ) == fits


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ({}, True),
        ({"pool": "gpu"}, True),
        ({"pool": "gpu", "kubernetes.io/arch": "amd64"}, True),
        ({"pool": "gpu", "zone": "a"}, False),  # each of the labels
        ({"pool": "GPU"}, False),
        ({"cores": "4"}, True),
        ({"cores": "Gt 3"}, False),  # a selector knows no operators, unlike an affinity
        ({"pool": ""}, False),
        ({"spot": ""}, True),
        ({"absent": ""}, False),
    ],
)
def test_a_node_must_have_every_label_of_the_selector(selector, fits):
    candidate = node("one", labels={"pool": "gpu", "cores": "4", "spot": ""})
    assert (nodes.node_obstacle(candidate, nodes.NodeRequirements(GPU, 0, selector)) is None) == fits


@pytest.mark.parametrize(
    ("resource", "allocatable", "count", "fits"),
    [
        (GPU, {GPU: "8"}, 8, True),
        (GPU, {GPU: "8"}, 9, False),
        (GPU, {GPU: "0"}, 1, False),  # a plugin that is gone
        (GPU, {}, 1, False),
        (GPU, {}, 0, True),
        (GPU, {"nvidia.com/mig-1g.10gb": "7"}, 1, False),
        ("nvidia.com/mig-1g.10gb", {"nvidia.com/mig-1g.10gb": "7", GPU: "0"}, 2, True),
        ("amd.com/gpu", {"amd.com/gpu": "4"}, 4, True),
        ("nvidia.com/gpu.shared", {"nvidia.com/gpu.shared": "1k"}, 999, True),  # Kubernetes writes 1000 so
        ("nvidia.com/gpu.shared", {"nvidia.com/gpu.shared": "1k"}, 1001, False),
    ],
)
def test_one_node_must_have_all_requested_gpus(resource, allocatable, count, fits):
    assert (nodes.node_obstacle(node("one", allocatable), nodes.NodeRequirements(resource, count)) is None) == fits


def test_only_allocatable_gpus_count():
    candidate = node("one", {GPU: "8"})
    candidate["status"]["allocatable"][GPU] = "7"
    assert nodes.node_obstacle(candidate, nodes.NodeRequirements(GPU, 8)) == (1, "with nvidia.com/gpu: 7")


def test_a_cordoned_node_fits_only_with_a_toleration():
    candidate, by_spec = node("one", {GPU: "1"}, cordoned=True), node("one", {GPU: "1"}, cordoned=True)
    del by_spec["spec"]["taints"]  # as before the controller sets the taint
    for current in (candidate, by_spec):
        assert nodes.node_obstacle(current, nodes.NodeRequirements(GPU, 1)) == (4, "cordoned")
        tolerant = nodes.NodeRequirements(GPU, 1, {}, [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}])
        assert nodes.find_node([current], tolerant) == "node one fits the training (it has nvidia.com/gpu: 1)"


@pytest.mark.parametrize("key", ["not-ready", "unreachable", "memory-pressure", "disk-pressure", "pid-pressure"])
def test_a_node_with_a_temporary_taint_is_waited_for(key):
    taint = {"key": f"node.kubernetes.io/{key}", "effect": "NoSchedule"}
    tainted, ready = node("gpu-1", {GPU: "8"}, taints=[taint]), node("gpu-2", {GPU: "2"})
    waits = f"the training waits for node gpu-1 (it has nvidia.com/gpu: 8): its taint {taint['key']}:NoSchedule is temporary"
    assert nodes.find_node([node("cpu-1"), tainted], nodes.NodeRequirements(GPU, 1)) == waits
    assert (
        nodes.find_node([tainted, ready], nodes.NodeRequirements(GPU, 1))
        == "node gpu-2 fits the training (it has nvidia.com/gpu: 2)"
    )


def test_a_taint_named_after_the_resource_may_admit_pods_that_request_it():
    candidate = node("gpu-1", {GPU: "8"}, taints=[{"key": GPU, "value": "present", "effect": "NoSchedule"}])
    assert nodes.find_node([candidate], nodes.NodeRequirements(GPU, 1)) == (
        "the training waits for node gpu-1 (it has nvidia.com/gpu: 8): its taint nvidia.com/gpu=present:NoSchedule "
        "admits pods that request nvidia.com/gpu if the cluster has the admission plugin ExtendedResourceToleration, as "
        'most clouds do; otherwise set tolerations to [{"key": "nvidia.com/gpu", "operator": "Exists"}]'
    )
    candidate["spec"]["taints"].insert(0, {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"})
    assert "its taint nvidia.com/gpu=present:NoSchedule admits pods" in nodes.find_node(
        [candidate], nodes.NodeRequirements(GPU, 1)
    )
    del candidate["spec"]["taints"][0]
    tolerant = nodes.NodeRequirements(GPU, 1, {}, [{"key": GPU, "operator": "Exists"}])
    assert nodes.find_node([candidate], tolerant) == "node gpu-1 fits the training (it has nvidia.com/gpu: 8)"
    assert (
        nodes.node_obstacle(candidate, nodes.NodeRequirements(GPU, 0, {"kubernetes.io/os": "linux"})) is not None
    )  # without a request for GPUs
    mig_nodes = node("gpu-2", {"nvidia.com/mig-1g.10gb": "7"}, taints=[{"key": GPU, "effect": "NoSchedule"}])
    assert nodes.node_obstacle(mig_nodes, nodes.NodeRequirements("nvidia.com/mig-1g.10gb", 1)) == (
        3,
        "with the taint nvidia.com/gpu:NoSchedule",
    )


def refusal(cluster_nodes: list[dict], demand: nodes.NodeRequirements) -> str:
    with pytest.raises(InputError) as refused:
        nodes.find_node(cluster_nodes, demand)
    line = str(refused.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


def test_the_error_counts_obstacles_with_the_nearest_match_first():
    cluster_nodes = [node(f"cpu-{number}") for number in range(3)]
    cluster_nodes += [node(f"small-{number}", {GPU: "1"}, {"pool": "gpu"}) for number in range(2)]
    cluster_nodes += [node("elsewhere", {GPU: "8"}), node("off", {GPU: "8"}, {"pool": "gpu"}, cordoned=True)]
    cluster_nodes += [node("kept", {GPU: "8"}, {"pool": "gpu"}, [{"key": "dedicated", "value": "ml", "effect": "NoExecute"}])]
    line = refusal(cluster_nodes, nodes.NodeRequirements(GPU, 4, {"pool": "gpu"}))
    assert "for the training (with nvidia.com/gpu: 4 and the label pool=gpu); got 8 nodes: " in line
    assert (
        "1 cordoned, 1 with the taint dedicated=ml:NoExecute, 1 without the label pool=gpu, 2 with nvidia.com/gpu: 1, "
        "3 without nvidia.com/gpu. Set gpu_count=0 "
    ) in line


def test_the_error_names_the_gpu_resources_of_the_nodes():
    mig_nodes = [node(f"gpu-{number}", {GPU: "0", "nvidia.com/mig-1g.10gb": "7"}) for number in range(2)]
    assert "got 2 nodes: 2 without nvidia.com/gpu but with nvidia.com/mig-1g.10gb. " in refusal(
        mig_nodes, nodes.NodeRequirements(GPU, 1)
    )
    assert "1 without nvidia.com/mig-1g.10gb but with amd.com/gpu" in refusal(
        [node("one", {"amd.com/gpu": "1"})], nodes.NodeRequirements("nvidia.com/mig-1g.10gb", 1)
    )


def test_the_error_for_a_selector_does_not_mention_gpus():
    line = refusal([node("one")], nodes.NodeRequirements(GPU, 0, {"pool": "big", "zone": "a"}))
    assert line == (
        "error: the cluster must have a node for the training (with the labels pool=big, zone=a); got 1 node: "
        "1 without the labels pool=big, zone=a. Change node_selector or tolerations; if an autoscaler adds such nodes on "
        "demand, set check_nodes of advanced to false."
    )


def test_the_error_lists_a_limited_number_of_obstacles():
    cluster_nodes = [node(f"n-{number}", taints=[{"key": f"team-{number}", "effect": "NoSchedule"}]) for number in range(50)]
    line = refusal(cluster_nodes, nodes.NodeRequirements(GPU, 0, {"kubernetes.io/os": "linux"}))
    assert "got 50 nodes: 1 with the taint team-0:NoSchedule, " in line and ", and others. Change node_selector" in line
    assert line.count("taint team-") == 6


@pytest.mark.parametrize(
    ("selector", "shown"),
    [
        ({"gpus": 1}, 'got {"gpus": 1}. Write it as {"gpus": "1"}.'),
        ({"gpu": True}, 'got {"gpu": true}. Write it as {"gpu": "true"}.'),
        ({"pool": ["a", "b"]}, 'got {"pool": ["a", "b"]}. Write it as {"pool": "gpu"}.'),
        ({"pool": None}, 'got {"pool": null}. Write it as {"pool": "gpu"}.'),
    ],
)
def test_an_invalid_node_selector_is_rejected(selector, shown):
    with pytest.raises(InputError) as refused:
        nodes.check_selector(selector)
    assert str(refused.value) == f"error: node_selector must have a string for each label; {shown}"


# What ValidateTolerations of Kubernetes refuses a pod for.
@pytest.mark.parametrize(
    ("toleration", "rule"),
    [
        ("gpu", "be a dictionary"),
        ({"key": "gpu", "opertor": "Exists"}, "have only key, operator, value, effect and tolerationSeconds"),
        ({"key": "gpu", "value": 1}, "have strings as key, operator, value, effect"),
        ({"key": "gpu", "operator": "Gt", "value": "1"}, "have one of Exists, Equal as operator"),
        ({"key": "gpu", "operator": "exists"}, "have one of Exists, Equal as operator"),
        (
            {"key": "gpu", "operator": "Exists", "effect": "NoRun"},
            "have one of NoSchedule, PreferNoSchedule, NoExecute as effect",
        ),
        ({}, "have a key, or Exists as operator"),
        ({"operator": "Equal", "value": "x"}, "have a key, or Exists as operator"),
        ({"key": "gpu", "operator": "Exists", "value": "x"}, "have no value if its operator is Exists"),
        ({"key": "gpu", "operator": "Exists", "tolerationSeconds": 60}, "have NoExecute as effect and a whole number"),
        ({"key": "gpu", "effect": "NoExecute", "tolerationSeconds": "60"}, "have NoExecute as effect and a whole number"),
    ],
)
def test_invalid_tolerations_are_rejected(toleration, rule):
    with pytest.raises(InputError) as refused:
        nodes.check_tolerations([{"operator": "Exists"}, toleration])
    assert str(refused.value).startswith(f"error: each of tolerations must {rule}")


def test_accepts_valid_tolerations():
    nodes.check_tolerations(
        [
            {"operator": "Exists"},
            {"key": "gpu"},
            {"key": "gpu", "operator": "Equal", "value": "a100", "effect": "NoSchedule"},
            {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60.0},
            {"key": "gpu", "operator": "", "value": None, "effect": None, "tolerationSeconds": None},
        ]
    )


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "amd.com/gpu", "nvidia.com/mig-1g.10gb", "gpu.intel.com/i915"])
def test_accepts_resources_of_device_plugins(resource):
    nodes.check_gpus(resource, 1)
    assert bool(nodes.image_warning(resource)) != resource.startswith("nvidia.com/")


@pytest.mark.parametrize("resource", ["", "gpu", "nvidia.com/", "/gpu", "A100", "nvidia.com/gpu: 1", "NVIDIA.com/gpu"])
def test_an_invalid_gpu_resource_is_rejected(resource):
    with pytest.raises(InputError, match=r"^error: gpu_type must be the resource name of GPUs on nodes, a domain and a name; "):
        nodes.check_gpus(resource, 1)


def test_several_slices_of_a_gpu_are_rejected():
    nodes.check_gpus("nvidia.com/gpu", 2)
    with pytest.raises(
        InputError, match=r"^error: gpu_count must be 1 with a gpu_type of nvidia\.com/mig-.*; got 2\. Set gpu_count=1"
    ):
        nodes.check_gpus("nvidia.com/mig-1g.10gb", 2)
