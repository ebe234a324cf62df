"""How much memory there is, and how a sweep is planned to fit into it."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from .checks import integer, real
from .search.engines import SMALL, Engine, bytes_per_training_row

_FIXED = 200 * 2**20  # bytes that a search needs whatever its size
_INSIDE = 3  # an operation's scratch space and what the allocator keeps: measured peaks of twelve networks stay below


@dataclass(frozen=True)
class Plan:
    """What a sweep will do: passes, a list of (layers, slice of the test images), training images per shard, and images
    per forward pass.

    peak, budget: bytes that the process is expected, and allowed, to take.
    """

    passes: list[tuple[list[int | str], slice]]
    shard: int
    batch_size: int
    peak: int
    budget: int
    dimensions: dict
    n_train: int

    @classmethod
    def of(cls, dimensions: dict, n_train: int, n_test: int, k: int, engine: Engine = "bounded",
           memory_budget: float | None = None, batch_size: int = 256, forward: int = 0, wanted: int | None = None,
           pooling: str = "none") -> "Plan":
        """Plan a sweep with as few passes as fit into memory_budget (GiB, default: half of what is free).

        forward: bytes that the network's outputs take at a time for one image (`probe`); the batch is halved until its
        forward pass takes at most half of the memory. wanted: training images per shard, if not the plan's choice.
        Raises ValueError if not even one layer and one batch of test images fit.
        """
        batch_size = min(integer("batch_size", batch_size, 1), max(n_train, n_test))
        have = psutil.Process().memory_info().rss
        if memory_budget is None:
            budget = have + available_memory() // 2
        else:
            budget = int(real("memory_budget", memory_budget) * 2**30)
        free = budget - have - _FIXED

        def need(layer, rows, shard):
            d, rank = dimensions[layer], min(dimensions[layer], 384)
            whole = bytes_per_training_row(engine, d) * n_train
            small = engine == "auto" and d * n_train * n_test <= SMALL
            copies = 4 * d + 8 * rank if engine in ("auto", "bounded") and not small else 28 * d
            return (rows + min(shard, n_train)) * copies + rows * k * 24 + whole

        shards = (4096, 2048, 1024, 512) if wanted is None else (integer("shard", wanted, 1),)
        while True:
            outputs = _INSIDE * forward * batch_size
            if outputs <= free / 2 or batch_size == 1:
                plan = min((cls._with(need, shard, batch_size, have + _FIXED + outputs, budget, dimensions, n_train,
                                      n_test) for shard in shards), key=lambda p: (p.peak > budget, len(p.passes),
                                                                                   -p.shard))
                if plan.peak <= budget:
                    return plan
                if batch_size == 1:
                    break
            batch_size //= 2
        layer = max(dimensions, key=lambda layer: need(layer, 1, plan.shard))
        what, instead = f"layer {layer!r}", ", or pass pooling='avg'" if pooling == "none" else ""
        if free <= 0:
            what, instead = "the search of any layer", ""
        elif outputs > free:
            what, instead = "the forward pass of one image", ", or pass smaller images"
        elif layer == 0:
            what, instead = "the pixels (layer 0)", ", or pass pixels=False"
        raise ValueError(f"memory_budget={budget / 2**30:.2f} GiB is too small for {what}: it takes "
                         f"{plan.peak / 2**30:.2f} GiB, with {have / 2**30:.2f} that the process has already; allow "
                         f"more{instead}.")

    @classmethod
    def _with(cls, need, shard, batch_size, fixed, budget, dimensions, n_train, n_test):
        """The plan for a shard and batch of these sizes; its peak may be above the budget."""
        shard, rows = max(batch_size, shard // batch_size * batch_size), n_test
        while rows > batch_size and max(need(layer, rows, shard) for layer in dimensions) > budget - fixed:
            rows = -(-rows // 2)
        passes: list[tuple[list[int | str], slice]] = []
        peak = fixed
        for start in range(0, n_test, rows):
            part, used = slice(start, min(start + rows, n_test)), None
            for layer in dimensions:
                more = need(layer, rows, shard)
                if used is None or used + more > budget - fixed:
                    passes.append(([], part))
                    used = 0
                passes[-1][0].append(layer)
                used += more
                peak = max(peak, fixed + used)
        return cls(passes, shard, batch_size, peak, budget, dimensions, n_train)

    def __str__(self) -> str:
        n = len(self.passes)
        return (f"{len(self.dimensions)} layers, {sum(self.dimensions.values()):,} dimensions: {n} pass{'es' * (n > 1)}"
                f" over {self.n_train:,} training images, {self.shard:,} at a time in batches of {self.batch_size}; "
                f"about {self.peak / 2**30:.1f} of {self.budget / 2**30:.1f} GiB")


def row_parts(n: int, bytes_each: int, most: int = 2**26) -> Iterator[slice]:
    """Slices of 0..n whose rows, of so many bytes each, take at most `most` bytes (or are one row)."""
    step = max(1, most // max(1, bytes_each))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that may still be taken: what the machine has free, or, if less, what a container's limit leaves."""
    return min([psutil.virtual_memory().available, *_cgroup_free(root)])


def _cgroup_free(root):
    """Bytes that each limit on this process leaves, by its control groups of version 1 and 2 (Linux)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds == "":
            top, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in kinds.split(","):
            top, limit, usage, cache = (root / "sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                        "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = top / path.strip("/")
        while True:  # a limit may stand on any group above; inside a container the path may not be there at all
            try:
                most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
                found = re.search(rf"^{cache} (\d+)", (folder / "memory.stat").read_text(), re.M)
                yield max(0, most - used + (int(found[1]) if found else 0))  # files in the cache give way
            except (OSError, ValueError):  # no such file, or "max"
                pass
            if folder == top:
                break
            folder = folder.parent


def peak_memory() -> int | None:
    """Peak resident memory of this process in MiB; None where the system does not tell."""
    try:  # Linux: unlike getrusage, not what the parent had when it started this process
        return round(int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 2**10)
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**10 if sys.platform != "darwin" else 2**20))
