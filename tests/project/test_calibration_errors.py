"""The estimates of the calibration error find errors that are known, and none where the scores mean what they say."""

import numpy as np
import pytest

from benchmarks import calibration_errors

IMAGES, DRAWS = 750, 200


def draw(offset: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns scores from 0.5 to 0.9, and draws of what is right, so much less often than the scores say."""
    generator = np.random.default_rng(0)
    scores = np.linspace(0.5, 0.9, IMAGES)
    return [(scores, generator.random(IMAGES) < scores - offset) for _ in range(DRAWS)]


@pytest.mark.parametrize("offset", [0.1, 0.2])
@pytest.mark.parametrize("estimate", [calibration_errors.debiased_error, calibration_errors.sweep_error])
def test_an_error_of_all_scores_is_found(estimate, offset):
    found = [estimate(scores, correct) for scores, correct in draw(offset)]
    assert np.mean(found) == pytest.approx(offset, abs=0.01)


def test_scores_that_mean_what_they_say_have_no_squared_error_in_the_mean():
    drawn = draw(0)
    squares = [calibration_errors.debiased_error(scores, correct) ** 2 for scores, correct in drawn]
    plain = [calibration_errors.binned_error(scores, correct, calibration_errors.BINS) ** 2 for scores, correct in drawn]
    zeros = sum(square == 0 for square in squares)
    assert DRAWS * 0.4 < zeros < DRAWS * 0.7  # more than chance is measured as often as less
    assert np.mean(squares) < np.mean(plain) / 3


def test_few_bins_are_taken_where_more_would_show_chance():
    (scores, correct) = draw(0)[0]
    swept, plain = calibration_errors.sweep_error(scores, correct), calibration_errors.binned_error(scores, correct, 100)
    assert swept < plain / 2


def test_what_perfect_scores_measure_is_that_of_drawn_labels():
    scores = np.linspace(0.5, 0.9, IMAGES)
    found = calibration_errors.perfect_scores(calibration_errors.sweep_error, scores, DRAWS)
    drawn = [calibration_errors.sweep_error(*pair) for pair in draw(0)]
    assert found.shape == (DRAWS,)
    assert np.mean(found) == pytest.approx(np.mean(drawn), rel=0.1)
