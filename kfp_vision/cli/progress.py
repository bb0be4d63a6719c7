"""Shows a local run's stages as KFP reports them."""

import io
import re
import time
from collections import Counter
from enum import Enum, auto
from pathlib import Path
from typing import TextIO

from kfp_vision.core import native_messages
from kfp_vision.core.errors import InputError
from kfp_vision.reports import outcome, results
from kfp_vision.reports.run_state import FailedStage

COLOR_CODES = re.compile(r"\x1b\[\d+m")
STAGE_STARTED = re.compile(r"Executing task '([\w-]+)'")
STAGE_ENDED = re.compile(r"Task '[\w-]+' finished with status (\w+)")
INDENT = "    "  # KFP's indent of what a stage prints
NOISE = re.compile(rf"\[KFP Executor|{native_messages.NOISE.pattern}")


class RunEnded(BaseException):
    """Another turn of a stage was about to start although the run has ended.

    KFP holds back what depends on a stage that failed, and runs what does not, but starts all turns of a loop, whatever becomes
    of the first.
    """


class _Phase(Enum):
    """What the printed lines belong to."""

    BETWEEN_STAGES = auto()
    INPUTS = auto()  # KFP prints the stage's inputs as JSON first
    OUTPUT = auto()
    TRACEBACK = auto()


class ProgressView(io.TextIOBase):
    """Receives what KFP prints: logs all of it, and shows stages, their progress and their duration.

    Args:
        shown: the stream for people.
        log: the run's log, a file in the run's folder.
        stages: number of stages of the pipeline.
        debug: whether to show everything instead.

    Attributes:
        seconds: duration by stage, of all its turns if it runs in a loop.
        turns: number of turns by stage.
        stage: the latest stage.
        failed: the failed stages, each with its last line.
        stopped: whether the run was told to stop, which explains a stage that ends without a reason.
        ended: whether no stage may start another turn any more, as a stage has failed or the run was told to stop.
    """

    def __init__(self, shown: TextIO, log: TextIO, stages: int, debug: bool):
        self.shown, self.log, self.stages, self.debug = shown, log, stages, debug
        self.seconds: dict[str, float] = {}
        self.turns: Counter[str] = Counter()
        self.stage = ""
        self.failed: list[FailedStage] = []
        self.stopped = self.ended = False
        self._phase, self._started_at, self._unfinished_line, self._error = _Phase.BETWEEN_STAGES, 0.0, "", ""

    def write(self, text: str) -> int:
        """Logs text and shows the progress that its complete lines report.

        Raises:
            RunEnded: another turn of a stage was about to start after the end of the run.
        """
        self.log.write(text)
        if self.debug:
            self.shown.write(text)
        *lines, self._unfinished_line = (self._unfinished_line + text).split("\n")
        for line in lines:
            self._read(COLOR_CODES.sub("", line))
        self.flush()
        return len(text)

    def flush(self) -> None:
        """Flushes both streams."""
        self.log.flush()
        self.shown.flush()

    def isatty(self) -> bool:
        """Returns False, so that nothing colors its output."""
        return False

    def _read(self, line: str) -> None:
        if started := STAGE_STARTED.search(line):
            self._start_stage(started[1].replace("-", "_"))
        elif ended := STAGE_ENDED.search(line):
            self._end_stage(succeeded=ended[1] == "SUCCESS")
        elif line == f"{INDENT}{{":
            self._switch(_Phase.OUTPUT, _Phase.INPUTS)
        elif line == f"{INDENT}}}":
            self._switch(_Phase.INPUTS, _Phase.OUTPUT)
        elif line.startswith(INDENT) and line.strip() and not NOISE.match(line.strip()):
            self._read_from_stage(line.removeprefix(INDENT).rstrip())

    def _switch(self, before: _Phase, after: _Phase) -> None:
        if self._phase is before:
            self._phase = after

    def _start_stage(self, stage: str) -> None:
        if self.ended and self.turns[stage]:
            raise RunEnded
        self.stage, self._started_at, self._error, self._phase = stage, time.perf_counter(), "", _Phase.OUTPUT
        self.turns[stage] += 1
        turn = f" ({self.turns[stage]})" if self.turns[stage] > 1 else ""
        self._show(f"[{len(self.turns)}/{self.stages}] {stage}{turn}")

    def _end_stage(self, *, succeeded: bool) -> None:
        seconds = round(time.perf_counter() - self._started_at, 1)
        self.seconds[self.stage] = round(self.seconds.get(self.stage, 0.0) + seconds, 1)
        self._show(f"{INDENT}  {'done' if succeeded else 'failed'} in {seconds:.1f} s")
        self._phase = _Phase.BETWEEN_STAGES
        if not succeeded:
            self._note_failure()

    def _read_from_stage(self, line: str) -> None:
        if self._phase is _Phase.OUTPUT:
            self._read_output(line)
        elif self._phase is _Phase.TRACEBACK:
            self._read_traceback(line)

    def _read_output(self, line: str) -> None:
        if line.startswith("Traceback (most recent call last)"):
            self._phase = _Phase.TRACEBACK
        elif line.startswith(InputError.PREFIX):
            self._error = line
        else:
            self._show(f"{INDENT}  {line}")
            if line.startswith(results.RESULT_PREFIX):
                outcome.record_result(Path(self.log.name).parent, line.removeprefix(results.RESULT_PREFIX))

    def _read_traceback(self, line: str) -> None:
        if line.startswith(InputError.PREFIX):
            self._error = line
        elif not line.startswith((" ", "Traceback (most recent call last)")):  # the exception's own line
            self._error = f"{InputError.PREFIX}{self.stage} failed: {line} (full log: {self.log.name})"

    def _note_failure(self) -> None:
        """Ends the run, and records why, for the person at the screen and for the last stage, which reports it elsewhere."""
        self.ended = True
        error = self._error or str((_stopped if self.stopped else _killed)(self.stage, self.log.name))
        self.failed.append(FailedStage(self.stage, error))
        outcome.record_failure(Path(self.log.name).parent, FailedStage(self.stage, error.removeprefix(InputError.PREFIX)))

    def _show(self, line: str) -> None:
        if not self.debug:
            self.shown.write(f"{line}\n")


def _stopped(stage: str, log: str) -> InputError:
    """Returns the error of a stage that was told to stop with the run."""
    return InputError(f"{stage} must finish", "SIGTERM to the run", f"Start it again, or see {log}.")


def _killed(stage: str, log: str) -> InputError:
    """Returns the error of a stage that ended without giving a reason."""
    remedy = f"Give it more memory, or see {log}."
    return InputError(f"{stage} must finish", "a killed process, probably out of memory", remedy)
