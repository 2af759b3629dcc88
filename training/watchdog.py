"""Sees that memory is running out before the kernel kills the run for it: the run saves and ends, or ends at once.

In    a TrainLoop, its plan; what the machine and its control groups have left (preprocessing/memory_room.py).
Out   a checkpoint and DoesNotFit after the step in hand; or, where there is no time for that, the record and exit
      code 3 at once.
Run   through training/train.py; `--watch_memory false` switches it off.

A run's own steps may come as near to the limit as they like: it was planned, and its plan was found to fit. So what is
watched is not what is free, which goes down and up with every step, but what would be free if this process took the
most it will take (`spare`). Its own steps leave that as it is; only others move it.

Below the first line the loop is asked to stop after the step in hand. If others give the memory back before that step
is over, nothing was. Below the second there are in fact 64 MiB left, or will be in a tenth of a second if others go on
as in the last: then the thread itself ends the process. Checkpoints are whole or not there (training/checkpoint.py):
the newest one stands. Where a run was given hardly more than it needs, a few MiB of others' coming and going must not
end it: both lines lie at least `TAKEN` below what was spare when it began.

A look is taken four times a second where 4 GiB or more are free, and sooner the less there is, so that whoever takes
up to `PACE` is seen when half of it is gone. Files' pages count as free, as they go when memory is asked for; so of
this process only what is not a file's counts.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from preprocessing.errors import DoesNotFit
from preprocessing.memory_room import GROUPS, PROC, numbers_in, room
from training.held_memory import give_back_resting, is_held
from training.memory_kinds import MemoryPlan
from training.out_of_memory import GIB, clean_up, facts, stopped
from training.run_log import RunLog
from training.run_state import save_run, saving_is_due

if TYPE_CHECKING:
    from training.loop import TrainLoop

SECONDS, LEAST_SECONDS = 0.25, 0.01
PACE = 8 * GIB
"""Bytes a second that others are taken to take at most."""
FIRST, LAST = 256 << 20, 64 << 20
"""A checkpoint is written and read back through the file cache, which wants some room: hence 256 MiB. 64 MiB is what
is taken in 10 ms at nearly `PACE`."""
ENDING = 0.1
"""Seconds that ending the process, with its record, takes."""
TAKEN = 64 << 20
"""What others must have taken since the run began."""


@dataclass(frozen=True)
class Look:
    """Bytes: that this process could still take, by which limit, and of these what its own peak would leave."""

    free: int
    limited_by: str
    spare: int
    at: float = 0.0
    """When, in seconds."""


class Lines:
    """Which looks call for what. `planned`: the peak of this process in CPU memory, 0 where nothing is known."""

    def __init__(self, planned: int, proc: Path = PROC, groups: Path = GROUPS):
        self.most, self.proc, self.groups, self.files = planned, proc, groups, 0
        begin = self.look().spare
        self.first = min(FIRST, begin - TAKEN)
        self.last = min(LAST, begin - TAKEN) if begin >= 0 else LAST  # more was planned than there is

    def look(self) -> Look:
        found, own = room(self.proc, self.groups), numbers_in(self.proc / "self" / "status")
        files = own["RssFile"] + own.get("RssShmem", 0)
        self.files = max(self.files, files)  # pages that the kernel took back are no less needed
        self.most = max(self.most, own["VmHWM"])  # which begins anew with each phase, where phases are measured
        most = self.most - self.files
        still = most - (own["VmRSS"] - files)
        return Look(found.free, found.limited_by, found.free - max(0, still), time.monotonic())

    def asks_to_stop(self, look: Look) -> bool:
        return look.spare < self.first

    def ends_at_once(self, look: Look, before: Look) -> bool:
        """`before`: an earlier look; what others have taken since, they go on to take while the process ends."""
        taken = max(0, before.spare - look.spare) * min(1.0, ENDING / max(look.at - before.at, LEAST_SECONDS))
        return look.free - taken < LAST and look.spare - taken < self.last


class Watchdog(threading.Thread):
    """Looks until `ended` is set; `asked` is the last look where it calls for a stop."""

    def __init__(self, loop: "TrainLoop", plan: MemoryPlan | None):
        super().__init__(name="watchdog", daemon=True)
        self.loop, self.plan, self.ended = loop, plan, threading.Event()
        self.main = threading.get_ident()
        self.asked: Look | None = None
        self.lines = Lines(plan.devices["cpu"].peak if plan is not None else 0)

    def run(self) -> None:
        try:
            before = look = self.lines.look()
            while not self.ended.wait(pause(look)):
                look = self.lines.look()
                self.asked = look if self.lines.asks_to_stop(look) else None
                if self.lines.ends_at_once(look, before):
                    self.end(look)
                before = look if look.at - before.at >= ENDING else before
        except (OSError, MemoryError) as error:  # the latter under `ulimit -v`, where the loop meets it too
            print(f"\nmemory is no longer watched: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def end(self, look: Look) -> None:
        """The process, with all that it holds."""
        try:
            sys.setswitchinterval(1e-5)  # the loop is to let go of the interpreter whenever it can
            if is_held():
                give_back_resting()
            record = self.record(look, "so that the run ends before the kernel kills it", at_work(self.main))
            print(f"\nerror: {stopped(self.loop, record)}", file=sys.stderr, flush=True)
        finally:  # with the memory that is left there may be no record; what was saved stands
            os._exit(DoesNotFit.exit_code)

    def record(self, look: Look, said: str, functions: list[str]) -> dict[str, Any]:
        left = f"{look.free / GIB:.2f} GiB were free, {look.spare / GIB:.2f} beside what this run needs, {said}"
        found = facts(self.loop, self.plan, functions, f"memory runs low: {left}")
        return found | {"room": {"free": look.free, "limited_by": look.limited_by}}

    def obey(self, loop: "TrainLoop", log: RunLog) -> None:
        """After a step: where a stop is called for in any process, saves, if that fits, and raises DoesNotFit."""
        look = self.asked
        if not any_asked(loop, look is not None) or loop.step == loop.total_steps:
            return
        look = look or self.lines.look()
        clean_up(loop)  # without Python's garbage collection, which lets nobody look for most of a second
        if not saving_is_due(loop) and not any_asked(loop, not self.saving_fits()):
            save_run(loop, log, wait=True, interim=True)
        loop.saver.finish()
        raise stopped(loop, self.record(look, "so that the run stopped in order after its step", ["take_steps"]))

    def saving_fits(self) -> bool:
        """A checkpoint is written from what is there, beside what the plan says that saving takes."""
        look, own = self.lines.look(), numbers_in(PROC / "self" / "status")
        needed = self.plan.devices["cpu"].phases["save"] - own["VmRSS"] if self.plan is not None else 0
        return look.free > LAST + max(0, needed)


def pause(look: Look) -> float:
    """Seconds until the next look."""
    return min(SECONDS, max(LEAST_SECONDS, look.free / (2 * PACE)))


def any_asked(loop: "TrainLoop", mine: bool) -> bool:
    """All processes stop after the same step."""
    if loop.accelerator.num_processes == 1:
        return mine
    asked = torch.tensor(float(mine), device=loop.accelerator.device)
    return float(loop.accelerator.reduce(asked, reduction="sum")) > 0


def at_work(thread: int) -> list[str]:
    """Names of the functions that a thread is in, the outermost first."""
    names, frame = [], sys._current_frames().get(thread)
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names[::-1]


@contextmanager
def watched(loop: "TrainLoop", plan: MemoryPlan | None) -> Iterator[None]:
    """Watches while the block runs, unless the config says not to."""
    if not loop.config.watch_memory:
        yield
        return
    loop.watchdog = Watchdog(loop, plan)
    loop.watchdog.start()
    try:
        yield
    finally:
        loop.watchdog.ended.set()
        loop.watchdog.join()
        loop.watchdog = None
