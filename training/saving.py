"""A checkpoint is written while the next steps are taken: from a copy, which is made while weights stand still.

In    tensors of the run, a function that writes a folder from tensors; whether it is to be done beside the steps.
Out   the folder; a fault of writing, raised after the step in hand as the save's own.
Run   `save_async: on` in a recipe, through TrainLoop

From one update to the next nothing moves weights or moments: the step's forward and backward pass only read them. So
the copy is made by a thread of its own in that time, and all that the loop ever waits for is what is left of the copy
when the next update comes (`wait_for_copy`). Buffers, which a forward pass may change, are given as copies. Then the
same thread writes, hashes and flushes the copy. At most one save is on its way: the next one waits for it, and so
does the end of the run, whatever ends it. The bytes are those of a blocking save. A kill leaves what was there before.

The copy is as large as weights and moments, and is in the run's plan (training/memory_kinds.py).
"""

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from training.sharding import same_place

Files = Mapping[str, Mapping[str, Tensor]]
"""Tensors by the file they go into."""


class Saver:
    """Of one run. What a save tells of the run beside its state is here too: what was judged last, and its parent."""

    def __init__(self, beside: bool):
        self.beside = beside
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        self.copied = threading.Event()
        self.copied.set()
        self.judged: tuple[int, Mapping[Any, Mapping[str, float]]] = (-1, {})
        """The last step that was evaluated, and its scores."""
        self.parent: str | None = None
        """The checkpoint before the next one; of the first, what the run began from."""
        self.preflight = "none"
        """ "passed", where this run's preflight did (training/preflight.py)."""
        self.dev: str | None = None
        """Digest of the rows to judge by, where there are any."""
        self.identity: dict[str, str] | None = None
        self.tokenizer: dict[str, bytes] | None = None
        """Its files: the thread that writes must not ask a tokenizer that an evaluation asks."""

    def save(self, files: Files, write: Callable[[Files], None], wait: bool = False) -> None:
        """Have `write` write `files`: beside the steps that come, or now, without a copy."""
        self.finish()
        if wait or not self.beside:
            write(files)
            return
        self.copied.clear()
        self.thread = threading.Thread(target=self.write_beside, args=(files, write), name="saver", daemon=True)
        self.thread.start()

    def write_beside(self, files: Files, write: Callable[[Files], None]) -> None:
        try:
            held = copies(files)
            del files
            self.copied.set()
            write(held)
        except BaseException as error:  # noqa: BLE001 - it is raised in the loop, whatever it is
            self.failure = error
        finally:
            self.copied.set()

    def wait_for_copy(self) -> None:
        """Before anything moves weights or moments."""
        self.copied.wait()

    def raise_failure(self) -> None:
        """Raises what a save beside the steps ended with."""
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def finish(self) -> None:
        """Wait until nothing is on its way; raises what it ended with."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        self.raise_failure()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The run ends, in whatever way: what is on its way is written first."""
        try:
            self.finish()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"and the save before it failed: {failure}")


@torch.no_grad()
def copies(files: Files) -> dict[str, dict[str, Tensor]]:
    """The same tensors in memory of their own, on the CPU; what shared memory shares it again."""
    known: dict[Any, Tensor] = {}
    found: dict[str, dict[str, Tensor]] = {}
    for file, tensors in files.items():
        found[file] = {}
        for name, tensor in tensors.items():
            key = (same_place(tensor), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            if key not in known:
                known[key] = tensor.detach().to("cpu", copy=True)
            found[file][name] = known[key]
    return found
