"""Follows a model repository in a bucket: downloads new versions while the server runs."""

import contextlib
import shutil
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from kfp_vision.core.errors import InputError
from kfp_vision.repository import bucket_repository, published_exports
from kfp_vision.repository.registered import resolve
from kfp_vision.repository.version import INDEX_FOLDER
from kfp_vision.storage import base, retry, uris

SYNC_INTERVAL_SECONDS = 10.0  # between two checks for newer versions
SHUTDOWN_TIMEOUT_SECONDS = 5  # to wait for the following thread; a download that takes longer is abandoned


@contextlib.contextmanager
def synced_copy(uri: str, exports: Collection[str] = ()) -> Iterator[Path]:
    """Makes a repository available on this machine, as `local_copy` does, and keeps it in sync with the bucket.

    A background thread downloads versions, exports and the index that are published while the body runs, and removes the
    versions that are gone from the bucket.

    Args:
        uri: Path or URI of a model folder or a repository, or of a registered model.
        exports: Formats of the exports beside the versions that are needed as well.

    Yields:
        Path of the repository or the model folder on this machine.

    Raises:
        InputError: There is no version in the bucket at the start, or the store denies access or does not answer then.
    """
    uri = resolve(uri)
    with bucket_repository.local_copy(uri, exports) as path, contextlib.ExitStack() as following:
        if uris.scheme_of(uri) in base.BUCKETS:
            ended = threading.Event()
            follower = threading.Thread(target=_follow, args=(uri, path, exports, ended), daemon=True)
            follower.start()
            following.callback(follower.join, SHUTDOWN_TIMEOUT_SECONDS)
            following.callback(ended.set)
        yield path


def _follow(uri: str, path: Path, exports: Collection[str], ended: threading.Event) -> None:
    """Syncs a local repository with a bucket every few seconds; failures are retried, and each is logged once."""
    from kfp_vision.search import deploy_index  # imports NumPy, which publishing does not need

    logged, pause = "", 0.0  # no pause at first: the index has not been downloaded yet
    while not ended.wait(pause):
        pause = SYNC_INTERVAL_SECONDS
        try:
            with retry.in_background():
                place, published = bucket_repository.located(uri)
                newest = published[-1]
                if not (path / str(newest.number)).exists():
                    newest.download(path)
                numbers = {version.number for version in published}
                for folder in path.iterdir():
                    if folder.name.isdecimal() and int(folder.name) not in numbers:
                        shutil.rmtree(folder)
                published_exports.sync_exports(place, path, exports)
                deploy_index.sync_index(place, path / INDEX_FOLDER)
            logged = ""
        except (InputError, OSError) as error:
            if str(error) != logged and not ended.is_set():
                logged = str(error)
                print(f"warning: cannot check for newer versions ({logged.removeprefix(InputError.PREFIX)})", flush=True)
