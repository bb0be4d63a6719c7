"""Looks at what this machine and its environment offer, and says what will work: `kfp-vision doctor`."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kfp_vision import PLACEHOLDER, REGISTRY
from kfp_vision.cli import program
from kfp_vision.core import hardware, processor
from kfp_vision.core.errors import AccessError, InputError, UnreachableError, redact
from kfp_vision.reports.formatting import plural

GIB = 2**30
LEAST_MEMORY, ENOUGH_MEMORY = 2 * GIB, 4 * GIB  # the training's request in pipelines/pods.py is 4 GiB
ENOUGH_DISK = 5 * GIB
SECONDS = 5  # for each service to answer
HTTP_ANSWER = re.compile(r"HTTP \d+(?: \(\w+\))?")
PROBE = "kfp-vision-doctor"  # a bucket that need not exist
GOOGLE_VARIABLES = ("GOOGLE_CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST")
AMAZON_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID")
TENCENT_VARIABLES = ("COS_ENDPOINT", "COS_REGION")
ENDPOINT_VARIABLE = "KFP_ENDPOINT"  # of KFP's own command
# An extra of the package, and a package that only it installs. Either one of the first two trains.
EXTRAS = {"cpu": ("tensorflow-cpu",), "gpu": ("tensorflow",), "serve": ("kserve",), "docker": ("docker",)}
YES, NO, PARTLY = "yes", "no", "partly"
MARKS = {YES: "yes   ", NO: "no    ", PARTLY: "partly"}


@dataclass(frozen=True)
class Finding:
    """What was found out about one thing.

    Attributes:
        what: the thing, such as `memory`.
        works: `yes`, `no`, or `partly`.
        found: what is there.
        remedy: what to do if something is to change; empty if all is well.
    """

    what: str
    works: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{MARKS[self.works]}  {self.what:18} {self.found}{f' {self.remedy}' if self.remedy else ''}"


@dataclass(frozen=True)
class Diagnosis:
    """What is here, and what will work.

    Attributes:
        here: what was found.
        will_work: what a person may want to do.
    """

    here: tuple[Finding, ...]
    will_work: tuple[Finding, ...]

    @property
    def anything_works(self) -> bool:
        """Whether there is anything that this machine can do."""
        return any(finding.works != NO for finding in self.will_work)

    def as_json(self) -> dict[str, Any]:
        """Returns the findings, ready for JSON."""
        return {
            "here": {finding.what: _without_name(finding) for finding in self.here},
            "will_work": {finding.what: _without_name(finding) for finding in self.will_work},
        }


def _without_name(finding: Finding) -> dict[str, str]:
    return {name: value for name, value in asdict(finding).items() if name != "what"}


def examine(uris: Sequence[str] = (), endpoint: str = "") -> Diagnosis:
    """Looks at everything; what has to answer has some seconds for it, all at the same time.

    Args:
        uris: addresses to read, besides the stores that the environment names.
        endpoint: address of Kubeflow Pipelines; by default `KFP_ENDPOINT`.

    Returns:
        The findings.

    Example:
        ```python
        examine(["s3://bucket/photos"]).anything_works
        ```
    """
    endpoint = endpoint or os.environ.get(ENDPOINT_VARIABLE, "")
    asked: list[Callable[[], Finding]] = [container_engine, kubernetes, *_stores()]
    asked += [_reader(uri) for uri in uris]
    if endpoint:
        asked.append(lambda: pipelines_api(endpoint))
    with ThreadPoolExecutor(max_workers=len(asked)) as pool:
        answers = [pool.submit(question) for question in asked]
        local = [
            python(),
            memory(hardware.memory()),
            cores(),
            disk(Path.cwd()),
            arithmetic(processor.cpu_flags()),
            gpu(),
            *extras(),
            container_images(),
        ]
        here = (*local, *(answer.result() for answer in answers))
    return Diagnosis(here, tuple(conclusions({finding.what: finding for finding in here})))


def conclusions(here: Mapping[str, Finding]) -> Iterator[Finding]:
    """Says what will work.

    Args:
        here: what was found, by name.

    Yields:
        A finding for each thing that a person may want to do.
    """
    trains = [here[extra] for extra in ("extra cpu", "extra gpu") if here[extra].works == YES]
    lacking = [] if trains else ["Install kfp-vision[cpu]."]
    lacking += [here["memory"].remedy] if here["memory"].works == NO else []
    slow = here["arithmetic"].works != YES and here["gpu"].works != YES
    works = NO if lacking else PARTLY if slow or here["memory"].works == PARTLY or here["disk"].works == PARTLY else YES
    speed = "on a GPU" if here["gpu"].works == YES else "on the processor, with gpu_count=0"
    yield Finding("run", works, f"kfp-vision run: a pipeline on this machine, {speed}.", " ".join(lacking))
    engine = here["container engine"]
    yield Finding(
        "run in containers", engine.works, "kfp-vision run --runner docker.", "" if engine.works == YES else engine.remedy
    )
    lacking = [] if trains else ["Install kfp-vision[cpu]."]
    lacking += [] if here["extra serve"].works == YES else ["Install kfp-vision[serve]."]
    yield Finding("serve", NO if lacking else YES, "kfp-vision serve: a model over HTTP.", " ".join(lacking))
    compiles = here["python"].works
    yield Finding("compile", compiles, "kfp-vision compile: the pipelines as YAML, for a cluster.", here["python"].remedy)
    if "Kubeflow Pipelines" in here:
        cluster = here["Kubeflow Pipelines"]
        yield Finding("submit", cluster.works, "kfp run create: a run on the cluster.", cluster.remedy)


def python() -> Finding:
    """Looks at Python and at KFP, which compiles the pipelines."""
    right = (3, 11) <= sys.version_info[:2] < (3, 14)
    found = (
        f"{platform.python_version()} on {platform.system()} {platform.machine()}, kfp {package_version('kfp') or 'missing'}."
    )
    remedy = "" if right else "Use Python 3.11, 3.12 or 3.13."
    return Finding("python", YES if right and package_version("kfp") else NO, found, remedy)


def memory(size: int) -> Finding:
    """Judges the memory.

    Args:
        size: bytes that this process may use.
    """
    works = YES if size >= ENOUGH_MEMORY else PARTLY if size >= LEAST_MEMORY else NO
    remedy = (
        "" if works == YES else f"A training needs some {ENOUGH_MEMORY // GIB} GiB: use a smaller batch_size or image_size."
    )
    return Finding("memory", works, f"{size / GIB:.1f} GiB, within the limits of the container if there is one.", remedy)


def cores() -> Finding:
    """Looks at the cores that this process may use."""
    count = hardware.cores()
    return Finding("cores", YES, f"{count} of the machine's {os.cpu_count()}.")


def disk(folder: Path) -> Finding:
    """Looks at the space where runs are written.

    Args:
        folder: the working folder, in which `kfp-vision run` makes the folder runs.
    """
    free = shutil.disk_usage(folder).free
    works = YES if free >= ENOUGH_DISK else PARTLY
    remedy = "" if works == YES else "A run keeps a copy of the images: make room, or name a larger disk by --output."
    return Finding("disk", works, f"{free / GIB:.0f} GiB free in {folder}.", remedy)


def arithmetic(flags: Iterable[str]) -> Finding:
    """Judges whether the processor computes in bfloat16.

    Args:
        flags: the processor's features, as Linux names them.
    """
    fast = sorted(hardware.FAST_BFLOAT16_FLAGS & set(flags))
    if fast:
        return Finding("arithmetic", YES, f"bfloat16 in hardware ({', '.join(fast)}): trainings use it.")
    return Finding("arithmetic", PARTLY, "no bfloat16 in hardware: trainings compute in float32, which takes longer.")


def gpu() -> Finding:
    """Asks NVIDIA's driver for GPUs, without starting TensorFlow."""
    names: list[str] = []
    if program := shutil.which("nvidia-smi"):
        command = [program, "--query-gpu=name", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
            names = done.stdout.strip().splitlines() if done.returncode == 0 else []
    if not names:
        return Finding("gpu", NO, "no NVIDIA GPU here.", "Set gpu_count to 0, as quick_classification does.")
    remedy = "" if package_version("tensorflow") else "Install kfp-vision[gpu] to train on it."
    return Finding("gpu", YES if not remedy else PARTLY, f"{', '.join(names)}.", remedy)


def extras() -> list[Finding]:
    """Looks for the optional packages, without importing them."""
    found = []
    for extra, packages in EXTRAS.items():
        versions = {package: package_version(package) for package in packages}
        here = all(versions.values())
        words = ", ".join(f"{package} {number or 'missing'}" for package, number in versions.items())
        found.append(Finding(f"extra {extra}", YES if here else NO, f"{words}."))
    return found


def container_engine() -> Finding:
    """Asks docker or podman whether it answers."""
    from kfp_vision.cli import containers

    try:
        client = containers.connect_engine(SECONDS)
        with contextlib.closing(client):
            name = str(client.version().get("Platform", {}).get("Name") or "an engine")
    except InputError as error:
        return Finding("container engine", NO, "none answers.", _remedy(error))
    return Finding("container engine", YES, f"{name} answers.")


def kubernetes() -> Finding:
    """Looks for a cluster in the configuration of kubectl, or around this pod, and asks it for its version."""
    what = "Kubernetes"
    if not package_version("kubernetes"):
        return Finding(what, NO, "not looked for.", "Install kfp-vision[cpu].")
    from kubernetes import client, config
    from urllib3.exceptions import HTTPError

    from kfp_vision.core import kube_config

    try:
        configuration, namespace = kube_config.load_configuration()
    except (config.ConfigException, OSError):
        return Finding(what, NO, "no configuration of a cluster here; none is needed for runs on this machine.")
    configuration.retries = False
    try:
        with client.ApiClient(configuration) as api:
            answer = client.VersionApi(api).get_code(_request_timeout=SECONDS)
    except (client.ApiException, HTTPError, OSError) as error:
        found = f"{configuration.host} does not answer ({type(error).__name__})."
        return Finding(what, NO, found, "Check kubectl cluster-info.")
    return Finding(what, YES, f"{answer.git_version} at {configuration.host}, namespace {namespace}.")


def pipelines_api(endpoint: str) -> Finding:
    """Asks Kubeflow Pipelines whether it answers.

    Args:
        endpoint: its address.
    """
    import requests

    what, address = "Kubeflow Pipelines", f"{endpoint.rstrip('/')}/apis/v2beta1/healthz"
    try:
        answer = requests.get(address, timeout=SECONDS)
    except (requests.RequestException, ValueError) as error:  # ValueError: no address
        return Finding(what, NO, f"{redact(endpoint)} does not answer ({type(error).__name__}).", "Check the address.")
    if answer.status_code in (401, 403):
        return Finding(what, PARTLY, f"{redact(endpoint)} answers, and asks who you are.", "Log in, or give kfp a token.")
    if not answer.ok or not answer.text.lstrip().startswith("{"):
        found = f"{redact(endpoint)} answers, but is no Kubeflow Pipelines (HTTP {answer.status_code})."
        return Finding(what, NO, found, "Check the address.")
    return Finding(what, YES, f"{redact(endpoint)} answers.")


def _stores() -> list[Callable[[], Finding]]:
    """Lists a question for each store that the environment names."""
    questions: list[Callable[[], Finding]] = []
    if _any_set(AMAZON_VARIABLES):
        questions.append(lambda: bucket_store("s3"))
    if _any_set(TENCENT_VARIABLES):
        questions.append(lambda: bucket_store("cos"))
    if _any_set(GOOGLE_VARIABLES):
        questions.append(google_store)
    return questions


def _any_set(names: Iterable[str]) -> bool:
    return any(os.environ.get(name, "").strip() for name in names)


def bucket_store(scheme: str) -> Finding:
    """Asks an S3-compatible store for its buckets.

    Args:
        scheme: `s3` or `cos`.
    """
    what = f"store {scheme}://"
    try:
        from kfp_vision.storage import s3
    except ModuleNotFoundError:
        return Finding(what, NO, "not looked for.", "Install kfp-vision[cpu].")
    address = "the address in the environment"
    try:
        store = s3.store(f"{scheme}://{PROBE}")
        address = store.server(f"{scheme}://{PROBE}")
        buckets = store.buckets()
    except AccessError as error:
        answer = HTTP_ANSWER.search(str(error))
        found = f"{address} answers, and refuses the key or to list its buckets ({answer[0] if answer else 'no reason'})."
        return Finding(what, PARTLY, found, f"Name a bucket to try it: {program.typed_name()} doctor {scheme}://bucket.")
    except UnreachableError as error:
        return Finding(what, NO, f"{address} does not answer.", _remedy(error))
    except InputError as error:
        return Finding(what, NO, f"{address} is wrong.", str(error).removeprefix(InputError.PREFIX))
    return Finding(what, YES, f"{address} answers, with {plural(len(buckets), 'bucket', 'buckets')}.")


def google_store() -> Finding:
    """Asks Google Cloud Storage for an object that need not exist."""
    what = "store gs://"
    from kfp_vision.storage import base, stores

    try:
        stores.store(f"gs://{PROBE}/none").find(f"gs://{PROBE}/none")
    except base.ObjectNotFound:
        pass
    except AccessError as error:
        return Finding(what, PARTLY, "answers, and does not let this key read everything.", _remedy(error))
    except ModuleNotFoundError:
        return Finding(what, NO, "not looked for.", "Install kfp-vision[cpu].")
    except InputError as error:
        return Finding(what, NO, "does not answer.", _remedy(error))
    return Finding(what, YES, "Google Cloud Storage answers.")


def asked_for(uris: Sequence[str]) -> set[str]:
    """Returns the names of the findings about addresses that a person gave.

    Args:
        uris: the addresses.
    """
    return {redact(uri) for uri in uris}


def container_images() -> Finding:
    """Says where a cluster pulls the container images from, as the committed YAML names them."""
    what = "container images"
    if REGISTRY == PLACEHOLDER:
        found = f"the YAML names {REGISTRY}, a placeholder that no cluster can pull from."
        return Finding(what, NO, found, "Build and push them, and compile with --registry HOST/PATH.")
    return Finding(what, YES, f"in {REGISTRY}.")


def _reader(uri: str) -> Callable[[], Finding]:
    return lambda: readable(uri)


def readable(uri: str) -> Finding:
    """Tries whether there is something to read at an address.

    Args:
        uri: a folder, file or archive, local or in a store.
    """
    from kfp_vision.storage import reading

    what = redact(uri)
    try:
        reading.check_exists(uri, "the address")
    except ModuleNotFoundError:
        return Finding(what, NO, "not looked for.", "Install kfp-vision[cpu].")
    except InputError as error:
        return Finding(what, NO, "cannot be read:", str(error).removeprefix(InputError.PREFIX))
    return Finding(what, YES, "can be read.")


def package_version(package: str) -> str:
    """Returns the version of an installed package, without importing it; empty if it is not installed.

    Args:
        package: its name, as pip installs it.
    """
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def versions_in_words() -> str:
    """Returns the versions of this package and of those that decide what it does."""
    tensorflow = package_version("tensorflow") or package_version("tensorflow-cpu")
    others = {"kfp": package_version("kfp"), "TensorFlow": tensorflow, "Keras": package_version("keras")}
    words = [f"{name} {number or 'not installed'}" for name, number in others.items()]
    return f"({', '.join([*words, f'Python {platform.python_version()}'])})"


def _remedy(error: InputError) -> str:
    """Returns the last sentence of an error, which says what to do."""
    return str(error).rpartition(". ")[2]
