"""How often one visitor is answered.

In    who asks, as the server sees it.
Out   whether it may be answered now.
Run   through demo/page.py
"""

import threading
import time
from collections import OrderedDict

MOST_VISITORS = 10_000


class Rate:
    """A bucket a visitor, which holds `per_minute` questions and fills again within a minute."""

    def __init__(self, per_minute: int):
        self.per_minute = per_minute
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.lock = threading.Lock()

    def allows(self, visitor: str, now: float | None = None) -> bool:
        """Takes one question out of the visitor's bucket, if there is one."""
        now = time.monotonic() if now is None else now
        with self.lock:
            held, since = self.buckets.pop(visitor, (float(self.per_minute), now))
            held = min(float(self.per_minute), held + (now - since) * self.per_minute / 60)
            allowed = held >= 1
            self.buckets[visitor] = (held - allowed, now)
            while len(self.buckets) > MOST_VISITORS:  # the one that asked longest ago
                self.buckets.popitem(last=False)
        return allowed
