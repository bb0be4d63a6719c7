"""Asynchronous successive halving: compares a trial of a sweep with the others after a few steps, and says if it goes on.

The trials know nothing of each other, run at any time, and may be started again. Each writes its figure at a rung to a file of
its own in a folder that all see, and then reads those of the others: two that reach a rung at once see each other. Nothing is
locked, and no clock is read. Which trials are there to be compared depends on when they run, so the file says which they were.

Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020, https://arxiv.org/abs/1810.05934.
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

from kfp_vision.core import json_text
from kfp_vision.core.errors import InputError, NotFoundError, redact
from kfp_vision.reports.formatting import percent
from kfp_vision.storage import reading, retry, uris, writing

SMALLEST_SHARE = 0.1  # of the steps, before which figures say little
PREFIX = "ended_early_"  # of the names under which the metrics of a training say why it ended early
RUNG_FILE = re.compile(r"trial-(\d+)/step-(\d+)\.json")


@dataclass(frozen=True)
class Ended:
    """Why a trial ended early.

    Attributes:
        step: after which it ended.
        figure: its own figure at that step.
        best: the best figure of the trials that it was compared with.
        compared: number of these, itself included.
    """

    step: int
    figure: float
    best: float
    compared: int

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, float]) -> Self | None:
        """Finds in the metrics of a training why it ended early; None if it did not.

        Args:
            metrics: of a training, with what `metrics` returns among them.
        """
        if f"{PREFIX}step" not in metrics:
            return None
        step, compared = (int(metrics[f"{PREFIX}{name}"]) for name in ("step", "compared"))
        return cls(step, metrics[f"{PREFIX}figure"], metrics[f"{PREFIX}best"], compared)

    def metrics(self) -> dict[str, float]:
        """Returns the attributes as metrics of a training."""
        return {f"{PREFIX}{name}": float(value) for name, value in asdict(self).items()}

    def describe(self, train_steps: int) -> str:
        """Says when and why.

        Args:
            train_steps: steps of a whole trial.

        Returns:
            Such as `at step 40 of 200: 61.2 %, the best of 4 trials then 88.0 %`.
        """
        of_all = f"the best of {self.compared} trials then {percent(self.best)}"
        return f"at step {self.step:,} of {train_steps:,}: {percent(self.figure)}, {of_all}"


def rung_steps(train_steps: int, validate_every: int, factor: int) -> list[int]:
    """Chooses the steps after which the trials are compared: validations that take place anyway.

    Args:
        train_steps: steps of a trial.
        validate_every: steps between two validations.
        factor: `trial_reduction_factor`.

    Returns:
        Of 1/factor of the steps, 1/factor^2 and so on down to a tenth of them, the next validation each, in order. Empty if
        the only validation is after the last step.
    """
    powers = [1, *(power for power in range(2, 5) if factor**power * SMALLEST_SHARE <= 1)]
    steps = {math.ceil(train_steps / factor**power / validate_every) * validate_every for power in powers}
    return sorted(step for step in steps if step < train_steps)


def goes_on(figure: float, others: Collection[float], factor: int) -> bool:
    """Says whether a trial is among the best 1/factor at a rung, rounded up. The best always is, and so are its equals.

    Args:
        figure: of the trial; higher is better. One that is not a number is the worst.
        others: figures of the other trials at the same rung; with fewer than factor - 1 every trial goes on.
        factor: `trial_reduction_factor`.
    """
    compared = 1 + len(others)
    better = sum(_order(other) > _order(figure) for other in others)
    return compared < factor or better < math.ceil(compared / factor)


class Rungs:
    """The rungs of one trial. A store that fails or a damaged file ends no trial: what cannot be read is not compared.

    Example:
        rungs = Rungs("s3://bucket/checkpoints/rungs-1f2e", trial=3, factor=3, steps=[40, 80])
        rungs.begin(step=0)
        ended = rungs.compare(40, {40: 0.61})

    Args:
        uri: folder of the figures of all trials.
        trial: its number.
        factor: `trial_reduction_factor`, at least 2.
        steps: of the rungs, see `rung_steps`.
    """

    def __init__(self, uri: str, trial: int, factor: int, steps: Sequence[int] = ()):
        self.uri, self._trial, self._factor, self._steps = uri, trial, factor, steps

    def begin(self, step: int) -> None:
        """Deletes what an earlier start of this trial has left of rungs that this one has yet to reach.

        Args:
            step: steps that it has taken.
        """
        with _not_failing():
            for number, file_step, name in self._files():
                if number == self._trial and file_step > step:
                    writing.delete_file(uris.join_uri(self.uri, name))

    def compare(self, step: int, reached: Mapping[int, float]) -> Ended | None:
        """Writes the figures of the trial, and compares that of the rung at which it is.

        Args:
            step: steps that the trial has taken.
            reached: its figure after each validation.

        Returns:
            Why it is to end; None if it goes on.
        """
        with _not_failing():
            for rung in self._steps:
                if rung in reached and rung < step:  # before this process, in a run that others may not have seen
                    self._write(rung, {"figure": reached[rung]}, replace=False)
            if step in self._steps and step in reached:
                return self._decide(step, reached[step])
        return None

    def withdraw(self) -> None:
        """Deletes all figures of the trial, so that none is measured by one that has failed."""
        self.begin(step=-1)

    def read_record(self) -> list[dict[str, Any]]:
        """Reads what was compared.

        Returns:
            For each rung, `step`, `figure`, and unless it is still to be compared `others`, their figures by the number of
            their trial, and `goes_on`. A figure that is not a number is None.
        """
        with _not_failing():
            own = [(step, name) for number, step, name in self._files() if number == self._trial]
            found = ((step, self._read(name)) for step, name in own)
            return [{"step": step, **content} for step, content in sorted(found) if content]
        return []

    def _decide(self, step: int, figure: float) -> Ended | None:
        self._write(step, {"figure": figure})
        others = self._others(step)
        stays = goes_on(figure, others.values(), self._factor)
        known = {str(number): _plain(other) for number, other in sorted(others.items())}
        self._write(step, {"figure": figure, "others": known, "goes_on": stays})
        return None if stays else Ended(step, figure, max(others.values(), key=_order), 1 + len(others))

    def _others(self, step: int) -> dict[int, float]:
        """Reads the figures of the other trials at a rung, by their numbers."""
        found = {}
        for number, file_step, name in self._files():
            if file_step == step and number != self._trial and (content := self._read(name)):
                found[number] = math.nan if content["figure"] is None else float(content["figure"])
        return found

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """Lists the trial, the step and the name of each file."""
        for file in reading.list_files(self.uri):
            if match := RUNG_FILE.fullmatch(file.name):
                yield int(match[1]), int(match[2]), file.name

    def _read(self, name: str) -> dict[str, Any]:
        """Reads a file; empty if it is gone, or is not what a trial writes."""
        try:
            with reading.Reader() as reader:
                content = json_text.parse(reader.read(uris.join_uri(self.uri, name)))
            figure = content["figure"]
            if figure is None or (isinstance(figure, int | float) and not isinstance(figure, bool) and math.isfinite(figure)):
                return dict(content)
        except (NotFoundError, OSError, ValueError, TypeError, KeyError, OverflowError):
            pass
        print(f"does not compare with {name}, which cannot be read", flush=True)
        return {}

    def _write(self, step: int, content: Mapping[str, Any], *, replace: bool = True) -> None:
        name = f"trial-{self._trial}/step-{step:08}.json"
        if replace or name not in [file for _, _, file in self._files()]:
            text = json.dumps({**content, "figure": _plain(content["figure"])}, sort_keys=True)
            writing.write_file(text.encode(), uris.join_uri(self.uri, name))


@contextmanager
def _not_failing() -> Iterator[None]:
    """Prints a line if the body fails: a comparison saves time, and must not cost a training."""
    try:
        with retry.in_background():
            yield
    except (Exception, InputError) as error:  # whatever a store's client raises
        reason = str(error).removeprefix(InputError.PREFIX) or type(error).__name__
        print(f"warning: cannot compare with the other trials; this one goes on ({redact(reason)})", flush=True)


def _order(figure: float) -> float:
    return -math.inf if math.isnan(figure) else figure


def _plain(figure: float | None) -> float | None:
    """Returns a figure as JSON has it."""
    return figure if figure is not None and math.isfinite(figure) else None
