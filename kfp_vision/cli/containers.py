"""Runs stages in their own container images on this machine, through docker or podman, as a cluster does.

The root file system is read-only and no stage runs as root. Containers have a network only if a field contains a remote
address. Of this machine they see the run's folder, the paths in the fields, and a scratch folder that all stages share as /tmp.
"""

import codecs
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kfp import local
from kfp.dsl.graph_component import GraphComponent

from kfp_vision import PLACEHOLDER, REGISTRY
from kfp_vision.components.container_images import CPU_NAME, GPU_IMAGE, GPU_NAME
from kfp_vision.core.errors import InputError
from kfp_vision.core.values import ONE
from kfp_vision.dataset import import_files
from kfp_vision.dataset.import_lines import LabelRule
from kfp_vision.networks import IMAGENET
from kfp_vision.reports import outcome
from kfp_vision.storage import atomic, base
from kfp_vision.storage.uris import SAMPLE, absolute_uri, scheme_of, split_member

# Local paths in these fields are mounted read-only.
READ_FIELDS = (
    "images_uri",
    "leave_out_uri",
    "labels_uri",
    "records_uri",
    "model_uri",
    "checkpoint_uri",
    "index_uri",
    "queries_uri",
    "collected_uri",
    "logged_uri",
    "test_image_uri",
    "predict_uri",
)
# Local folders in these fields are created if missing, and mounted writable.
WRITTEN_FIELDS = ("deploy_to", "log_uri", "checkpoint_dir")
IMAGE_USER = "10001:0"  # as in the Dockerfiles; the group has write access
ROOTLESS_ROOT = "0:0"  # in a rootless engine this is the calling user outside
TMP = "/tmp"
BRIDGE = "bridge"
ENGINE_SECONDS = 60  # docker's own default
KILLED_EXIT_CODE = 137
STAGE_OPTION = "--function_to_execute"  # precedes the stage's name in its command
GOOGLE_KEY_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"  # holds the path of a key file


@contextlib.contextmanager
def container_runner(
    pipeline: GraphComponent, values: Mapping[str, Any], run_dir: Path, registry: str = "", network: str = BRIDGE
) -> Iterator[local.DockerRunner]:
    """Sets up KFP's container runner for one run; valid only inside the `with`. Creates the run's folder.

    Args:
        pipeline: an entry of `kfp_vision.pipelines.PIPELINES`.
        values: values of all fields of the form.
        run_dir: folder that the stages write to.
        registry: host and path of the registry that holds the container images; empty for the engine's local ones.
        network: the engine's network for stages that need one, or `container:NAME` to share that of a container.

    Yields:
        The runner, for `kfp.local.init`.

    Raises:
        InputError: no engine answers, an image is missing and cannot be pulled, or a folder cannot be shared.

    Example:
        ```python
        with container_runner(pipeline, values, run_dir) as kfp_runner:
            local.init(kfp_runner, pipeline_root=str(run_dir))
        ```
    """
    client = connect_engine()
    gpus = int(values.get("gpu_count", 0))
    wanted = {image: image_name(image, registry, gpus) for image in _images(pipeline)}
    found = {name: _find_image(client, name) for name in sorted(set(wanted.values()))}
    names = {image: found[name] for image, name in wanted.items()}
    user = container_user(client)
    with atomic.temporary_folder() as scratch, _replace_run(partial(_run_stage, names=names, gpus=gpus)):
        for folder in (scratch, run_dir):
            _share(folder, user)
        shared = mounts(values, user)
        _create_targets(scratch, [run_dir, *(Path(mount["Target"]) for mount in shared)])
        yield local.DockerRunner(
            user=user,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode=network if needs_network(values) else "none",
            mounts=[_mount(scratch, TMP), *shared],
            environment=credentials() | outcome.failures_environment(run_dir),
        )


def connect_engine(seconds: int = ENGINE_SECONDS) -> Any:
    """Connects to the container engine in DOCKER_HOST, or to docker's default.

    Args:
        seconds: to wait for each of its answers.

    Returns:
        A client, of the Python package docker.

    Raises:
        InputError: the package is missing, or no engine answers.
    """
    try:
        import docker
    except ModuleNotFoundError:
        remedy = "Install kfp-vision[docker]."
        raise InputError("the Python package docker must be installed for --runner docker", "none", remedy) from None
    try:
        client = docker.from_env(timeout=seconds)
        client.ping()
    except docker.errors.DockerException as error:
        remedy = "Start docker or podman, or set DOCKER_HOST to its address."
        raise InputError(
            "a container engine must answer", f"{os.environ.get('DOCKER_HOST', 'none')} ({error})", remedy
        ) from None
    return client


def image_name(image: str, registry: str, gpus: int) -> str:
    """Returns the full name of the container image to use for a stage.

    A training without a GPU uses the CPU image, which is smaller and holds the same code.

    Args:
        image: image in the compiled pipeline.
        registry: host and path of the registry; empty for the engine's local images.
        gpus: number of GPUs of the run.

    Returns:
        The name, with the registry.
    """
    name = GPU_NAME if image == GPU_IMAGE and gpus else CPU_NAME
    return f"{registry.rstrip('/')}/{name}" if registry else name


def container_user(client: Any) -> str:
    """Returns the user that stages run as: the calling user, but never root.

    Args:
        client: a client of the engine.

    Returns:
        User and group IDs as `user:group`.
    """
    if any("name=rootless" in option for option in client.info().get("SecurityOptions") or []):
        return ROOTLESS_ROOT
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else IMAGE_USER


def needs_network(values: Mapping[str, Any]) -> bool:
    """Checks whether a field contains a remote address.

    Args:
        values: values of all fields.

    Returns:
        Whether the run needs a network.
    """
    uris = _read_uris(values) | set(_written_uris(values))
    return any(uri == IMAGENET or scheme_of(uri) not in ("", "file", SAMPLE) for uri in uris)


def mounts(values: Mapping[str, Any], user: str) -> list[Any]:
    """Lists the mounts of all local paths in the fields, each at its own path.

    Args:
        values: values of all fields.
        user: user of the containers, from `container_user`.

    Returns:
        The mounts, read-only ones first.

    Raises:
        InputError: the user cannot read a path, or a folder cannot be created.
    """
    key_file = [os.environ[GOOGLE_KEY_VARIABLE]] if os.environ.get(GOOGLE_KEY_VARIABLE) else []
    read = {path for uri in [*_read_uris(values), *key_file] for path in local_paths(uri)}
    written = {path for path in map(Path, _written_uris(values)) if path.is_absolute()}
    for path in sorted(read - written):
        _check_readable(path, user)
    for path in sorted(written):
        _share(path, user)
    outermost = [path for path in sorted(read - written) if not read & set(path.parents)]
    return [_mount(path, path, read_only=True) for path in outermost] + [_mount(path, path) for path in sorted(written)]


def credentials() -> dict[str, str]:
    """Selects the environment variables with the addresses and credentials of stores and registries, to pass to the stages."""
    from kfp_vision.repository import registries  # not before it is needed, since it imports requests

    names = (*base.ENVIRONMENT_VARIABLES, GOOGLE_KEY_VARIABLE, *registries.ENVIRONMENT)
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def local_paths(uri: str) -> list[Path]:
    """Finds the local files or folders that a URI refers to: the archive of `archive#member`, the files of a checkpoint prefix.

    Args:
        uri: a URI in a field.

    Returns:
        The paths; empty if the URI is remote.
    """
    uri = IMAGENET if uri == IMAGENET else absolute_uri(uri)
    if not Path(uri).is_absolute():
        return []
    ends = [len(uri), *(position for position, character in enumerate(uri) if character == "#")]
    for path in (Path(uri[:end]) for end in ends):
        if path.exists():
            return [path]
    return [file for file in Path(uri).parent.iterdir() if file.name.startswith(f"{Path(uri).name}.")]


def _read_uris(values: Mapping[str, Any]) -> set[str]:
    """Lists the URIs that a run reads: those in the fields, and the folders of the images in local import files."""
    uris = set(_uris_in(values, READ_FIELDS))
    # An exclusion list is a CSV file too, but not an import file.
    data_uris = _uris_in(values, (field for field in READ_FIELDS if field != "leave_out_uri"))
    files = [uri for uri in data_uris if import_files.is_import_file(uri) and local_paths(uri)]
    labels = LabelRule.of_fields(values.get("labels", ONE), values.get("advanced", {}).get("label_separator", ""))
    return uris | {named for uri in files for named in _named_uris(uri, labels)}


def _named_uris(import_file: str, labels: LabelRule) -> Iterator[str]:
    """Yields the URIs and the local folders of the images that an import file names, and its own if one must be looked for."""
    for entry in import_files.read_import_file(import_file, labels).entries:
        if scheme_of(entry.uri):
            yield entry.uri
            continue
        path = Path(split_member(entry.uri)[0])
        yield str(path.parent if path.is_file() else Path(absolute_uri(import_file)).parent)


def _written_uris(values: Mapping[str, Any]) -> list[str]:
    """Lists the URIs that a run writes to; a collection only if logged requests are added to it."""
    return _uris_in(values, [*WRITTEN_FIELDS, *(["collected_uri"] if values.get("logged_uri") else [])])


def _uris_in(values: Mapping[str, Any], fields: Iterable[str]) -> list[str]:
    """Lists the URIs in some fields; the checkpoint's only if it is used: to fine-tune, or to search without a model."""
    uses_checkpoint = values.get("fine_tune", not values.get("model_uri"))
    fields = [name for name in fields if name != "checkpoint_uri" or uses_checkpoint]
    return [values[name] for name in fields if values.get(name)]


def _images(pipeline: GraphComponent) -> set[str]:
    executors = pipeline.pipeline_spec.deployment_spec["executors"].values()
    return {executor["container"]["image"] for executor in executors if "container" in executor}


def _find_image(client: Any, image: str) -> str:
    """Returns the name of an image that is here or could be pulled: of one without a registry, that of the published one."""
    import docker

    try:
        client.images.get(image)  # podman also finds localhost/NAME by the bare name
        return image
    except docker.errors.ImageNotFound:
        image = f"{REGISTRY}/{image}" if "/" not in image and REGISTRY != PLACEHOLDER else image
        print(f"pulling {image}", flush=True)
    try:
        client.images.pull(image)
        return image
    except docker.errors.DockerException:
        remedy = "Build it with make image, or set --registry to the registry that holds it."
        raise InputError("every container image must exist locally or in its registry", image, remedy) from None


def _mount(source: Path | str, target: Path | str, *, read_only: bool = False) -> Any:
    import docker

    return docker.types.Mount(str(target), str(source), type="bind", read_only=read_only)


def _share(folder: Path, user: str) -> None:
    """Creates a folder if it is missing, and makes it writable for the user of the containers."""
    folder.mkdir(parents=True, exist_ok=True)
    if user == IMAGE_USER:
        os.chown(folder, -1, 0)
        folder.chmod(folder.stat().st_mode | 0o2770)


def _create_targets(scratch: Path, targets: Iterable[Path]) -> None:
    """Creates mount targets below /tmp in the scratch folder; the engine would create them as root, undeletable for others."""
    for target in targets:
        if target.is_relative_to(TMP):
            path = scratch / target.relative_to(TMP)
            folder = path if target.is_dir() else path.parent
            folder.mkdir(parents=True, exist_ok=True)
            if not target.is_dir():
                path.touch()


def _check_readable(path: Path, user: str) -> None:
    status = path.stat()
    needed = 0o5 if path.is_dir() else 0o4
    granted = status.st_mode | (status.st_mode >> 3 if status.st_gid == 0 else 0)
    if user == IMAGE_USER and granted & needed != needed:
        rule = f"paths in fields must be readable for {user}, the user of containers started by root"
        raise InputError(rule, path, f"Make it readable: chmod -R o+rX {path}")


@contextlib.contextmanager
def _replace_run(function: Any) -> Iterator[None]:
    """Replaces the function by which KFP runs a container.

    KFP's own lets the engine remove a container as soon as it ends, and reads its exit code afterwards. If the engine is
    faster, which podman always is, a failed stage counts as successful.
    """
    from kfp.local import docker_task_handler

    original = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = function
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = original


def _run_stage(
    client: Any, image: str, command: list[str], volumes: Any, *, names: Mapping[str, str], gpus: int, **options: Any
) -> int:
    """Runs a stage, prints its output, removes its container, and returns its exit code."""
    import docker

    if image == GPU_IMAGE and gpus:
        options["device_requests"] = [docker.types.DeviceRequest(count=gpus, capabilities=[["gpu"]])]
    options["healthcheck"] = {"test": ["NONE"]}  # the image's own expects a server
    try:
        container = client.containers.create(names[image], command, volumes=volumes, **options)
        try:
            container.start()
            for line in _lines(container.logs(stream=True, follow=True)):
                print(line)
            code = int(container.wait()["StatusCode"])
        finally:
            container.remove(force=True)
    except (docker.errors.DockerException, OSError) as error:
        print(InputError("the container engine must run every stage", str(error), "See the engine's own log."))
        return 1
    if code == KILLED_EXIT_CODE:
        stage = command[command.index(STAGE_OPTION) + 1]
        found = f"exit code {code} of a killed container"
        print(InputError(f"{stage} must have enough memory", found, "Give the container engine more."))
    return code


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Joins chunks of output into whole lines."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        yield from lines
    if rest:
        yield rest
