"""The page about what to do tells of every line that says why a stage ended, in that line's own words."""

import re
from pathlib import Path

import pytest
import ran

from kfp_vision import endings, outcome
from kfp_vision.endings import Log

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
EIGHT = {"spec": {"containers": [{"name": "main", "image": "x", "resources": {"limits": {"memory": "8Gi"}}}]}}
A_DAY = {"spec": {"activeDeadlineSeconds": 86400}}
UNPULLED = {**EIGHT, "status": {"containerStatuses": [ran.waiting("main", "ImagePullBackOff", "Back-off")]}}


@pytest.mark.parametrize(
    ("message", "pod", "log"),
    [
        ("main: OOMKilled (exit code 137)", EIGHT, Log()),
        ("main: Error (exit code 1)", {}, Log(killed=True)),
        ("Pod was active on the node longer than the specified deadline", A_DAY, Log()),
        ("Pod was active on the node longer than the specified deadline", UNPULLED, Log()),
        ('Usage of EmptyDir volume "tmp" exceeds the limit "1Mi".', {}, Log()),
        ("Unschedulable: 0/1 nodes are available", {}, Log()),
        ("pod deleted", {}, Log()),
    ],
)
def test_each_reason_is_on_the_page(message, pod, log):
    said = endings.reason("train_classifier", message, pod, log)
    told = [quoted for quoted in re.findall(r"`([^`]+)`", PAGE) if said.startswith(re.split(r": \.\.\.|\.\.\.", quoted)[0])]
    assert told, said


def test_what_is_said_without_a_reason_is_on_the_page():
    assert f"`{outcome.UNREAD}`" in PAGE


def test_the_files_that_the_page_names_are_there():
    named = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert named and [file for file in named if not (ROOT / "docs" / file).exists()] == []
    assert all((ROOT / file).exists() for file in re.findall(r"`((?:pipelines|manifests)/[\w./-]+)`", PAGE))
