"""Metrics that show what others found out."""

from prometheus_client import REGISTRY

from kfp_vision.collection.drift import Drift
from kfp_vision.serving import telemetry


def test_the_last_check_for_drift_is_shown_until_another_version_answers():
    def shown() -> list[float | None]:
        of = [{"model": "flowers", "of": part} for part in ("images", "classes", "novel")]
        values = [REGISTRY.get_sample_value("kfp_vision_drift_p_value", labels) for labels in of]
        return [REGISTRY.get_sample_value("kfp_vision_drifted", {"model": "flowers"}), *values]

    telemetry.note_drift(
        "flowers", Drift("flowers", 7, "f", "2026-05-04T10:00:00+00:00", 60, 100, True, 0.9, 0.001, 0.5, 0.0, 0.25)
    )
    assert shown() == [1.0, 0.001, 0.5, 0.25]
    telemetry.note_drift("flowers", None)
    assert shown() == [0.0, 1.0, 1.0, 1.0]
