"""Retries requests to stores that are down or busy, with exponential backoff, and logs each retry.

Argo, as Kubeflow Pipelines configures it, does not retry a stage that ended with an error, so the stage itself must outlast
an outage of minutes. On the command line a server that has never answered is given up soon: its address may be wrong.
"""

import contextlib
import math
import os
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from kfp_vision.core import advanced
from kfp_vision.core.errors import FieldError, UnreachableError
from kfp_vision.storage import base
from kfp_vision.storage.base import Interrupted, ObjectChanged, ObjectNotFound
from kfp_vision.storage.uris import Location

# The check of a form waits for all stores together: its pod is stopped after ten minutes, and then could not report.
CHECK_SECONDS = 300.0
PERSON_SECONDS = 60.0  # a command waits for a store that has answered before
SOON = 3.5  # seconds to wait for an address that may be wrong
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 20.0  # seconds between retries, doubled each time...
JITTER = 1.25  # ...and randomly extended up to this factor
DOUBLINGS = 20  # more would overflow a float
RETRY_STATUS = (408, 429, 500, 502, 503, 504)
VARIABLE = base.WAIT_VARIABLE
WAIT_LONGER = "Check the address and the network, or set store_wait_seconds of advanced to wait longer."
TRY_AGAIN = "Check the address and the network, or try again."

Made = TypeVar("Made")


class ServerUnavailable(Interrupted):
    """A server cannot be reached, or is too busy to answer.

    Args:
        reason: in plain words.
        no_such_name: whether DNS does not know the host name.
        after: seconds to wait before a retry, as the server requested.
    """

    rule, symptom = "the server must answer", "does not answer"

    def __init__(self, reason: object, *, no_such_name: bool = False, after: float = 0.0):
        super().__init__(str(reason))
        self.no_such_name, self.after = no_such_name, after


def _print(line: str) -> None:
    print(line, flush=True)


def _print_to_stderr(line: str) -> None:
    # Programs may parse the stdout of a command.
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class RetryPolicy:
    """How long to wait for stores.

    Attributes:
        seconds: to wait without progress; None to use the environment.
        default: seconds, if the environment does not set them.
        first_contact: the most seconds for a server that has never answered this process.
        deadline: of all waiting, as `time.monotonic`.
        log: takes the line about each retry; None for silence.
        remedy: of the error when the time is up.
    """

    seconds: float | None = None
    default: float = advanced.STORE_WAIT_SECONDS
    first_contact: float = math.inf
    deadline: float = math.inf
    log: Callable[[str], None] | None = _print
    remedy: str = WAIT_LONGER

    def seconds_for(self, answered: bool) -> float:
        """Returns how many seconds to wait for a server.

        Args:
            answered: whether it has answered this process before.

        Raises:
            FieldError: the environment variable is not a number of seconds.
        """
        seconds = _seconds_from_environment(self.default) if self.seconds is None else self.seconds
        return min(seconds, math.inf if answered else self.first_contact)


class _Server:
    """The state of a server, as seen by this process."""

    def __init__(self) -> None:
        self.resolved = False  # its name was found in DNS
        self.answered = False
        self.given_up = False  # the time was up, and it has not answered since
        self.logged_until = -math.inf  # when the next retry is due that has been logged


_process = RetryPolicy()
_thread: ContextVar[RetryPolicy | None] = ContextVar("patience", default=None)
_servers: defaultdict[str, _Server] = defaultdict(_Server)
_lock = threading.Lock()


def forget_servers() -> None:
    """Resets the state of all servers: which have answered, and which were given up."""
    global _lock
    _lock = threading.Lock()  # the fork may have happened while it was held
    _servers.clear()


os.register_at_fork(after_in_child=forget_servers)


def set_wait(seconds: float | None, at_most: float = math.inf) -> None:
    """Sets how long all threads of this process wait for stores.

    Args:
        seconds: without progress; 0 for no waiting; None for the environment's value, or `STORE_WAIT_SECONDS` by default.
        at_most: seconds from now on, for all stores together.

    Raises:
        FieldError: the environment variable is not a number of seconds.
    """
    global _process
    _process = RetryPolicy(seconds, deadline=time.monotonic() + at_most)
    _process.seconds_for(answered=True)


@contextlib.contextmanager
def interactive() -> Iterator[None]:
    """Makes this process give up soon on servers that have never answered, and log its retries to stderr, in the body."""
    global _process
    before = _process
    _process = RetryPolicy(default=PERSON_SECONDS, first_contact=SOON, log=_print_to_stderr, remedy=TRY_AGAIN)
    try:
        yield
    finally:
        _process = before


@contextlib.contextmanager
def in_background() -> Iterator[None]:
    """Makes this thread wait at most a minute, silently, in the body: for work that is repeated later anyway."""
    seconds = min(PERSON_SECONDS, _process.seconds_for(answered=True))
    token = _thread.set(RetryPolicy(seconds, first_contact=SOON, log=None, remedy=TRY_AGAIN))
    try:
        yield
    finally:
        _thread.reset(token)


def call_with_retries(call: Callable[[], Made], uri: str, server: str, progress: Callable[[], int] = lambda: 0) -> Made:
    """Calls a function and retries it while it is interrupted; any progress restarts the clock.

    If many threads wait for the same server, only one logs each retry.

    Args:
        call: raises `Interrupted` if a retry is worthwhile.
        uri: that is requested, for messages.
        server: that is requested, as `https://host:port`.
        progress: returns a number that grows with the data received.

    Returns:
        The result of the call.

    Raises:
        UnreachableError: there was no progress for as long as the process waits.
    """
    state = _state(server)
    failed, since, reached = 0, 0.0, progress()
    while True:
        try:
            made = call()
        except (ObjectNotFound, ObjectChanged):
            _note_answer(state)
            raise
        except Interrupted as reason:
            now, progressed = time.monotonic(), progress() > reached
            if progressed or not failed:
                failed, since, reached = 0, now, progress()
            failed += 1
            patience = _thread.get() or _process
            left = min(since + _seconds_after(patience, state, reason), patience.deadline) - now
            if state.given_up or (left <= 0 and not progressed):
                state.given_up = state.given_up or patience is _process
                raise _timed_out(reason, uri, server, now - since, patience) from None
            pause = max(reason.after, random.uniform(1, JITTER) * min(LONGEST_PAUSE, _doubled(failed - 1)))
            pause = max(0.0, min(pause, left))
            if patience.log and _is_first_to_log(state, now + pause):
                patience.log(_line(reason, uri, server, pause, left - pause))
            time.sleep(pause)
        else:
            _note_answer(state)
            return made


def format_seconds(seconds: float) -> str:
    """Formats a duration in seconds, such as `9m20s`."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{rest} s"


def bucket_or_host(uri: str) -> str:
    """Returns the bucket or the host of a URI, for messages."""
    location = Location.of_file(uri)
    return base.redact_uri(f"{location.scheme}://{location.bucket}")


def _doubled(times: int) -> float:
    return FIRST_PAUSE * 2.0 ** min(times, DOUBLINGS)


def _state(server: str) -> _Server:
    with _lock:
        return _servers[server]


def _note_answer(state: _Server) -> None:
    state.resolved = state.answered = True
    state.given_up = False


def _seconds_after(patience: RetryPolicy, state: _Server, reason: Interrupted) -> float:
    """Returns how long to wait after an interruption, and updates the server's state."""
    seconds = patience.seconds_for(state.answered)
    if reason.no_such_name:
        # DNS loses names for a while when it restarts; a name that it never knew is probably wrong.
        return seconds if state.resolved else min(seconds, SOON)
    state.resolved = True
    if not isinstance(reason, ServerUnavailable):
        state.answered = True
    return seconds


def _is_first_to_log(state: _Server, until: float) -> bool:
    """Checks that no other thread has logged a retry of this server that is still pending."""
    with _lock:
        if time.monotonic() < state.logged_until:
            return False
        state.logged_until = until
        return True


def _line(reason: Interrupted, uri: str, server: str, pause: float, more: float) -> str:
    where = bucket_or_host(uri)
    where = where if where == server else f"{where} at {server}"
    plan = f"retrying in {format_seconds(pause)}, for {format_seconds(max(more, 0.0))} more"
    return f"warning: {where} {reason.symptom} ({reason}); {plan}"


def _timed_out(reason: Interrupted, uri: str, server: str, waited: float, patience: RetryPolicy) -> UnreachableError:
    after = f", waited for {format_seconds(waited)}" if waited >= 0.05 else ""
    remedy = "Check the spelling, and that the stage's DNS knows this host." if reason.no_such_name else patience.remedy
    where = base.redact_uri(uri)
    if isinstance(reason, ServerUnavailable) and not where.startswith(server):
        where = f"{where} ({server})"
    return UnreachableError(reason.rule, f"{reason} at {where}{after}", remedy)


def _seconds_from_environment(default: float) -> float:
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise FieldError(
            f"{VARIABLE} must be a number of seconds, or 0 for no waiting",
            text,
            f"Set it to {advanced.STORE_WAIT_SECONDS:g}, for example.",
        )
    return seconds


WAIT_FIELD = "store_wait_seconds"  # of advanced


def wait_for_stores(wait: Mapping[str, Any] | float | None = None, *, at_most: float = math.inf) -> None:
    """Sets how long this process waits for a store that is down or busy.

    Args:
        wait: seconds, or the field `advanced`, of which only `store_wait_seconds` is read. If it is absent or the default,
            the environment variable `KFP_VISION_STORE_WAIT_SECONDS` applies.
        at_most: seconds from now on, for all stores together; `retry.CHECK_SECONDS` in a check.

    Raises:
        InputError: the value is not a number of seconds.
    """
    from kfp_vision.core import advanced

    if not isinstance(wait, Mapping | None):
        wait = {WAIT_FIELD: wait}
    said = {name: value for name, value in (wait or {}).items() if name == WAIT_FIELD}
    seconds = advanced.Advanced.parse(said).store_wait_seconds
    set_wait(None if seconds == advanced.ADVANCED_DEFAULTS[WAIT_FIELD] else seconds, at_most)
