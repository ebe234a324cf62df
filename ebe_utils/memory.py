"""How much memory there is, and how a sweep is planned to fit into it."""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from .checks import integer, real
from .search.engines import SMALL, bytes_per_training_row

_FIXED = 200 * 2**20  # bytes that a search needs whatever its size


@dataclass(frozen=True)
class Plan:
    """What a sweep will do: passes, a list of (layers, slice of the test images), and training images per shard.

    peak, budget: bytes that the process is expected, and allowed, to take.
    """

    passes: list
    shard: int
    peak: int
    budget: int
    dimensions: dict
    n_train: int

    @classmethod
    def of(cls, dimensions, n_train, n_test, k, engine="bounded", memory_budget=None, batch_size=256, forward=0,
           wanted=None):
        """Plan a sweep with as few passes as fit into memory_budget (GiB). forward: bytes of the forward pass;
        wanted: training images per shard, if not the plan's choice.

        Raises ValueError if not even one layer and one batch of test images fit.
        """
        integer("batch_size", batch_size, 1)
        have = psutil.Process().memory_info().rss
        if memory_budget is None:
            budget = have + psutil.virtual_memory().available // 2
        else:
            budget = int(real("memory_budget", memory_budget) * 2**30)
        fixed, plans = have + forward + _FIXED, []

        def need(layer, rows, shard):
            d, rank = dimensions[layer], min(dimensions[layer], 384)
            whole = bytes_per_training_row(engine, d) * n_train
            small = engine == "auto" and d * n_train * n_test <= SMALL
            copies = 4 * d + 8 * rank if engine in ("auto", "bounded") and not small else 28 * d
            return (rows + min(shard, n_train)) * copies + rows * k * 24 + whole

        for shard in (4096, 2048, 1024, 512) if wanted is None else (integer("shard", wanted, 1),):
            shard = max(batch_size, shard // batch_size * batch_size)
            rows = n_test
            while rows > batch_size and max(need(layer, rows, shard) for layer in dimensions) > budget - fixed:
                rows = -(-rows // 2)
            passes, used, peak = [], None, fixed
            for part in range(0, n_test, rows):
                part, used = slice(part, min(part + rows, n_test)), None
                for layer in dimensions:
                    more = need(layer, rows, shard)
                    if used is None or used + more > budget - fixed:
                        passes.append(([], part))
                        used = 0
                    passes[-1][0].append(layer)
                    used += more
                    peak = max(peak, fixed + used)
            plans.append(cls(passes, shard, peak, budget, dimensions, n_train))
        plan = min(plans, key=lambda p: (p.peak > budget, len(p.passes), -p.shard))
        if plan.peak > budget:
            raise ValueError(f"memory_budget={budget / 2**30:.2f} GiB is too small for layer "
                             f"{max(dimensions, key=dimensions.get)!r}, which needs {plan.peak / 2**30:.2f} GiB, with "
                             f"{have / 2**30:.2f} that the process has already; allow more, or pass pooling='avg'.")
        return plan

    def __str__(self):
        n = len(self.passes)
        return (f"{len(self.dimensions)} layers, {sum(self.dimensions.values()):,} dimensions: {n} pass{'es' * (n > 1)}"
                f" over {self.n_train:,} training images, {self.shard:,} at a time; about {self.peak / 2**30:.1f} of "
                f"{self.budget / 2**30:.1f} GiB")


def peak_memory():
    """Peak resident memory of this process in MiB; None where the system does not tell."""
    try:  # Linux: unlike getrusage, not what the parent had when it started this process
        return round(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**10)
    except (OSError, TypeError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform != "darwin" else 2**20))
