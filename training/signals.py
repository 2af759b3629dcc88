"""A run that is asked to end does so in order: after the step in hand, with a checkpoint.

In    SIGTERM (kill, timeout, a cluster's scheduler), SIGINT (Ctrl-C), SIGHUP (a terminal that closes).
Out   a checkpoint, and exit code 128 plus the signal's number: 143, 130, 129.
Run   through training/train.py

Of several processes all end after the same step, whichever was asked. A second Ctrl-C ends the run at once. A run in
the background of its terminal (`&`, or Ctrl-Z and `bg`) goes on without it, also before its first step and after its
last; so does one under nohup, whose SIGHUP is ignored and stays so.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from preprocessing.errors import UserError
from training.checkpoint import checkpoints
from training.run_log import RunLog
from training.run_state import save_run, saving_is_due
from training.watchdog import any_asked

if TYPE_CHECKING:
    from training.loop import TrainLoop

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def in_background(stat: Path = Path("/proc/self/stat")) -> bool | None:
    """Whether this process is behind its terminal; None where it has none, or one that is gone."""
    group, _, terminal, foreground = stat.read_text().rpartition(")")[2].split()[2:6]
    return group != foreground if terminal != "0" and foreground != "-1" else None


def say(what: str, number: int) -> None:
    """On the terminal, past Python's streams: a handler runs where the program may be inside one of them."""
    with suppress(OSError):
        os.write(2, f"\n{signal.Signals(number).name}: {what}\n".encode())


def outlive_terminal() -> None:
    """Of a run that is started in the background."""
    if in_background():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Ended(UserError):
    """In order, since it was asked to."""

    def __init__(self, said: str, number: int):
        super().__init__(said)
        self.exit_code = 128 + number


class Ending:
    """`asked`: the signal that came, if any."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self.behind = in_background()
        self.before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.before[number] = signal.signal(number, self.hear)
        self.before[signal.SIGCONT] = signal.signal(signal.SIGCONT, self.moved)

    def stop_listening(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.before.get(signal.SIGHUP) is not None and (self.behind or self.asked == signal.SIGHUP):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a shell that dies says it after the terminal once more

    def moved(self, number: int, frame: FrameType | None) -> None:
        """`bg` and `fg` let a stopped run go on, the one behind its terminal and the other before it. A terminal that
        is gone, which lets all go on too, no longer says whom it showed."""
        self.behind = self.behind if (behind := in_background()) is None else behind

    def hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self.behind:
            say("the terminal is gone, the run goes on in the background", number)
            return
        self.asked = self.asked or signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(number, self.before[signal.SIGINT])  # the next one does not wait
        again = "; once more ends it at once" if number == signal.SIGINT else ""
        say(f"the run saves after this step and ends{again}", number)

    def obey(self, loop: "TrainLoop", log: RunLog) -> None:
        """After a step: where any process was asked to end, saves and raises Ended."""
        if not any_asked(loop, self.asked is not None):
            return
        if not saving_is_due(loop):
            save_run(loop, log, wait=True, interim=True)
        loop.saver.finish()
        loop.accelerator.wait_for_everyone()
        number = self.asked or signal.SIGTERM
        again = "" if loop.config.resume in ("auto", "latest") else ", with --resume auto"
        left = loop.total_steps - loop.step
        raise Ended(
            f"ended by {number.name} after step {loop.step}, in order: {checkpoints(loop.output_dir)[-1]} is saved. "
            f"Start the same command again{again}: it goes on from there, {left} steps to the end",
            number,
        )


@contextmanager
def ended_by_signals(loop: "TrainLoop") -> Iterator[None]:
    """Listens while the block runs; signals are the main thread's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop.ending = Ending()
    loop.ending.listen()
    try:
        yield
    finally:
        loop.ending.stop_listening()
        loop.ending = None
