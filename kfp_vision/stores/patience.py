"""How long a store that is gone or busy is waited for, and what is said meanwhile: the one place for patience.

Argo, as Kubeflow Pipelines configures it, does not try a stage again that has ended with an error, so a stage has to wait by
itself for a store that is gone for minutes. Where a person waits, at a command line, an address that has never answered is
given up soon: it may be a wrong one.
"""

import contextlib
import math
import os
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from kfp_vision import stores
from kfp_vision.errors import FieldError, UnreachableError
from kfp_vision.stores import Changed, Interrupted, NotThere

SECONDS = 600.0  # that a stage waits for a store, unless `store_wait_seconds` of advanced or the environment says otherwise
# That the check of a form may wait, for all its stores together: its pod is stopped after ten minutes, and then says nothing.
CHECK_SECONDS = 300.0
PERSON_SECONDS = 60.0  # that a command waits for a store that has answered it before
SOON = 3.5  # seconds after which an address that may be a wrong one is given up
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 20.0  # seconds between two tries, doubled each time...
JITTER = 1.25  # ...and up to so many times as long
DOUBLINGS = 20  # more would only make a number that no float holds
RETRY_STATUS = (408, 429, 500, 502, 503, 504)
VARIABLE = stores.WAIT_SECONDS
LONGER = "Check the address and the way to it, or set store_wait_seconds of advanced to wait longer."
AGAIN = "Check the address and the way to it, or try again."

Made = TypeVar("Made")


class Unanswered(Interrupted):
    """A server that cannot be reached, or is too busy to answer.

    Args:
        reason: as a person reads it.
        no_such_name: whether DNS says that there is no host of that name.
        after: seconds for which the server asks to be left alone.
    """

    rule, said = "an address must answer", "does not answer"

    def __init__(self, reason: object, *, no_such_name: bool = False, after: float = 0.0):
        super().__init__(str(reason))
        self.no_such_name, self.after = no_such_name, after


def _print(line: str) -> None:
    print(line, flush=True)


def _print_beside(line: str) -> None:
    """On stderr: what a command prints on stdout others may read, line by line."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Patience:
    """How long stores are waited for.

    Attributes:
        seconds: of waiting without any progress; None where the environment may say it.
        otherwise: the same, where nobody says it.
        at_first: the most for a server that has never answered this process.
        until: when all waiting ends, by `time.monotonic`.
        say: takes the line about each try; None to say nothing.
        remedy: what to do when it has run out.
    """

    seconds: float | None = None
    otherwise: float = SECONDS
    at_first: float = math.inf
    until: float = math.inf
    say: Callable[[str], None] | None = _print
    remedy: str = LONGER

    def for_server(self, answered: bool) -> float:
        """The seconds that a server is waited for.

        Raises:
            InputError: the environment says something else than a number of seconds.
        """
        said = _of_environment(self.otherwise) if self.seconds is None else self.seconds
        return min(said, math.inf if answered else self.at_first)


class _Server:
    """What this process knows of a server."""

    def __init__(self) -> None:
        self.resolved = False  # its name has led to an address
        self.answered = False
        self.given_up = False  # patience has run out, and nothing has come since
        self.said_until = -math.inf  # the line about the next try stands in the log already


_process = Patience()
_thread: ContextVar[Patience | None] = ContextVar("patience", default=None)
_servers: defaultdict[str, _Server] = defaultdict(_Server)
_lock = threading.Lock()


def forget() -> None:
    """Forgets which servers have answered and which were given up."""
    global _lock
    _lock = threading.Lock()  # another process may have been made while this one's was held
    _servers.clear()


os.register_at_fork(after_in_child=forget)


def wait_for(seconds: float | None, at_most: float = math.inf) -> None:
    """Sets for this process how long stores are waited for, by whatever thread.

    Args:
        seconds: without any progress; 0 for not at all, None for what the environment says, else `SECONDS`.
        at_most: from now on, for all stores together, whoever says more.

    Raises:
        InputError: the environment says something else than a number of seconds.
    """
    global _process
    _process = Patience(seconds, until=time.monotonic() + at_most)
    _process.for_server(answered=True)


@contextlib.contextmanager
def for_a_person() -> Iterator[None]:
    """While the body runs, this process soon gives up a server that has never answered, and says its tries on stderr."""
    global _process
    before = _process
    _process = Patience(otherwise=PERSON_SECONDS, at_first=SOON, say=_print_beside, remedy=AGAIN)
    try:
        yield
    finally:
        _process = before


@contextlib.contextmanager
def in_the_background() -> Iterator[None]:
    """While the body runs, this thread waits for a minute at most and says nothing: it tries again later in any case."""
    seconds = min(PERSON_SECONDS, _process.for_server(answered=True))
    token = _thread.set(Patience(seconds, at_first=SOON, say=None, remedy=AGAIN))
    try:
        yield
    finally:
        _thread.reset(token)


def patiently(call: Callable[[], Made], uri: str, server: str, progress: Callable[[], int] = lambda: 0) -> Made:
    """Calls until it is not interrupted; as long as there is progress, for any time.

    Of many threads that wait for a server one says each try.

    Args:
        call: raises `Interrupted` where it is worth trying again.
        uri: what is called for.
        server: which one answers, `https://host:port`.
        progress: grows with what has arrived.

    Raises:
        InputError: it was interrupted without any progress for as long as the process waits.
    """
    at = _known(server)
    failed, since, reached = 0, 0.0, progress()
    while True:
        try:
            made = call()
        except (NotThere, Changed):
            _note_answer(at)
            raise
        except Interrupted as reason:
            now, goes_on = time.monotonic(), progress() > reached
            if goes_on or not failed:
                failed, since, reached = 0, now, progress()
            failed += 1
            patience = _thread.get() or _process
            left = min(since + _allowed(patience, at, reason), patience.until) - now
            if at.given_up or (left <= 0 and not goes_on):
                at.given_up = at.given_up or patience is _process
                raise _gave_up(reason, uri, now - since, patience) from None
            pause = max(reason.after, random.uniform(1, JITTER) * min(LONGEST_PAUSE, _doubled(failed - 1)))
            pause = max(0.0, min(pause, left))
            if patience.say and _is_to_be_said(at, now + pause):
                patience.say(_line(reason, uri, server, pause, left - pause))
            time.sleep(pause)
        else:
            _note_answer(at)
            return made


def span(seconds: float) -> str:
    """A time as a person reads it, such as `9m20s`."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{rest} s"


def place(uri: str) -> str:
    """The bucket or the host that a URI lies in."""
    return stores.shown("/".join(stores.parted(uri)[0].split("/", 3)[:3]))


def _doubled(times: int) -> float:
    return FIRST_PAUSE * 2.0 ** min(times, DOUBLINGS)


def _known(server: str) -> _Server:
    with _lock:
        return _servers[server]


def _note_answer(at: _Server) -> None:
    at.resolved = at.answered = True
    at.given_up = False


def _allowed(patience: Patience, at: _Server, reason: Interrupted) -> float:
    """The seconds that are waited after an interruption, and what it says of the server."""
    seconds = patience.for_server(at.answered)
    if reason.no_such_name:
        # DNS that starts again forgets names for a while; a name that it has never known is a wrong one.
        return seconds if at.resolved else min(seconds, SOON)
    at.resolved = True
    if not isinstance(reason, Unanswered):
        at.answered = True
    return seconds


def _is_to_be_said(at: _Server, until: float) -> bool:
    """Whether a line about the next try is due: not where another thread has said one, and the try is still to come."""
    with _lock:
        if time.monotonic() < at.said_until:
            return False
        at.said_until = until
        return True


def _line(reason: Interrupted, uri: str, server: str, pause: float, more: float) -> str:
    where = place(uri)
    where = where if where == server else f"{where} at {server}"
    return f"warning: {where} {reason.said} ({reason}); trying again in {span(pause)}, for {span(max(more, 0.0))} more"


def _gave_up(reason: Interrupted, uri: str, waited: float, patience: Patience) -> UnreachableError:
    after = f", waited for {span(waited)}" if waited >= 0.05 else ""
    remedy = "Check its spelling, and that this host is known where the stage runs." if reason.no_such_name else patience.remedy
    return UnreachableError(reason.rule, f"{reason} at {stores.shown(uri)}{after}", remedy)


def _of_environment(otherwise: float) -> float:
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return otherwise
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise FieldError(f"{VARIABLE} must be a number of seconds, 0 for no waiting", text, f"Set it to {SECONDS:g}, say.")
    return seconds
