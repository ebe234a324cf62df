"""Where things lie: also where neither the package's folder nor the home can be written."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ebe_utils


def test_compiled_loops_where_nothing_but_a_temporary_folder_can_be_written(tmp_path):
    """Files stand where the folders of caches belong, which stops even an administrator's processes."""
    package = shutil.copytree(Path(ebe_utils.__file__).parent, tmp_path / "code" / "ebe_utils",
                              ignore=shutil.ignore_patterns("__pycache__"))
    (package / "search" / "__pycache__").touch()
    (tmp_path / "home").touch()
    (tmp_path / "temporary").mkdir()
    places = {"PYTHONPATH": str(tmp_path / "code"), "HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1",
              "XDG_CACHE_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary")}
    code = ("import numpy as np, os, tempfile, ebe_utils\n"
            "from ebe_utils.search.kernels import lengths\n"
            "print(ebe_utils.__file__, lengths(np.eye(3, dtype=np.float32)), len(os.listdir(tempfile.gettempdir())))\n")
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | places
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tempfile.gettempdir(), check=True,
                          capture_output=True, text=True)
    assert done.stdout == f"{package / '__init__.py'} [1. 1. 1.] 1\n" and not done.stderr
    assert not [*(tmp_path / "temporary").iterdir()], "the temporary folder is gone with the process"
