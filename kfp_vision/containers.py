"""The stages in their own container images on this machine, through docker or podman, as a cluster would run them.

The root file system is read-only and nobody is root; there is a network only where a field names an address; of this
machine a stage sees the run's folder, what the fields name, and one scratch folder as /tmp that all stages share.
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

from kfp_vision import listings, outcome, storage, stores
from kfp_vision.components.images import CPU_IMAGE, GPU_IMAGE
from kfp_vision.errors import InputError
from kfp_vision.networks import IMAGENET

# What a local one names is mounted read-only.
READ_FIELDS = (
    "images_uri",
    "leave_out_uri",
    "records_uri",
    "model_uri",
    "checkpoint_uri",
    "index_uri",
    "queries_uri",
    "test_image_uri",
    "predict_uri",
)
WRITTEN_FIELDS = (
    "deploy_to",
    "log_uri",
    "checkpoint_dir",
)  # a folder that a local one names is made where it is missing, and can be written to
IMAGE_USER = "10001:0"  # as in the Dockerfiles; its group is the one that may write
ROOTLESS_ROOT = "0:0"  # in an engine without root's rights, that is the calling user outside
TMP = "/tmp"
BRIDGE = "bridge"
KILLED = 137
STAGE = "--function_to_execute"  # stands before a stage's name in its command
GOOGLES_FILE = "GOOGLE_APPLICATION_CREDENTIALS"  # a path


@contextlib.contextmanager
def runner(
    pipeline: GraphComponent, values: Mapping[str, Any], run_dir: Path, registry: str = "", network: str = BRIDGE
) -> Iterator[local.DockerRunner]:
    """KFP's runner of containers, set up for one run; to be used inside the `with` alone, which makes the run's folder.

    Args:
        pipeline: an entry of `kfp_vision.pipelines.PIPELINES`.
        values: of every field of its form.
        run_dir: where the stages write.
        registry: host and path of the registry that holds the images; empty for the engine's own.
        network: the engine's network that the stages are in where they need one, or `container:NAME` for that of a container.

    Raises:
        InputError: no engine answers, an image is neither there nor can be pulled, or a folder cannot be shared.
    """
    client = engine()
    gpus = int(values.get("gpu_count", 0))
    names = {image: image_for(image, registry, gpus) for image in _images(pipeline)}
    for name in sorted(set(names.values())):
        _find(client, name)
    user = user_for(client)
    with storage.temporary() as scratch, _run_by(partial(_run, names=names, gpus=gpus)):
        for folder in (scratch, run_dir):
            _share(folder, user)
        shared = mounts(values, user)
        _lay_out(scratch, [run_dir, *(Path(mount["Target"]) for mount in shared)])
        yield local.DockerRunner(
            user=user,
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            network_mode=network if needs_network(values) else "none",
            mounts=[_mount(scratch, TMP), *shared],
            environment=credentials() | outcome.environment(run_dir),
        )


def engine() -> Any:
    """A client of the container engine that DOCKER_HOST names, or of docker's own.

    Raises:
        InputError: there is none, or it does not answer.
    """
    try:
        import docker
    except ModuleNotFoundError:
        remedy = "Install kfp-vision[docker]."
        raise InputError("--runner docker must find the Python package docker", "none", remedy) from None
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        remedy = "Start docker or podman, or name in DOCKER_HOST where it listens."
        raise InputError(
            "a container engine must answer", f"{os.environ.get('DOCKER_HOST', 'none')} ({error})", remedy
        ) from None
    return client


def image_for(image: str, registry: str, gpus: int) -> str:
    """The image a stage runs in here: training without a GPU in the small one, which holds the same code."""
    name = CPU_IMAGE if image == GPU_IMAGE and not gpus else image
    return f"{registry.rstrip('/')}/{name}" if registry else name


def user_for(client: Any) -> str:
    """Who the stages run as: whoever calls, but never root."""
    if any("name=rootless" in option for option in client.info().get("SecurityOptions") or []):
        return ROOTLESS_ROOT
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else IMAGE_USER


def needs_network(values: Mapping[str, Any]) -> bool:
    """Whether a field names an address that the run goes to."""
    uris = _read_of(values) | set(_used(values, WRITTEN_FIELDS))
    return any(uri == IMAGENET or storage.scheme(uri) not in ("", "file", storage.SAMPLE) for uri in uris)


def mounts(values: Mapping[str, Any], user: str) -> list[Any]:
    """What the fields name on this machine, each at its own path.

    Raises:
        InputError: the user of the containers could not read or write it.
    """
    key = [os.environ[GOOGLES_FILE]] if os.environ.get(GOOGLES_FILE) else []
    read = {path for uri in [*_read_of(values), *key] for path in lies_at(uri)}
    written = {path for path in map(Path, _used(values, WRITTEN_FIELDS)) if path.is_absolute()}
    for path in sorted(read - written):
        _check_readable(path, user)
    for path in sorted(written):
        _share(path, user)
    apart = [path for path in sorted(read - written) if not read & set(path.parents)]
    return [_mount(path, path, read_only=True) for path in apart] + [_mount(path, path) for path in sorted(written)]


def credentials() -> dict[str, str]:
    """What of this environment the stages are to have as well: who may read which store, and where it answers."""
    return {name: os.environ[name] for name in (*stores.ENVIRONMENT, GOOGLES_FILE) if os.environ.get(name)}


def lies_at(uri: str) -> list[Path]:
    """The local files or folders behind a URI: of `archive#member` the archive, of a checkpoint's prefix its files."""
    uri = IMAGENET if uri == IMAGENET else storage.absolute(uri)
    if not Path(uri).is_absolute():
        return []
    ends = [len(uri), *(at for at, character in enumerate(uri) if character == "#")]
    for path in (Path(uri[:end]) for end in ends):
        if path.exists():
            return [path]
    return [file for file in Path(uri).parent.iterdir() if file.name.startswith(f"{Path(uri).name}.")]


def _read_of(values: Mapping[str, Any]) -> set[str]:
    """The URIs that a run reads: those in the fields, and the folders of the pictures that an import file there names."""
    uris = set(_used(values, READ_FIELDS))
    # A list of pictures to leave out is a CSV as well, but no import file.
    pictures = _used(values, (field for field in READ_FIELDS if field != "leave_out_uri"))
    named = [entry.uri for uri in pictures if listings.is_listing(uri) and lies_at(uri) for entry in listings.read(uri)]
    return uris | {uri if storage.scheme(uri) else str(Path(storage.archive_and_member(uri)[0]).parent) for uri in named}


def _used(values: Mapping[str, Any], fields: Iterable[str]) -> list[str]:
    """The URIs in some fields; a checkpoint only where it is read."""
    fields = [name for name in fields if name != "checkpoint_uri" or values.get("fine_tune")]
    return [values[name] for name in fields if values.get(name)]


def _images(pipeline: GraphComponent) -> set[str]:
    executors = pipeline.pipeline_spec.deployment_spec["executors"].values()
    return {executor["container"]["image"] for executor in executors if "container" in executor}


def _find(client: Any, image: str) -> None:
    import docker

    try:
        client.images.get(image)  # podman finds its localhost/NAME by the bare name as well
        return
    except docker.errors.ImageNotFound:
        print(f"pulling {image}", flush=True)
    try:
        client.images.pull(image)
    except docker.errors.DockerException:
        remedy = "Build it with make image, or name with --registry where it lies."
        raise InputError("every image must be there, or be pulled", image, remedy) from None


def _mount(source: Path | str, target: Path | str, *, read_only: bool = False) -> Any:
    import docker

    return docker.types.Mount(str(target), str(source), type="bind", read_only=read_only)


def _share(folder: Path, user: str) -> None:
    """Makes a folder if it is not there, and writable for the user of the containers."""
    folder.mkdir(parents=True, exist_ok=True)
    if user == IMAGE_USER:
        os.chown(folder, -1, 0)
        folder.chmod(folder.stat().st_mode | 0o2770)


def _lay_out(scratch: Path, targets: Iterable[Path]) -> None:
    """Makes in the scratch folder what is mounted below it; the engine would make it as root, and nobody else remove it."""
    for target in targets:
        if target.is_relative_to(TMP):
            place = scratch / target.relative_to(TMP)
            folder = place if target.is_dir() else place.parent
            folder.mkdir(parents=True, exist_ok=True)
            if not target.is_dir():
                place.touch()


def _check_readable(path: Path, user: str) -> None:
    about = path.stat()
    wanted = 0o5 if path.is_dir() else 0o4
    granted = about.st_mode | (about.st_mode >> 3 if about.st_gid == 0 else 0)
    if user == IMAGE_USER and granted & wanted != wanted:
        remedy = f"Let others read it: chmod -R o+rX {path}"
        raise InputError(f"containers started by root run as {user}, who must be able to read what a field names", path, remedy)


@contextlib.contextmanager
def _run_by(function: Any) -> Iterator[None]:
    """Has KFP run its containers by a function of ours.

    KFP's own has the engine remove a container as soon as it ends, and asks for its exit code afterwards: where the engine
    was faster, which podman always is, a stage that failed counts as done.
    """
    from kfp.local import docker_task_handler

    kfps = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = function
    try:
        yield
    finally:
        docker_task_handler.run_docker_container = kfps


def _run(
    client: Any, image: str, command: list[str], volumes: Any, *, names: Mapping[str, str], gpus: int, **options: Any
) -> int:
    """Runs a stage to its end, prints what it prints, and gives its exit code. No container stays behind."""
    import docker

    if image == GPU_IMAGE and gpus:
        options["device_requests"] = [docker.types.DeviceRequest(count=gpus, capabilities=[["gpu"]])]
    options["healthcheck"] = {"test": ["NONE"]}  # the image's asks a server
    try:
        container = client.containers.create(names[image], command, volumes=volumes, **options)
        try:
            container.start()
            for line in _lines(container.logs(stream=True, follow=True)):
                print(line)
            code = container.wait()["StatusCode"]
        finally:
            container.remove(force=True)
    except (docker.errors.DockerException, OSError) as error:
        print(InputError("the container engine must run every stage", str(error), "See what it says itself."))
        return 1
    if code == KILLED:
        stage = command[command.index(STAGE) + 1]
        found = f"exit code {code}, that of a container which was killed"
        print(InputError(f"{stage} must have the memory it needs", found, "Give the engine more of it."))
    return code


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines out of what arrives in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + decoder.decode(chunk)).split("\n")
        yield from lines
    if rest:
        yield rest
