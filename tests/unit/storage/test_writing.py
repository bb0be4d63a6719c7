"""Checks before a run that a folder can be written to."""

import pytest

from kfp_vision.core.errors import AccessError
from kfp_vision.storage import writing


def test_a_folder_that_nobody_can_write_to_is_refused_whatever_its_permissions_say():
    refused = r"deploy_to must name a writable folder; got /proc/models \(.+\)\. Let this user write to /proc\."
    with pytest.raises(AccessError, match=refused):
        writing.check_writable("/proc/models", "deploy_to")


def test_a_folder_that_can_be_written_to_stays_as_it_is(tmp_path):
    writing.check_writable(str(tmp_path / "not" / "yet"), "deploy_to")
    assert list(tmp_path.iterdir()) == []
