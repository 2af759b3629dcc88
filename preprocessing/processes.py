"""What every worker of a pool does first: see to it that it ends with the process that started it.

In    nothing; it is a pool's `initializer`.
Out   a process that ends when its parent does.
Run   through preprocessing/step_table.py and preprocessing/near_duplicates.py
"""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Let this process end when the one that started it does, even by SIGKILL: it would wait for work for ever."""

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
