"""A job of several workers on a cluster: what the stage creates, follows, and says of its end; each trap of the controllers."""

import threading
from dataclasses import replace

import pytest
from support import pod_security, published_schemas, shade_records, training_cluster
from support.training_cluster import TrainingCluster, completes, ends, fails, restarts, runs, says, starts, waits

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import AccessError, InputError, UnreachableError
from kfp_vision.training import divergence, train_job
from kfp_vision.training.follow_job import JobFollower, _ask_patiently, _clean_up, _start_or_find, inputs_folder
from kfp_vision.training.job_client import JobClient

STAGE = train_job.Stage("team-a", "registry/kfp-vision-gpu:0.1.0", "run-id-1/run-1.root.train.executor", {})
NODES = {"gpu_type": "nvidia.com/gpu", "node_selector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
RECIPE = replace(shade_records.RECIPE, workers=2, gpu_count=2, checkpoint_dir="s3://bucket/checkpoints", model_name="Shades_1")
JOB_URI = "s3://bucket/checkpoints/workers/x/job.json"


def built(name: str = "shades-1", api: str = "trainjob", **advanced: str) -> dict:
    recipe = replace(RECIPE, advanced=Advanced.parse({"training_api": api, **advanced}))
    return train_job.manifest(name, JOB_URI, recipe, NODES, STAGE)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    fresh = TrainingCluster()
    with training_cluster.serving(fresh, tmp_path) as configuration:
        monkeypatch.setenv("KUBECONFIG", str(configuration))
        monkeypatch.setenv("KFP_POD_NAME", training_cluster.STAGE_POD)
        yield fresh


def follow(cluster: TrainingCluster, *steps: training_cluster.Step, stop: threading.Event | None = None) -> bool:
    """Creates a job, whose controllers take these steps, and follows it."""
    cluster.steps = list(steps)
    client = JobClient("trainjob")
    job = _start_or_find(client, built())
    assert job is not None
    return JobFollower(
        client, job, stop or threading.Event(), 2, poll_seconds=0.01, silent_seconds=0.2, refused_seconds=0.2
    ).follow()


def error_line(refusal: pytest.ExceptionInfo[InputError]) -> str:
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("api", ["trainjob", "tfjob"])
@pytest.mark.parametrize("advanced", [{}, {"training_queue": "gpus", "training_priority": "high"}])
def test_a_job_is_valid_and_hands_over_what_the_form_says(api, advanced):
    job = built(api=api, **advanced)
    assert published_schemas.faults(job) == []
    labels = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "high"} if advanced else {}
    assert job["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "kfp-vision"} | labels
    spec = job["spec"]
    if api == "trainjob":
        assert spec["runtimeRef"] == {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "kfp-vision"}
        trainer = spec["trainer"]
        assert (trainer["numNodes"], trainer["image"], trainer["args"]) == (2, STAGE.image, [JOB_URI])
        assert trainer["env"] == [{"name": "KFP_VISION_WORKERS", "value": "2"}]
        assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "2"
        (patched,) = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        pod = patched["template"]["spec"]["template"]["spec"]
    else:
        worker = spec["tfReplicaSpecs"]["Worker"]
        assert (worker["replicas"], worker["restartPolicy"]) == (2, "ExitCode")
        pod = worker["template"]["spec"]
        assert pod_security.violations(pod) == []
        (container,) = pod["containers"]
        assert (container["name"], container["image"], container["args"]) == ("tensorflow", STAGE.image, [JOB_URI])
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert (pod["nodeSelector"], pod["tolerations"]) == (NODES["node_selector"], NODES["tolerations"])


@pytest.mark.parametrize(
    ("api", "path"), [("trainjob", ("spec", "trainer")), ("tfjob", ("spec", "runPolicy")), ("trainjob", ("spec",))]
)
def test_the_schemas_refuse_a_name_that_the_api_does_not_know(api, path):
    job = built(api=api)
    node = job
    for step in path:
        node = node[step]
    node["podTemplateOverrides"] = []  # as Trainer 2.1 had it; later ones drop it without a word
    assert len(published_schemas.faults(job)) == 1


def test_a_tfjob_takes_the_priority_class_of_pods_and_a_trainjob_only_that_of_a_queue():
    worker = built(api="tfjob", training_priority="high")["spec"]["tfReplicaSpecs"]["Worker"]
    assert worker["template"]["spec"]["priorityClassName"] == "high"
    with pytest.raises(InputError, match="training_priority of advanced must be left out of a trainjob without a queue"):
        built(training_priority="high")


@pytest.mark.parametrize("workers", [2, 10, 11, 64])
def test_a_name_leaves_room_for_those_of_the_pods_and_is_of_one_run_and_try(workers):
    names = {
        train_job.job_name(model, key, attempt, workers)
        for model in ("Flowers_of-the " + "x" * 80, "7")
        for key in ("run-1/a", "run-2/a")
        for attempt in (1, 2, 99)
    }
    assert len(names) == 12
    for name in names:
        assert len(f"{name}-node-0-{workers - 1}-xxxxx") <= 63  # a label value of JobSet's
        assert published_schemas.NAME.fullmatch(name) and name[0].isalpha()
    assert train_job.job_name("m", "run-1/a", 1, 2) == train_job.job_name("m", "run-1/a", 1, 2)


def test_a_later_try_of_a_stage_has_the_same_key_and_the_job_goes_with_the_run(cluster):
    first = JobClient("trainjob").stage()
    cluster.stage["metadata"]["annotations"]["workflows.argoproj.io/node-name"] = "run-1.root.train.executor(1)"
    assert JobClient("trainjob").stage() == first
    assert (first.image, first.key) == ("registry/kfp-vision-gpu:0.1.0", STAGE.key)
    assert first.owner == {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run-1", "uid": "w"}


def test_each_trial_of_a_sweep_has_a_job_of_its_own_which_its_later_tries_find(cluster):
    def key(iteration: int, attempt: int) -> str:
        # Argo names the turns of KFP's loop, a WithSequence, by place and item.
        turn = f"run-1.root.run.trials.trials-iterations({iteration}:{iteration}).iteration-item.train-trial"
        cluster.stage["metadata"]["annotations"]["workflows.argoproj.io/node-name"] = f"{turn}.executor({attempt})"
        return JobClient("trainjob").stage().key

    keys = [[key(iteration, attempt) for attempt in range(2)] for iteration in range(12)]
    assert all(first == later for first, later in keys)
    assert len({train_job.job_name("flowers", first, 1, 2) for first, _ in keys}) == 12


def test_follows_a_job_to_its_end_with_the_log_of_the_first_worker(cluster, capsys):
    log = says("trains googlenet", "step 1/2  loss 0.5", "error: held back, since the stage says it")
    assert follow(cluster, starts, runs, log, waits, completes)
    printed = capsys.readouterr().out
    assert "TrainJob shades-1 in team-a: created\n" in printed
    assert "trains googlenet\nstep 1/2  loss 0.5\n" in printed and "held back" not in printed
    assert cluster.queries == [{"fieldValidation": ["Strict"], "fieldManager": ["kfp-vision"]}]


def test_says_which_worker_is_waited_for_and_why(cluster, capsys):
    def pulls(cluster: TrainingCluster, job: dict) -> None:
        first, second = cluster.pods_of(job)
        waiting = {"reason": "ErrImagePull", "message": "no such image"}
        first["status"] = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}
        unmet = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: Insufficient nvidia.com/gpu."}
        second["status"] = {"phase": "Pending", "conditions": [unmet]}

    assert follow(cluster, starts, pulls, waits, runs, completes)
    printed = capsys.readouterr().out
    assert printed.count("waits for worker 0: ErrImagePull: no such image\n") == 1
    assert printed.count("waits for worker 1: 0/3 nodes are available: Insufficient nvidia.com/gpu.\n") == 1


def test_a_restart_is_reported_with_its_cause_and_the_log_of_the_new_pod_followed(cluster, capsys):
    steps = (
        starts,
        runs,
        says("step 5/9"),
        waits,
        fails(1, 137, "OOMKilled"),
        restarts,
        says("resumes after step 5"),
        waits,
        completes,
    )
    assert follow(cluster, *steps)
    printed = capsys.readouterr().out
    assert "all workers start again (1 so far): worker 1: OOMKilled, exit status 137\n" in printed
    assert printed.index("step 5/9") < printed.index("all workers start again") < printed.index("resumes after step 5")


def test_a_failed_job_says_which_worker_failed_first_and_why(cluster):
    failed = ends("Failed", "ReachedMaxRestarts", "jobset failed due to reaching max number of restarts")
    with pytest.raises(InputError) as refusal:
        follow(cluster, starts, runs, fails(1, 1, message="Traceback\nMemoryError: no"), failed)
    line = error_line(refusal)
    assert "got shades-1: worker 1: exit status 1: MemoryError: no; ReachedMaxRestarts: jobset failed" in line
    assert line.endswith("See kubectl -n team-a logs -l jobset.sigs.k8s.io/jobset-name=shades-1.")
    assert not cluster.deletions  # its pods are left to look at


def test_a_failed_job_whose_pods_are_gone_says_what_the_job_said(cluster):
    message = "Container node for pod team-a/shades-1-node-0-1 failed with exit code 143 matching FailJob rule at index 1"
    failed = {"type": "Failed", "status": "True", "message": message}
    cluster.batch_jobs["shades-1-node-0"] = {"status": {"conditions": [failed]}}
    with pytest.raises(InputError) as refusal:
        follow(cluster, starts, runs, ends("Failed", "FailedJobs", "jobset failed"))
    assert f"got shades-1: {message}." in error_line(refusal)


def test_an_error_of_the_form_that_only_workers_see_is_the_error_of_the_stage(cluster):
    line = "error: gpu_count must not be above the GPUs that are visible; got gpu_count=2 and 0 visible. Set gpu_count to 0."
    failed = ends("Failed", "FailJobSetFailurePolicyAction", "applying FailJobSet failure policy action")
    with pytest.raises(InputError) as refusal:
        follow(cluster, starts, runs, fails(0, 3, message=f"noise\n{line}"), failed)
    assert error_line(refusal) == line


def test_a_loss_that_diverges_in_a_worker_is_told_from_other_errors(cluster):
    line = (
        "error: the loss must be finite; got nan at step 3, at rate 1. Try a learning_rate of 0.1, or warmup_steps in advanced."
    )
    failed = ends("Failed", "FailJobSetFailurePolicyAction", "applying FailJobSet failure policy action")
    with pytest.raises(divergence.Diverged) as refusal:
        follow(cluster, starts, runs, fails(0, 3, message=line), failed)
    assert error_line(refusal) == line


def test_the_deadline_counts_although_the_jobset_is_gone(cluster):
    def expires(cluster: TrainingCluster, job: dict) -> None:
        cluster.jobsets.clear()
        ends("Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")(cluster, job)

    with pytest.raises(InputError, match="got shades-1: DeadlineExceeded: TrainJob exceeded its active deadline"):
        follow(cluster, starts, runs, expires)


BY_HAND = "shades-1 goes on, and must be deleted by hand: kubectl -n team-a delete trainjob shades-1"


@pytest.mark.parametrize("denied", [set(), {"delete trainjobs"}])
@pytest.mark.parametrize("stale", [completes, ends("Failed", "FailedJobs", "jobset failed")])
def test_a_condition_of_an_earlier_job_of_the_name_is_not_believed(cluster, capsys, stale, denied):
    cluster.denied = denied

    def inherits(cluster: TrainingCluster, job: dict) -> None:
        cluster.jobsets["shades-1"] = {"metadata": {"ownerReferences": [{"uid": "of-another"}]}}
        stale(cluster, job)

    assert not follow(cluster, inherits)
    line = BY_HAND if denied else "deleted shades-1, which was taken for an earlier job of its name: takes another name"
    assert line in capsys.readouterr().out
    assert [name for name, _ in cluster.deletions] == ([] if denied else ["shades-1"])


def test_a_name_with_anything_left_of_an_earlier_job_is_not_used(cluster):
    client, wanted = JobClient("trainjob"), built()
    cluster.jobsets["shades-1"] = {"metadata": {"ownerReferences": [{"uid": "of-another"}]}}
    assert _start_or_find(client, wanted) is None
    cluster.jobsets.clear()
    cluster.add_pod(wanted, 0, "Running")  # in its grace, still published under the host names
    assert _start_or_find(client, wanted) is None
    cluster.pods.clear()
    assert _start_or_find(client, wanted) is not None


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("TrainJob", "shades-1", "TrainJobResourcesCreationFailed"),
        ("JobSet", "shades-1", "JobCreationFailed"),
        ("Job", "shades-1-node-0", "FailedCreate"),
        ("Pod", "shades-1-node-0-1-abcde", "FailedScheduling"),
    ],
)
def test_without_a_pod_and_a_condition_the_newest_warning_is_the_error(cluster, kind, name, reason):
    cluster.warn("TrainJob", "shades-1", "Older", "an older one")
    cluster.warn(kind, name, reason, "admission webhook denied the request")
    cluster.warn("Pod", "other-node-0-0", "FailedScheduling", "of another job")
    cluster.warn("TrainJob", "shades-11", "Other", "of another job")
    with pytest.raises(InputError) as refusal:
        follow(cluster)
    assert f"got {kind} {name}: {reason}: admission webhook denied the request. " in error_line(refusal)
    assert [name for name, _ in cluster.deletions] == ["shades-1"]


def test_why_a_job_cannot_start_is_the_error_although_it_must_not_be_deleted(cluster, capsys):
    cluster.warn("Pod", "shades-1-node-0-1-abcde", "FailedScheduling", "no node has a GPU")
    cluster.denied = {"delete trainjobs"}
    with pytest.raises(InputError, match=r"the cluster must be able to start the workers; got Pod .*: no node has a GPU"):
        follow(cluster)
    assert BY_HAND in capsys.readouterr().out


def test_a_job_that_cannot_start_is_deleted_although_the_cluster_is_away_at_first(cluster, capsys, monkeypatch):
    cluster.warn("Pod", "shades-1-node-0-1-abcde", "FailedScheduling", "no node has a GPU")
    delete, away = JobClient.delete, [UnreachableError("the cluster must answer", "HTTP 503", "Try again.")]

    def is_away_at_first(client: JobClient, name: str) -> None:
        if away:
            raise away.pop()
        delete(client, name)

    monkeypatch.setattr(JobClient, "delete", is_away_at_first)
    with pytest.raises(InputError, match="no node has a GPU"):
        follow(cluster)
    assert not cluster.jobs and BY_HAND not in capsys.readouterr().out


def test_a_full_quota_and_a_queue_are_waited_for(cluster, capsys):
    cluster.warn("Job", "shades-1-node-0", "FailedCreate", 'pods "x" is forbidden: exceeded quota: gpus')

    def is_silent(cluster: TrainingCluster, job: dict) -> None:
        cluster.events.clear()

    assert follow(cluster, *[waits] * 60, is_silent, *[waits] * 30, starts, runs, completes)
    printed = capsys.readouterr().out
    assert (
        printed.count('waits for room in the quota: Job shades-1-node-0: FailedCreate: pods "x" is forbidden: exceeded quota')
        == 1
    )
    assert printed.count("shades-1 has no pods yet, and the cluster says nothing: suspended by a queue, perhaps") == 1


def test_told_to_stop_the_stage_deletes_the_job_in_the_background(cluster):
    stop = threading.Event()
    stop.set()
    with pytest.raises(SystemExit) as ended:
        follow(cluster, starts, runs, stop=stop)
    assert ended.value.code == 143
    assert cluster.deletions == [("shades-1", {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"})]


def test_a_job_that_others_delete_ends_the_stage(cluster):
    def is_deleted(cluster: TrainingCluster, job: dict) -> None:
        del cluster.jobs["shades-1"]

    with pytest.raises(InputError, match=r"a job must not be deleted before its end; got shades-1 in team-a\."):
        follow(cluster, starts, runs, is_deleted)


@pytest.mark.parametrize("also", [set(), {"delete trainjobs"}])
def test_a_job_that_must_not_be_looked_at_any_more_is_deleted_or_named(cluster, also, capsys):
    def takes_the_right(cluster: TrainingCluster, job: dict) -> None:
        cluster.denied = {"get trainjobs"} | also

    with pytest.raises(AccessError) as refusal:
        follow(cluster, starts, runs, takes_the_right)
    assert "must be allowed to train with several workers; got HTTP 403 in team-a" in error_line(refusal)
    last = capsys.readouterr().out.splitlines()[-1]
    if also:
        assert last == f"warning: {BY_HAND}" and cluster.jobs
    else:
        assert last == "deleted shades-1, which can no longer be followed" and not cluster.jobs


@pytest.mark.parametrize("answer", [(401, b'{"message": "Unauthorized"}'), (403, b"RBAC: access denied")])
def test_a_job_that_must_not_be_looked_at_for_a_moment_goes_on(cluster, answer, capsys):
    def is_refused(cluster: TrainingCluster, job: dict) -> None:
        cluster.broken = [answer] * 2

    assert follow(cluster, starts, runs, is_refused, waits, completes)
    assert not cluster.deletions and "looks again: error: the" in capsys.readouterr().out


def test_a_job_without_pods_whose_events_must_not_be_looked_at_is_given_up(cluster):
    cluster.denied = {"list events"}
    with pytest.raises(AccessError, match="cannot list resource"):
        follow(cluster)
    assert not cluster.jobs


@pytest.mark.parametrize("right", ["list pods", "get jobsets"])
def test_a_job_that_is_over_is_not_deleted_whatever_must_not_be_looked_at(cluster, right):
    def ends_unseen(cluster: TrainingCluster, job: dict) -> None:
        cluster.denied = {right}
        completes(cluster, job)

    with pytest.raises(AccessError):
        follow(cluster, starts, runs, ends_unseen)
    assert not cluster.deletions


def test_the_cause_of_a_failure_is_told_although_the_job_of_the_workers_must_not_be_looked_at(cluster):
    def loses_the_right(cluster: TrainingCluster, job: dict) -> None:
        cluster.denied = {"get jobs"}

    with pytest.raises(InputError, match="boom"):
        follow(cluster, starts, runs, loses_the_right, fails(0, 1, "Error", "boom"), ends("Failed", "PodFailurePolicy"))
    assert not cluster.deletions


def test_told_to_stop_a_job_that_must_not_be_deleted_is_named(cluster, capsys):
    cluster.denied, stop = {"delete trainjobs"}, threading.Event()
    stop.set()
    with pytest.raises(SystemExit) as ended:
        follow(cluster, starts, runs, stop=stop)
    assert ended.value.code == 143
    assert capsys.readouterr().out.splitlines()[-1].endswith(BY_HAND)


def test_a_later_try_finds_the_job_of_an_earlier_one_and_nobody_elses(cluster, capsys):
    client, wanted = JobClient("trainjob"), built()
    created = _start_or_find(client, wanted)
    found = _start_or_find(client, built())
    assert created and found and found["metadata"]["uid"] == created["metadata"]["uid"]
    assert "shades-1 in team-a: found, of an earlier try of this stage" in capsys.readouterr().out
    assert _start_or_find(client, built(training_queue="gpus")) is None  # other fields: another name
    cluster.jobs["shades-1"]["metadata"]["deletionTimestamp"] = "2026-11-29T12:00:00Z"
    assert _start_or_find(client, wanted) is None
    del cluster.jobs["shades-1"]["metadata"]["deletionTimestamp"]
    ends("Failed", "FailedJobs")(cluster, cluster.jobs["shades-1"])
    assert _start_or_find(client, wanted) is None
    del cluster.jobs["shades-1"]["metadata"]["annotations"]
    with pytest.raises(
        InputError, match=r"must be one that kfp-vision created; got shades-1 in team-a\. Choose another model_name"
    ):
        _start_or_find(client, wanted)


def test_409_of_the_creation_itself_finds_the_job_that_came_between(cluster):
    client = JobClient("trainjob")
    assert client.create(built()) and client.create(built()) is None


@pytest.mark.parametrize(("api", "plural"), [("trainjob", "trainjobs"), ("tfjob", "tfjobs")])
def test_the_check_names_what_the_cluster_lacks(cluster, api, plural):
    client = JobClient(api)
    client.check("kfp-vision")
    cluster.denied = {f"create {plural}", "get pods/log"}
    with pytest.raises(
        InputError, match=rf"got no right to create {plural}, get pods/log\. Apply the roles: kubectl apply -n team-a"
    ):
        client.check("kfp-vision")
    cluster.denied, cluster.kinds = set(), cluster.kinds - {plural}
    with pytest.raises(InputError, match=f"got no {plural} in .* Install Kubeflow('s)? .*, or workers to 1"):
        client.check("kfp-vision")


def test_the_check_names_a_missing_runtime(cluster):
    with pytest.raises(InputError, match=r"got gpus\. Apply it: kubectl apply -n team-a -k manifests/training\."):
        JobClient("trainjob").check("gpus")


def test_a_refusal_of_the_api_is_one_line(cluster):
    cluster.denied = {"create trainjobs"}
    with pytest.raises(InputError) as refusal:
        follow(cluster)
    assert error_line(refusal).startswith(
        "error: the stages must be allowed to train with several workers; got HTTP 403 in team-a"
    )
    cluster.denied = set()
    wanted = built()
    wanted["spec"]["trainer"]["cpus"] = 1
    with pytest.raises(InputError, match="strict decoding error"):
        JobClient("trainjob").create(wanted)


PROXY_PAGE = b"<html>upstream connect error\xff</html>"
IS_AWAY = [
    (200, PROXY_PAGE),
    (200, b"[]"),
    (500, b'{"message": "etcdserver: request timed out"}'),
    (503, PROXY_PAGE),
    (429, b"null"),
]


@pytest.mark.parametrize("answer", IS_AWAY)
def test_a_cluster_that_is_away_for_a_while_is_asked_again(cluster, answer, capsys):
    def is_away(cluster: TrainingCluster, job: dict) -> None:
        cluster.broken = [answer] * 3

    cluster.steps, cluster.broken = [starts, runs, is_away, waits, completes], [answer] * 2
    client, stop = JobClient("trainjob"), threading.Event()
    job = _ask_patiently(lambda: _start_or_find(client, built()), stop, poll_seconds=0.01)
    assert job and JobFollower(client, job, stop, 2, poll_seconds=0.01).follow()
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("asks again, since the cluster must answer") for line in printed) == 1
    assert sum(line.startswith("the cluster does not answer: error: the cluster must answer") for line in printed) == 1


def test_a_cluster_that_stays_away_is_given_up_in_one_line(cluster):
    cluster.broken = [(503, PROXY_PAGE)] * 99
    client = JobClient("trainjob")
    with pytest.raises(UnreachableError) as refusal:
        _ask_patiently(client.stage, threading.Event(), seconds=0.1, poll_seconds=0.02)
    assert "the cluster must answer; got HTTP 503 in team-a (<html>upstream connect error" in error_line(refusal)


@pytest.mark.parametrize("body", [b"RBAC: access denied", b'{"message": null}', b"[1]", b""])
def test_a_refusal_by_what_is_between_the_stage_and_the_api_is_one_line(cluster, body):
    cluster.broken = [(403, body)]
    with pytest.raises(InputError) as refusal:
        follow(cluster)
    assert "the cluster must accept the trainjobs of the training; got HTTP 403 in team-a (" in error_line(refusal)


def test_a_training_that_is_done_does_not_fail_for_what_cannot_be_deleted(cluster, capsys):
    assert follow(cluster, starts, runs, completes)
    cluster.denied = {"delete trainjobs"}
    _clean_up(JobClient("trainjob"), "shades-1", ())
    warned = capsys.readouterr().out.splitlines()[-1]
    assert warned.startswith("warning: not all of the job shades-1 is deleted (the stages must be allowed to train")


def test_a_log_of_any_bytes_and_messages_of_any_length_are_shown_in_short_lines(cluster, capsys):
    message = "words " * 2000
    log = says("caf\udce9 \udcff", "last line")
    restarted = (starts, runs, log, fails(1, 137, "OOMKilled", message), restarts)
    assert follow(cluster, *restarted, waits, completes)
    printed = capsys.readouterr().out.splitlines()
    assert "caf\ufffd \ufffd" in printed and "last line" in printed
    assert max(map(len, printed)) < 1000
    cluster.jobs.clear()
    cluster.jobsets.clear()
    cluster.pods.clear()

    def is_refused(cluster: TrainingCluster, job: dict) -> None:
        cluster.warn("Job", "shades-1-node-0", "FailedCreate", message)

    with pytest.raises(InputError) as refusal:
        follow(cluster, is_refused)
    assert "FailedCreate: words words" in error_line(refusal) and len(error_line(refusal)) < 1000


def test_two_runs_at_once_do_not_share_the_folder_of_records_which_the_first_to_end_deletes():
    first, second = "run-id-1/run-1.root.train.executor", "run-id-2/run-1.root.train.executor"
    assert inputs_folder(first, "records") == inputs_folder(first, "records")
    assert len({inputs_folder(first, "records"), inputs_folder(second, "records"), inputs_folder(first, "others")}) == 3
