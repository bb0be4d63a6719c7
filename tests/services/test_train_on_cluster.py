"""A whole training with two workers by way of the cluster's API and a store; the pods are real processes of this machine."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support import model_servers, shade_records, training_cluster
from support.training_cluster import TrainingCluster, ends, starts, waits

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.preflight import checks
from kfp_vision.storage import reading
from kfp_vision.training import follow_job, tf_config, workers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_network_registered")]

NODES = {"gpu_type": "nvidia.com/gpu", "node_selector": {}, "tolerations": []}


class RealPods:
    """Starts the pods of a TrainJob or a TFJob as processes, with the variables that their controllers give them.

    Of the names of a TrainJob's pods, which only the cluster resolves, addresses of this machine take the place.
    """

    def __init__(self, folder: Path):
        self._folder, self.processes = folder, list[subprocess.Popen]()

    def start(self, cluster: TrainingCluster, job: dict) -> None:
        of_pods = self._trainer if job["kind"] == "TrainJob" else self._replicas
        words, configurations = of_pods(job)
        for rank, (pod, config) in enumerate(zip(cluster.pods_of(job), configurations, strict=True)):
            environment = os.environ | {"TF_CONFIG": config}
            with (self._folder / str(rank)).open("w") as log:
                command = [sys.executable, *words[1:]]
                self.processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
            pod["status"] = {"phase": "Running"}

    def _trainer(self, job: dict) -> tuple[list[str], list[str]]:
        """Returns the command of a TrainJob's pods, and the `TF_CONFIG` that each makes of its own variables."""
        trainer, name = job["spec"]["trainer"], job["metadata"]["name"]
        given = {one["name"]: one["value"] for one in trainer["env"]} | {tf_config.JOBSET_VARIABLE: name}
        addresses = tf_config.local_addresses(trainer["numNodes"])
        configurations = []
        for rank in range(trainer["numNodes"]):
            config = tf_config.of_pod(given | {tf_config.INDEX_VARIABLE: str(rank)})
            for at, address in enumerate(addresses):
                config = config.replace(f"{name}-node-0-{at}.{name}:2222", address)
            configurations.append(config)
        return [*trainer["command"], *trainer["args"]], configurations

    def _replicas(self, job: dict) -> tuple[list[str], list[str]]:
        """Returns the command of a TFJob's pods, and the `TF_CONFIG` that the training operator gives each."""
        worker = job["spec"]["tfReplicaSpecs"]["Worker"]
        (container,) = worker["template"]["spec"]["containers"]
        addresses = tf_config.local_addresses(worker["replicas"])
        configurations = [tf_config.of_addresses(addresses, rank) for rank in range(worker["replicas"])]
        return [*container["command"], *container["args"]], configurations

    def wait(self, cluster: TrainingCluster, job: dict) -> None:
        statuses = [process.poll() for process in self.processes]
        if None in statuses:
            cluster.repeat(job, self.wait)
            return
        for rank, pod in enumerate(cluster.pods_of(job)):
            lines = (self._folder / str(rank)).read_text().splitlines()
            cluster.logs[pod["metadata"]["name"]] = [f"2026-11-29T12:00:00.{at:09}Z {line}" for at, line in enumerate(lines)]
            ended = {"exitCode": statuses[rank], "message": "\n".join(lines[-5:]), "finishedAt": "2026-11-29T12:00:00Z"}
            pod["status"]["containerStatuses"] = [{"state": {"terminated": ended}}]

    def end(self, cluster: TrainingCluster, job: dict) -> None:
        failed = any(process.returncode for process in self.processes)
        done = "Complete" if job["kind"] == "TrainJob" else "Succeeded"
        ends("Failed" if failed else done, "ItFailed" if failed else "ItSucceeded", "it ended")(cluster, job)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    fresh = TrainingCluster()
    with training_cluster.serving(fresh, tmp_path) as configuration:
        monkeypatch.setenv("KUBECONFIG", str(configuration))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KFP_POD_NAME", training_cluster.STAGE_POD)
        monkeypatch.setattr(follow_job, "POLL_SECONDS", 0.2)
        yield fresh


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return shade_records.write(tmp_path_factory.mktemp("records"))


def train(cluster: TrainingCluster, folders: Path, tmp_path: Path, **changes) -> tuple[dict, dict[str, Path], RealPods]:
    """Trains as the stage does; returns the metrics, the outputs and the pods."""
    logs = tmp_path / "logs"
    logs.mkdir()
    pods = RealPods(logs)
    cluster.steps = [starts, pods.start, pods.wait, waits, pods.end]
    advanced = Advanced.parse(shade_records.NARROW | changes.pop("advanced", {}))
    recipe = replace(shade_records.RECIPE, workers=2, train_steps=4, advanced=advanced)
    outputs = {"model": tmp_path / "model", "events": tmp_path / "events", "page": tmp_path / "page.html"}
    inputs = (folders / "train", folders / "validation", folders / "labels")
    return workers.train(replace(recipe, **changes), *inputs, **outputs, nodes=NODES), outputs, pods


@pytest.mark.parametrize("api", ["trainjob", "tfjob"])
def test_the_stage_brings_back_what_the_workers_have_trained_on_records_in_a_bucket_and_leaves_nothing_else(
    s3, cluster, folders, api, tmp_path, capsys
):
    kept = f"s3://{s3.bucket(f'of-{api}', {'photos/1.jpg': b'1'})}/checkpoints"
    reached, outputs, pods = train(cluster, folders, tmp_path, advanced={"training_api": api}, checkpoint_dir=kept)
    for process in pods.processes:
        with model_servers.ended(process):
            assert process.returncode == 0
    assert reached["step"] == 4 and 0 <= reached["validation_accuracy"] <= 1
    assert (outputs["model"] / "serving" / "1" / "saved_model.pb").is_file() and outputs["page"].is_file()
    assert any(file.name.startswith("events.out.tfevents") for file in outputs["events"].iterdir())
    printed = capsys.readouterr().out
    assert f"copies the records to {kept}/workers/records-" in printed
    assert "on the CPU of each of 2 workers" in printed and "step 4/4" in printed
    assert not cluster.jobs
    assert {file.name.partition("/")[0] for file in reading.list_files(kept)} == {"step-00000004.npz"}


def test_a_field_that_only_the_workers_find_wrong_is_the_error_of_the_stage(cluster, folders, tmp_path):
    changes = {"advanced": {"layers_to_freeze": "Nowhere"}, "checkpoint_dir": str(tmp_path / "kept")}
    with pytest.raises(
        InputError, match=r"^error: layers_to_freeze of advanced must name layers of the network; got Nowhere\."
    ):
        train(cluster, folders, tmp_path, **changes)


def test_the_check_of_a_run_asks_for_a_bucket_and_for_the_api(cluster):
    form = {"workers": 2.0, "checkpoint_dir": "checkpoints"}
    with pytest.raises(InputError, match="checkpoint_dir must be a folder in a bucket for workers above 1 on a cluster"):
        checks._check_cluster(form, Advanced())
    form["checkpoint_dir"] = "s3://bucket/checkpoints"
    checks._check_cluster(form, Advanced())
    cluster.runtimes.clear()
    with pytest.raises(InputError, match="training_runtime of advanced must name a TrainingRuntime of the namespace"):
        checks._check_cluster(form, Advanced())
