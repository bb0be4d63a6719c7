"""A model repository in a local folder."""

import itertools
import shutil
from pathlib import Path

from kfp_vision.repository import version as repository_version
from kfp_vision.repository.version import FIRST_VERSION, SCRATCH_NAME, Version
from kfp_vision.storage import atomic


class FolderRepository:
    """A repository in a folder on this machine; versions are added and removed atomically.

    Args:
        path: The folder; created with its first version.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path):
        self.path = path

    def versions(self) -> list[Version]:
        """Returns the versions, the newest last."""
        return repository_version.versions(self.path)

    def add(self, version: Version) -> int:
        """Copies a version into the repository as its newest.

        Args:
            version: The version to copy.

        Returns:
            The number assigned to it, one above the newest's.
        """
        with atomic.scratch_folder(self.path / SCRATCH_NAME) as scratch:
            copy = scratch / "new"
            shutil.copytree(version.folder, copy, copy_function=shutil.copyfile)
            published = self.versions()
            for number in itertools.count(published[-1].number + 1 if published else int(FIRST_VERSION)):
                target = self.path / str(number)
                try:
                    copy.rename(target)
                except OSError:
                    if not target.exists():
                        raise
                    continue  # another process has published under this number meanwhile
                return number
        raise AssertionError("unreachable: itertools.count is endless")
