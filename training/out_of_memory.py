"""What happens when memory runs out anyway, because somebody else took it: the run stops, and says how to go on.

In    a TrainLoop, its plan; the error of torch, of the system or of Python that says that there is no memory.
Out   OUTPUT_DIR/oom_stats/step-N.json; DoesNotFit (exit code 3).
Run   through training/train.py; training/watchdog.py stops a run by the same way before there is an error.

Nothing is tried again: a step that was broken off has moved some weights and not others, and whoever took the memory
still has it. What stands is the newest checkpoint. A run that goes on keeps its settings, so what helps is room; with
other settings it is another run, from that checkpoint's weights. Those settings are not searched for here, since a
search makes plans, and a plan takes memory: the message names a command that plans, with the same data, before it
takes anything, and says what fits.
"""

import errno
import gc
import mmap
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from preprocessing.errors import DoesNotFit
from preprocessing.memory_room import most_resident, others, resident
from training.checkpoint import checkpoints
from training.held_memory import give_back_memory, held_memory, is_held
from training.memory_kinds import MemoryPlan
from training.memory_limits import room_on
from training.report import write_json

if TYPE_CHECKING:
    from training.loop import TrainLoop

GIB = 2**30
OOM_STATS = "oom_stats"
FOR_SAVING = 32 << 20
"""Bytes that libraries take for themselves while they write a checkpoint."""
SAID = (
    "can't allocate memory",  # of torch's allocator on the CPU, and of ours
    "not enough memory",  # the same, on other systems
    "bad_alloc",  # of C++
    "out of memory",  # of CUDA's libraries
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""Parts of what RuntimeErrors say that come of too little memory."""
NO_KERNEL = "could not create a primitive"
"""All that oneDNN says when it finds no room for a kernel."""
PHASES = {
    "load_groups": "read",
    "forward": "forward",
    "compute": "forward",
    "losses": "forward",
    "backward": "backward",
    "update": "update",
    "evaluate": "evaluate",
    "save_run": "save",
    "write_beside": "save",
}
"""By the function of TrainLoop, or called by it, that was at work."""
SETTINGS = [
    *("preset", "batch_size", "gradient_accumulation_steps", "mixed_precision", "gradient_checkpointing"),
    *("weight_precision", "update_in_backward", "clipping", "optimizer", "num_workers"),
    *("gpu_layers_ratio", "heads_device", "swap", "swap_room_gib", "vram_gib"),
    *("ram_gib", "memory_fraction", "plan_memory", "hold_memory", "watch_memory"),
]


def train_or_stop(loop: "TrainLoop", plan: MemoryPlan | None) -> None:
    """All steps; raises DoesNotFit, with a record of it, where one finds no memory. Other errors pass as they are."""
    try:
        loop.train()
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        record = facts(loop, plan, functions_of(error), said_of(error))
    gc.collect()  # not above: the error held the frames, and these the activations
    clean_up(loop)
    raise stopped(loop, record)


@contextmanager
def outside_of_steps() -> Iterator[None]:
    """Raises DoesNotFit where anything but a step finds no memory: building the model, the last evaluation, final/."""
    try:
        yield
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        came_through = [name for name in functions_of(error) if not name.startswith("_")]
        said, found = said_of(error), room_on(torch.device("cpu"))
    held = ", ".join(f"{size / GIB:.2f} GiB {name} (PID {pid})" for size, pid, name in others())
    raise DoesNotFit(
        f"out of memory in {' > '.join(came_through[2:6])}: {said}\n"
        f"  resident: {resident() / GIB:.2f} GiB, free: {found.free / GIB:.2f} GiB ({found.limited_by})\n"
        f"  others: {held or 'none that can be seen from here'}\n"
        "Free memory and start the same command again: what was saved is whole, and the run goes on from there."
    )


@contextmanager
def without_delay() -> Iterator[None]:
    """Ends the process at once where the block exits with code 3: Python's own ending keeps the memory for a second,
    in which the kernel may kill for it."""
    try:
        yield
    except SystemExit as end:
        if end.code == DoesNotFit.exit_code:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(DoesNotFit.exit_code)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error)
    of_torch = type(error) in (RuntimeError, torch.AcceleratorError)  # none of ours, which may quote a text
    return of_torch and (said == NO_KERNEL or any(part in said for part in SAID))


def ask_first(size: int) -> None:
    """Raises OSError where the system refuses so many bytes: libraries that follow end the process when it does."""
    mmap.mmap(-1, size).close()


def said_of(error: BaseException) -> str:
    """One line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no more is said').splitlines()[0][:300]}"


def functions_of(error: BaseException) -> list[str]:
    """Names of the functions that the error came through, the outermost first."""
    names, at = [], error.__traceback__
    while at is not None:
        names.append(at.tb_frame.f_code.co_name)
        at = at.tb_next
    return names


def place(loop: "TrainLoop", functions: Iterable[str]) -> tuple[int, str]:
    """The number of the step in hand, counted from 1, and its phase."""
    inside = list(functions)
    inside = inside[inside.index("take_steps") :] if "take_steps" in inside else []
    in_hand = "take_step" in inside or "load_groups" in inside
    phase = next((PHASES[name] for name in inside if name in PHASES), "step" if in_hand else "between steps")
    return loop.step + in_hand, phase


def facts(loop: "TrainLoop", plan: MemoryPlan | None, functions: Iterable[str], error: str) -> dict[str, Any]:
    """What is written down: bytes; `room` is of the device that the model is on, the rest of the CPU's memory."""
    step, phase = place(loop, functions)
    found = room_on(loop.accelerator.device)
    complete = checkpoints(loop.output_dir)
    return {
        "step": step,
        "phase": phase,
        "error": error,
        "planned": plan.to_dict() if plan is not None else None,
        "measured": measured(loop),
        "room": {"free": found.free, "limited_by": found.limited_by},
        "room_of_cpu": room_on(torch.device("cpu")).free,
        "others": [{"pid": pid, "name": name, "bytes": size} for size, pid, name in others()],
        "checkpoint": str(complete[-1]) if complete else None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "settings": {name: getattr(loop.config, name) for name in SETTINGS},
    }


def measured(loop: "TrainLoop") -> dict[str, Any]:
    device, memory = loop.accelerator.device, getattr(loop, "memory", None)
    before = memory.monitor.most["cpu"].peak if memory is not None else 0  # in earlier phases, of a measured run
    found: dict[str, Any] = {"resident": resident(), "most_resident": max(before, most_resident())}
    found["held"] = held_memory()._asdict() if is_held() else None
    if device.type == "cuda":
        found["device"] = {
            "allocated": torch.cuda.memory_allocated(device),
            "reserved": torch.cuda.memory_reserved(device),
            "most_allocated": torch.cuda.max_memory_allocated(device),
        }
    return found


def clean_up(loop: "TrainLoop") -> None:
    """Gradients go, and what rests goes back to the system; activations went with the frames that held them."""
    for parameter in loop.bare_model.parameters():
        parameter.grad = None
    give_back_memory()
    if loop.accelerator.device.type == "cuda":
        torch.cuda.empty_cache()


def stopped(loop: "TrainLoop", record: dict[str, Any]) -> DoesNotFit:
    """Writes the record; what to raise, or to print."""
    path = loop.output_dir / OOM_STATS / f"step-{record['step']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)
    found, planned = record["measured"], record["planned"]
    of_cpu = planned["devices"]["cpu"] if planned else {}
    said = f"{of_cpu['peak'] / GIB:.2f} GiB ({of_cpu['peak_phase']})" if planned else "nothing"
    held = ", ".join(f"{one['bytes'] / GIB:.2f} GiB {one['name']} (PID {one['pid']})" for one in record["others"])
    lines = [
        f"out of memory in step {record['step']} ({record['phase']}): {record['error']}",
        f"  planned: {said}; resident: {found['resident'] / GIB:.2f} GiB, {found['most_resident'] / GIB:.2f} at most",
        f"  free: {record['room']['free'] / GIB:.2f} GiB ({record['room']['limited_by']})",
        f"  others: {held or 'none that can be seen from here'}",
        f"  written down in {path}",
    ]
    return DoesNotFit("\n".join([*lines, *advice(loop, record)]))


def advice(loop: "TrainLoop", record: dict[str, Any]) -> list[str]:
    """How to go on: the same run, which keeps its settings; or another, with less, from its weights."""
    config, checkpoint = loop.config, record["checkpoint"]
    if checkpoint is None:
        return ["No checkpoint was written yet. Free memory and start the same command again: it begins anew."]
    again = "start the same command again" + ("" if config.resume == "auto" else ", with --resume auto")
    lines = [f"Free memory and {again}: it goes on from {checkpoint}, to the same weights."]
    if config.weight_precision == "bf16":  # start_from brings weights of float32
        return lines
    share = config.memory_fraction if config.ram_gib is None else 1.0
    there = share * (record["room_of_cpu"] + record["measured"]["resident"]) / GIB
    given = [*sys.argv, "--start_from", checkpoint, "--output_dir", f"{loop.output_dir}-less"]
    given += [] if config.resume == "auto" else ["--resume", "auto"]
    less = "with settings that take less, such as a smaller batch_size with more gradient_accumulation_steps"
    if record["planned"] is not None:
        less = "which says what settings fit, if these do not"
        given += ["--ram_gib", f"{max(0.01, there - 0.005):.2f}"]
    return [*lines, f"Or as a new run from its weights, {less}:", f"  python {shlex.join(given)}"]
