"""Operations whose cost is the machine's, timed in the same round: what a figure is to be compared with.

The machine is shared, so a round may run at half of the speed of the next. These tell such rounds apart.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from treehead.merkle import hash_children
from treehead.privatekey import PrivateKey
from treehead.publickey import Scheme

_PAGE_BYTES = 4_096
_REPEATS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """Medians: a P-256 signature verified, a node of a tree hashed, a page appended to a file and made durable."""

    p256_verify_us: float
    node_hash_us: float
    page_sync_us: float


def yardstick(folder: Path) -> Yardstick:
    """Measure, in some 50 ms; `folder` is where the log under load is."""
    key = PrivateKey.from_seed(scheme=Scheme.P256, seed=random.Random("yardstick").randbytes(32))
    signature = key.sign(b"message")
    node = bytes(32)
    page = bytes(_PAGE_BYTES)
    with tempfile.TemporaryFile(dir=folder) as file:

        def sync() -> None:
            file.write(page)
            file.flush()
            os.fdatasync(file.fileno())

        return Yardstick(
            p256_verify_us=_median_us(lambda: key.public.verify(signature=signature, message=b"message")),
            node_hash_us=_median_us(lambda: [hash_children(node, node) for _ in range(1_000)]) / 1_000,
            page_sync_us=_median_us(sync),
        )


def _median_us(operation: Callable[[], object]) -> float:
    took = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        operation()
        took.append(time.perf_counter() - began)
    return statistics.median(took) * 1e6
