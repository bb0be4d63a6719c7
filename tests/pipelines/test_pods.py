"""The whole behaviour on a cluster on one page: what every stage asks for, read back from the committed pipelines."""

from pathlib import Path

import pytest
import yaml

from kfp_vision import __version__
from kfp_vision.pipelines import PIPELINES

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("stage", "image", "cores", "memory", "room", "hours", "tries", "cached", "secrets", "node")
TABLE = """
call_endpoint       kfp-vision      1-8     2Gi-8Gi    100Gi   12  3  no   storage  any
check_prediction    kfp-vision      250m-2  512Mi-2Gi  10Gi     1  1  no   storage  any
check_preparation   kfp-vision      250m-2  512Mi-2Gi  10Gi     1  1  no   storage  any
check_run           kfp-vision      250m-2  512Mi-2Gi  10Gi     1  1  no   storage  any
check_sweep         kfp-vision      250m-2  512Mi-2Gi  10Gi     1  1  no   storage  any
check_training      kfp-vision      250m-2  512Mi-2Gi  10Gi     1  1  no   storage  any
choose_trials       kfp-vision      250m-2  512Mi-2Gi  10Gi     1  1  yes  none     any
compare_trials      kfp-vision      250m-2  512Mi-2Gi  100Gi    6  1  yes  none     any
decide_training     kfp-vision      250m-2  512Mi-2Gi  10Gi     1  3  no   storage  any
check_serving       kfp-vision      1-8     2Gi-8Gi    100Gi   12  1  no   none     any
deploy_model        kfp-vision      1-8     2Gi-8Gi    100Gi   12  3  no   storage  any
evaluate_classifier kfp-vision      1-8     2Gi-8Gi    100Gi   12  3  no   storage  any
fetch_records       kfp-vision      1-8     1Gi-8Gi    500Gi   24  3  no   storage  any
fetch_model         kfp-vision      1-8     2Gi-8Gi    100Gi   12  3  no   storage  any
fingerprint_images  kfp-vision      250m-2  512Mi-2Gi  10Gi    12  3  no   storage  any
ingest_images       kfp-vision      1-8     1Gi-8Gi    500Gi   24  3  yes  storage  any
join_predictions    kfp-vision      250m-2  512Mi-2Gi  100Gi    6  1  yes  none     any
join_records        kfp-vision      1-8     1Gi-8Gi    500Gi   24  1  yes  none     any
partition_records   kfp-vision      250m-2  512Mi-2Gi  10Gi     1  1  yes  none     any
predict_images      kfp-vision      1-8     2Gi-8Gi    500Gi   72  3  no   storage  any
report_outcome      kfp-vision      250m-2  512Mi-2Gi  10Gi     1  1  no   webhook  any
split_images        kfp-vision      250m-2  1Gi-8Gi    10Gi     6  1  yes  none     any
train_classifier    kfp-vision-gpu  2-16    4Gi-32Gi   500Gi  336  3  yes  storage  gpu,selector,tolerations
train_trial         kfp-vision-gpu  2-16    4Gi-32Gi   500Gi  336  3  yes  storage  gpu,selector,tolerations
watch_training      kfp-vision      250m-2  512Mi-2Gi  10Gi     1  1  yes  none     any
write_tfrecords     kfp-vision      1-8     1Gi-8Gi    500Gi   24  3  yes  storage  any
"""


def asked(name: str) -> dict[str, tuple[str, ...]]:
    """A row of the table by stage, as a committed pipeline says it."""
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
        image, version = container["image"].split(":")
        assert version == __version__
        resources, (mount,) = container["resources"], pod["emptyDirMounts"]
        assert mount["mountPath"] == "/tmp" and pod["imagePullPolicy"] == "IfNotPresent"
        assert [secret["secretName"] for secret in pod["imagePullSecret"]] == ["kfp-vision-registry"]
        retries = task.get("retryPolicy", {}).get("maxRetryCount", 0)
        hours = int(pod["activeDeadlineSeconds"]) / 3600
        if retries:
            in_all = {"backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": f"{hours * 3600 * 3:.0f}s"}
            assert task["retryPolicy"] == in_all | {"maxRetryCount": 2}
        secrets = [secret["secretName"].removeprefix("kfp-vision-") for secret in pod.get("secretAsEnv", [])]
        node = ["gpu"] * ("accelerator" in resources)
        node += ["selector"] * ("nodeSelector" in pod) + ["tolerations"] * ("tolerations" in pod)
        rows[component.removeprefix("comp-").replace("-", "_")] = (
            image,
            f"{resources['resourceCpuRequest']}-{resources['resourceCpuLimit']}",
            f"{resources['resourceMemoryRequest']}-{resources['resourceMemoryLimit']}",
            mount["sizeLimit"],
            f"{hours:g}",
            str(1 + retries),
            "yes" if task["cachingOptions"].get("enableCache") else "no",
            ",".join(secrets) or "none",
            ",".join(node) or "any",
        )
    return rows


@pytest.mark.parametrize("name", PIPELINES)
def test_each_stage_is_given_what_the_table_says(name):
    rows = {stage: tuple(row) for stage, *row in map(str.split, TABLE.strip().splitlines())}
    found = asked(name)
    assert {stage: dict(zip(COLUMNS[1:], row, strict=True)) for stage, row in found.items()} == {
        stage: dict(zip(COLUMNS[1:], rows[stage], strict=True)) for stage in found
    }


def test_the_table_tells_of_no_stage_that_is_not_there():
    assert {line.split()[0] for line in TABLE.strip().splitlines()} == {stage for name in PIPELINES for stage in asked(name)}
