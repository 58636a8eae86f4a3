"""What is imported with the parts of the package that need no torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["datasets", "images", "metrics", "regions"])
def test_modules_that_need_no_torch_do_not_import_it(module, tmp_path):
    """In a new process: this one may have imported torch for another test."""
    code = f"import sys, skhgad.{module}; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    # In another folder, because Python would prefer a source tree in this one to what is installed.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
