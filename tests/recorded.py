"""nbval over what papermill has executed: a kernel that answers with the recorded outputs instead of computing them.

The sequence runs every notebook; nbval compares each cell of the committed ones with what that run printed. Without
the sequence, as in `pytest notebooks/02_embeddings.ipynb`, nbval executes the notebook itself.
"""

import re
import time
from collections import deque
from pathlib import Path

import nbformat


class RecordedKernel:
    """What nbval asks of a kernel (`nbval.kernel.RunningKernel`), answered from an executed notebook."""

    def __init__(self, executed: Path) -> None:
        self.executed = executed
        self._cells = deque(cell for cell in nbformat.read(executed, as_version=4).cells if cell.cell_type == "code")
        self._messages: deque[dict] = deque()
        self._asked = 0

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None:
        """There is nothing to stop."""

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        """Take the next recorded cell, which must have this source; returns the name of the question."""
        cell = self._cells.popleft() if self._cells else None
        if cell is None or cell.source != source:
            raise AssertionError(f"{self.executed} holds other code than the committed notebook:\n"
                                 + ("no further cell" if cell is None else cell.source))
        self._asked += 1
        idle = {"output_type": "status", "execution_state": "idle"}
        self._messages = deque({"msg_type": output["output_type"], "content": output,
                                "parent_header": {"msg_id": str(self._asked)}} for output in [*cell.outputs, idle])
        return str(self._asked)

    def await_reply(self, msg_id: str, timeout: float | None = None) -> None:
        """The answer is there."""

    def await_idle(self, msg_id: str, timeout: float | None = None) -> None:
        """Nothing else is going on."""

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        """The next output of the cell; after the last, that the kernel is idle."""
        return self._messages.popleft()


def wait_for(notebook: str, runs: Path) -> None:
    """Wait until the sequence, whose lines go to runs/sequence.txt, has been through a notebook, or has ended."""
    line, said = re.compile(rf"^{notebook} +\d+ s$", re.MULTILINE), runs / "sequence.txt"
    while not (runs / "sequence.code").exists() and not (said.exists() and line.search(said.read_text())):
        time.sleep(0.2)
