"""Kernels for a sequence of notebooks: the next one starts, and imports what most need, while one is at work."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager

# What nearly every notebook imports, seconds of work. No name is bound: a notebook still has to import what it uses.
WARM = ("torch", "pandas", "matplotlib.pyplot", "ebe_utils", "ebe_utils.study.figures", "ebe_utils.study.run",
        "ebe_utils.study.report")
QUIET = ["--IPKernelApp.log_level=CRITICAL"]


class Kernels:
    """A context in which `take` gives one started kernel after the other; at its end all are stopped.

    folder: where the kernels work; count: how many will be taken.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.left = folder, count
        self._waiting: AsyncKernelManager | None = None
        self._taken: AsyncKernelManager | None = None

    def take(self) -> "AsyncKernelManager":
        """The manager of a kernel that nobody has used; the one taken before is stopped, the next one started."""
        self._stop(self._taken)
        self._taken = self._waiting or self._started()
        self.left -= 1
        self._waiting = self._started() if self.left > 0 else None
        return self._taken

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for manager in (self._taken, self._waiting):
            self._stop(manager)
        self._taken = self._waiting = None

    def _started(self):
        from jupyter_client.manager import AsyncKernelManager
        from jupyter_core.utils import run_sync

        manager = AsyncKernelManager(kernel_name="python3")
        warm = [f"--IPKernelApp.exec_lines=__import__({name!r})" for name in WARM]
        run_sync(manager.start_kernel)(extra_arguments=[*QUIET, *warm], cwd=str(self.folder))
        return manager

    def _stop(self, manager):
        """After its last cell a kernel has nothing to tidy up; waiting until it has takes two seconds."""
        from jupyter_core.utils import run_sync

        if manager is not None:
            run_sync(manager.shutdown_kernel)(now=True)
            run_sync(manager.cleanup_resources)()
