"""What a computation cost: seconds by part, products, memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Costs:
    """Seconds by part, and products spent."""

    seconds: dict[str, float] = field(default_factory=dict)
    products: int = 0

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time spent in here to a part."""
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def peak_memory() -> int | None:
    """Most memory this process ever held, in bytes; None where the system does not say."""
    try:
        import resource
    except ImportError:  # no such module on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
