"""Trials of a sweep are compared through a bucket, and go on while it is away."""

import math

import pytest

from kfp_vision.storage import retry, uris
from kfp_vision.training.successive_halving import Ended, Rungs

STEPS, FILES = [20, 40], {"other": b""}


def test_trials_see_each_other_in_a_bucket(place):
    folder = uris.join_uri(place.bucket(FILES), "checkpoints/rungs-1f2e")
    for number, figure in ((1, 0.5), (2, math.nan)):
        assert Rungs(folder, number, 3, STEPS).compare(20, {20: figure}) is None
    third = Rungs(folder, 3, 3, STEPS)
    third.begin(step=0)
    assert third.compare(20, {20: 0.4}) == Ended(20, 0.4, 0.5, 3)
    assert third.read_record() == [{"step": 20, "figure": 0.4, "others": {"1": 0.5, "2": None}, "goes_on": False}]
    Rungs(folder, 1, 3, STEPS).withdraw()
    assert third.compare(20, {20: 0.4}) is None


def test_the_settings_of_a_bucket_are_kept(s3):
    folder = f"s3://{s3.bucket('settings', FILES)}/rungs?endpoint=http://127.0.0.1:{s3.port}"
    Rungs(folder, 1, 2, STEPS).compare(20, {20: 0.9})
    assert Rungs(folder, 2, 2, STEPS).compare(20, {20: 0.4}) == Ended(20, 0.4, 0.9, 2)


@pytest.mark.slow
def test_no_trial_ends_while_the_bucket_is_away(stoppable, monkeypatch, capsys):
    monkeypatch.setattr(retry, "SOON", 0.2)
    folder = f"s3://{stoppable.bucket('away', FILES)}/rungs"
    Rungs(folder, 1, 2, STEPS).compare(20, {20: 0.9})
    second = Rungs(folder, 2, 2, STEPS)
    monkeypatch.setattr(retry, "PERSON_SECONDS", 0.5)
    stoppable.stop()
    assert second.compare(20, {20: 0.4}) is None
    assert second.read_record() == []
    assert "warning: cannot compare with the other trials; this one goes on (" in capsys.readouterr().out
    stoppable.start()
    assert second.compare(40, {20: 0.4, 40: 0.4}) is None  # at the next rung it is alone
    assert second.read_record() == [
        {"step": 20, "figure": 0.4},  # for the others to see, now that it can be written
        {"step": 40, "figure": 0.4, "others": {}, "goes_on": True},
    ]
