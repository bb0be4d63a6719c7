"""The check for a node that fits the training, against an API server that speaks Kubernetes' HTTPS, as from a pod."""

from collections.abc import Iterator

import pytest
from support import kubernetes_nodes
from support.kubernetes_nodes import node

from kfp_vision.cli.run import form_defaults
from kfp_vision.core.errors import InputError
from kfp_vision.pipelines import image_classification
from kfp_vision.preflight import checks, nodes

GPU = "nvidia.com/gpu"


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[kubernetes_nodes.Nodes]:
    with kubernetes_nodes.within(kubernetes_nodes.Nodes(), tmp_path / "account", monkeypatch) as running:
        yield running


def check_and_read_log(capsys: pytest.CaptureFixture[str], demand: nodes.NodeRequirements | None = None) -> str:
    """Checks the nodes, and returns the one line that is logged."""
    nodes.check_nodes(demand or nodes.NodeRequirements(GPU, 1))
    (line,) = capsys.readouterr().out.splitlines()
    return line


def test_logs_the_node_that_fits(cluster, capsys):
    cluster.held = [node("cpu-1"), node("gpu-1", {GPU: "8"})]
    assert check_and_read_log(capsys) == "node gpu-1 fits the training (it has nvidia.com/gpu: 8)"
    assert cluster.asked == [{"limit": "500"}]


def test_fails_if_no_node_fits(cluster):
    cluster.held = [node("cpu-1"), node("cpu-2")]
    with pytest.raises(InputError) as raised:
        nodes.check_nodes(nodes.NodeRequirements(GPU, 1))
    assert str(raised.value) == (
        "error: the cluster must have a node for the training (with nvidia.com/gpu: 1); got 2 nodes: 2 without nvidia.com/gpu. "
        "Set gpu_count=0 to train without a GPU, or change gpu_type, gpu_count, node_selector or tolerations; if an "
        "autoscaler adds such nodes on demand, set check_nodes of advanced to false."
    )


def test_reads_nodes_in_pages_until_one_fits(cluster, capsys):
    cluster.held = [node(f"cpu-{number}") for number in range(1250)]
    with pytest.raises(InputError, match=r"1,250 nodes: 1250 without nvidia\.com/gpu"):
        nodes.check_nodes(nodes.NodeRequirements(GPU, 1))
    assert [query.get("continue") for query in cluster.asked] == [None, "500", "1000"]
    cluster.held[700] = node("gpu-1", {GPU: "1"})
    cluster.asked.clear()
    assert check_and_read_log(capsys) == "node gpu-1 fits the training (it has nvidia.com/gpu: 1)"
    assert [query.get("continue") for query in cluster.asked] == [None, "500"]


NODES_UNKNOWN = "the training waits for a node with nvidia.com/gpu: 1; the nodes could not be checked: "


def test_without_permission_logs_the_required_node(cluster, capsys):
    cluster.denied = True
    assert check_and_read_log(capsys) == f"{NODES_UNKNOWN}HTTP 403; the ClusterRole of manifests/nodes grants it"


def test_the_log_names_the_required_labels(cluster, capsys):
    cluster.denied = True
    beginning = "the training waits for a node with "
    line = check_and_read_log(capsys, nodes.NodeRequirements("nvidia.com/mig-1g.10gb", 2, {"pool": "gpu", "zone": "a"}))
    assert line.startswith(f"{beginning}nvidia.com/mig-1g.10gb: 2 and the labels pool=gpu, zone=a; the nodes could")
    assert check_and_read_log(capsys, nodes.NodeRequirements(GPU, 0, {"pool": "big"})).startswith(
        f"{beginning}the label pool=big; the nodes could"
    )


def test_continues_if_the_api_does_not_answer(cluster, capsys, monkeypatch):
    cluster.silent = True
    monkeypatch.setattr(nodes, "READ_SECONDS", 0.2)
    assert check_and_read_log(capsys) == f"{NODES_UNKNOWN}ReadTimeoutError"
    assert cluster.tried == 1


def test_continues_if_the_api_refuses_connections(cluster, capsys, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    assert check_and_read_log(capsys) == f"{NODES_UNKNOWN}NewConnectionError"


def test_continues_if_the_token_is_rejected(cluster, capsys):
    nodes.TOKEN_FILE.write_text("another")
    assert check_and_read_log(capsys) == f"{NODES_UNKNOWN}HTTP 401"


def test_continues_without_a_ca_certificate(cluster, capsys):
    nodes.TOKEN_FILE.with_name("ca.crt").unlink()
    assert check_and_read_log(capsys) == f"{NODES_UNKNOWN}ConfigException"


def test_does_not_trust_a_server_certified_by_another_authority(cluster, capsys, tmp_path):
    cluster.held = [node("gpu-1", {GPU: "8"})]
    (tmp_path / "others").mkdir()
    kubernetes_nodes.certified(tmp_path / "others")
    nodes.TOKEN_FILE.with_name("ca.crt").write_bytes((tmp_path / "others" / "ca.crt").read_bytes())
    assert check_and_read_log(capsys).startswith(f"{NODES_UNKNOWN}SSL") and cluster.asked == []


def test_continues_if_the_list_expires_between_pages(cluster, capsys):
    cluster.held, cluster.expired = [node(f"cpu-{number}") for number in range(501)], True
    assert check_and_read_log(capsys) == f"{NODES_UNKNOWN}HTTP 410"


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", b"[]", b"{}", b'{"items": []}'])
def test_continues_if_the_response_is_not_from_kubernetes(cluster, capsys, answer):
    cluster.answer = answer
    assert check_and_read_log(capsys) == f"{NODES_UNKNOWN}the response is not that of the Kubernetes API"


def test_continues_if_the_cluster_lists_no_nodes(cluster, capsys):
    assert check_and_read_log(capsys) == f"{NODES_UNKNOWN}the cluster lists none"


@pytest.mark.parametrize("name", ["KUBERNETES_SERVICE_HOST", "KFP_POD_NAME"])
def test_sends_no_request_outside_a_stages_pod(cluster, capsys, monkeypatch, name):
    monkeypatch.delenv(name)
    nodes.check_nodes(nodes.NodeRequirements(GPU, 1))
    assert (capsys.readouterr().out, cluster.asked) == ("", [])


def test_sends_no_request_without_a_service_account(cluster, capsys):
    nodes.TOKEN_FILE.unlink()
    nodes.check_nodes(nodes.NodeRequirements(GPU, 1))
    assert (capsys.readouterr().out, cluster.asked) == ("", [])


def test_sends_no_request_if_any_node_fits(cluster, capsys):
    nodes.check_nodes(nodes.NodeRequirements(GPU, 0, {}, [{"operator": "Exists"}]))
    assert (capsys.readouterr().out, cluster.asked) == ("", [])


@pytest.fixture
def fields() -> dict[str, object]:
    """Returns every field of the form, for a training from scratch on the sample."""
    return form_defaults(image_classification) | {"images_uri": "sample", "fine_tune": False}


def test_check_run_rejects_requirements_that_no_node_meets(cluster, fields):
    cluster.held = [node("gpu-1", {GPU: "2"}, {"pool": "gpu"}, [{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}])]
    fitting = {"node_selector": {"pool": "gpu"}, "tolerations": [{"key": "dedicated", "operator": "Exists"}], "gpu_count": 2.0}
    checks.check_run(fields | fitting)
    for change, reason in (
        ({"gpu_type": "amd.com/gpu"}, "1 without amd.com/gpu but with nvidia.com/gpu"),
        ({"gpu_count": 3.0}, "1 with nvidia.com/gpu: 2"),
        ({"node_selector": {"pool": "big"}}, "1 without the label pool=big"),
        ({"node_selector": {"pool": "big"}, "gpu_count": 0.0}, "1 without the label pool=big"),
        ({"tolerations": []}, "1 with the taint dedicated=ml:NoSchedule"),
    ):
        with pytest.raises(InputError) as raised:
            checks.check_run(fields | fitting | change)
        assert f"got 1 node: {reason}. " in str(raised.value)


def test_check_nodes_false_disables_the_check(cluster, fields, capsys):
    cluster.held = [node("cpu-1")]
    unchecked = checks.check_run(fields | {"advanced": {"check_nodes": False}})
    assert (capsys.readouterr().out, cluster.asked) == ("", [])
    cluster.held = [node("gpu-1", {GPU: "1"})]
    assert checks.check_run(fields).recipe == unchecked.recipe
