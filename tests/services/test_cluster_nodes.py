"""Whether the cluster has a node for the training, asked of an API server that speaks Kubernetes' HTTPS, from within a pod."""

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
    with kubernetes_nodes.within(kubernetes_nodes.Nodes(), tmp_path / "account", monkeypatch) as holding:
        yield holding


def said(capsys: pytest.CaptureFixture[str], demand: nodes.NodeRequirements | None = None) -> str:
    """The one line that the log has of it."""
    nodes.check_nodes(demand or nodes.NodeRequirements(GPU, 1))
    (line,) = capsys.readouterr().out.splitlines()
    return line


def test_a_node_that_fits_is_named(cluster, capsys):
    cluster.held = [node("cpu-1"), node("gpu-1", {GPU: "8"})]
    assert said(capsys) == "node gpu-1 fits the training (it has nvidia.com/gpu: 8)"
    assert cluster.asked == [{"limit": "500"}]


def test_where_no_node_fits_the_stage_ends(cluster):
    cluster.held = [node("cpu-1"), node("cpu-2")]
    with pytest.raises(InputError) as refused:
        nodes.check_nodes(nodes.NodeRequirements(GPU, 1))
    assert str(refused.value) == (
        "error: the cluster must have a node for the training (with nvidia.com/gpu: 1); got 2 nodes: 2 without nvidia.com/gpu. "
        "Set gpu_count=0 to train without a GPU, or change gpu_type, gpu_count, node_selector or tolerations; if an "
        "autoscaler adds such nodes on demand, set check_nodes of advanced to false."
    )


def test_thousands_of_nodes_are_read_in_pages_and_no_further_than_needed(cluster, capsys):
    cluster.held = [node(f"cpu-{number}") for number in range(1250)]
    with pytest.raises(InputError, match=r"1,250 nodes: 1250 without nvidia\.com/gpu"):
        nodes.check_nodes(nodes.NodeRequirements(GPU, 1))
    assert [asked.get("continue") for asked in cluster.asked] == [None, "500", "1000"]
    cluster.held[700] = node("gpu-1", {GPU: "1"})
    cluster.asked.clear()
    assert said(capsys) == "node gpu-1 fits the training (it has nvidia.com/gpu: 1)"
    assert [asked.get("continue") for asked in cluster.asked] == [None, "500"]


UNREAD = "the training waits for a node with nvidia.com/gpu: 1; the nodes could not be checked: "


def test_without_the_right_the_log_says_what_is_waited_for(cluster, capsys):
    cluster.denied = True
    assert said(capsys) == f"{UNREAD}HTTP 403; the ClusterRole of manifests/nodes grants it"


def test_what_is_waited_for_has_the_labels_too(cluster, capsys):
    cluster.denied = True
    begin = "the training waits for a node with "
    line = said(capsys, nodes.NodeRequirements("nvidia.com/mig-1g.10gb", 2, {"pool": "gpu", "zone": "a"}))
    assert line.startswith(f"{begin}nvidia.com/mig-1g.10gb: 2 and the labels pool=gpu, zone=a; the nodes could")
    assert said(capsys, nodes.NodeRequirements(GPU, 0, {"pool": "big"})).startswith(
        f"{begin}the label pool=big; the nodes could"
    )


def test_an_api_that_does_not_answer_holds_nothing_up(cluster, capsys, monkeypatch):
    cluster.silent = True
    monkeypatch.setattr(nodes, "READ_SECONDS", 0.2)
    assert said(capsys) == f"{UNREAD}ReadTimeoutError"
    assert cluster.tried == 1


def test_an_api_that_is_not_there_holds_nothing_up(cluster, capsys, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    assert said(capsys) == f"{UNREAD}NewConnectionError"


def test_a_token_that_is_not_taken_holds_nothing_up(cluster, capsys):
    nodes.TOKEN_FILE.write_text("another")
    assert said(capsys) == f"{UNREAD}HTTP 401"


def test_an_account_without_a_certificate_holds_nothing_up(cluster, capsys):
    nodes.TOKEN_FILE.with_name("ca.crt").unlink()
    assert said(capsys) == f"{UNREAD}ConfigException"


def test_a_server_that_somebody_else_vouches_for_is_not_believed(cluster, capsys, tmp_path):
    cluster.held = [node("gpu-1", {GPU: "8"})]
    (tmp_path / "others").mkdir()
    kubernetes_nodes.certified(tmp_path / "others")
    nodes.TOKEN_FILE.with_name("ca.crt").write_bytes((tmp_path / "others" / "ca.crt").read_bytes())
    assert said(capsys).startswith(f"{UNREAD}SSL") and cluster.asked == []


def test_a_list_that_became_too_old_while_it_was_read_holds_nothing_up(cluster, capsys):
    cluster.held, cluster.expired = [node(f"cpu-{number}") for number in range(501)], True
    assert said(capsys) == f"{UNREAD}HTTP 410"


@pytest.mark.parametrize("answer", [b"<html>Sign in</html>", b"[]", b"{}", b'{"items": []}'])
def test_an_answer_of_something_else_holds_nothing_up(cluster, capsys, answer):
    cluster.answer = answer
    assert said(capsys) == f"{UNREAD}the response is not that of the Kubernetes API"


def test_a_cluster_that_shows_no_node_is_not_believed(cluster, capsys):
    assert said(capsys) == f"{UNREAD}the cluster lists none"


@pytest.mark.parametrize("name", ["KUBERNETES_SERVICE_HOST", "KFP_POD_NAME"])
def test_outside_of_a_stages_pod_nothing_is_asked(cluster, capsys, monkeypatch, name):
    monkeypatch.delenv(name)
    nodes.check_nodes(nodes.NodeRequirements(GPU, 1))
    assert (capsys.readouterr().out, cluster.asked) == ("", [])


def test_a_pod_without_an_account_asks_nothing(cluster, capsys):
    nodes.TOKEN_FILE.unlink()
    nodes.check_nodes(nodes.NodeRequirements(GPU, 1))
    assert (capsys.readouterr().out, cluster.asked) == ("", [])


def test_where_any_node_will_do_nothing_is_asked(cluster, capsys):
    nodes.check_nodes(nodes.NodeRequirements(GPU, 0, {}, [{"operator": "Exists"}]))
    assert (capsys.readouterr().out, cluster.asked) == ("", [])


@pytest.fixture
def fields() -> dict[str, object]:
    """Every field of the form, for a training from scratch on the sample."""
    return form_defaults(image_classification) | {"images_uri": "sample", "fine_tune": False}


def test_a_run_is_refused_before_any_data_moves(cluster, fields):
    cluster.held = [node("gpu-1", {GPU: "2"}, {"pool": "gpu"}, [{"key": "dedicated", "value": "ml", "effect": "NoSchedule"}])]
    right = {"node_selector": {"pool": "gpu"}, "tolerations": [{"key": "dedicated", "operator": "Exists"}], "gpu_count": 2.0}
    checks.check_run(fields | right)
    for wrong, reason in (
        ({"gpu_type": "amd.com/gpu"}, "1 without amd.com/gpu but with nvidia.com/gpu"),
        ({"gpu_count": 3.0}, "1 with nvidia.com/gpu: 2"),
        ({"node_selector": {"pool": "big"}}, "1 without the label pool=big"),
        ({"node_selector": {"pool": "big"}, "gpu_count": 0.0}, "1 without the label pool=big"),
        ({"tolerations": []}, "1 with the taint dedicated=ml:NoSchedule"),
    ):
        with pytest.raises(InputError) as refused:
            checks.check_run(fields | right | wrong)
        assert f"got 1 node: {reason}. " in str(refused.value)


def test_where_nodes_come_when_they_are_asked_for_nobody_looks(cluster, fields, capsys):
    cluster.held = [node("cpu-1")]
    looked_away = checks.check_run(fields | {"advanced": {"check_nodes": False}})
    assert (capsys.readouterr().out, cluster.asked) == ("", [])
    cluster.held = [node("gpu-1", {GPU: "1"})]
    assert checks.check_run(fields).recipe == looked_away.recipe
