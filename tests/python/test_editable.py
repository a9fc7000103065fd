"""Other ways to install the package than a wheel."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USE = """
import craft_align, numpy
x = numpy.arange(12.0).reshape(6, 2)
print(craft_align.__file__, craft_align.level(), float(craft_align.mmd(x, x + 1)), craft_align.kmeans(x, 2).distinct)
"""


@pytest.mark.skipif(not os.environ.get("CRAFT_PYTHON_BUILD"), reason="where to build is said by tests/python/run")
def test_editable(tmp_path):
    """`pip install -e .`: the sources are those of the checkout, what is built and generated lies elsewhere."""
    venv.create(tmp_path, with_pip=True)
    python = str(tmp_path / "bin/python")
    paths = sysconfig.get_paths(vars={"base": str(tmp_path), "platbase": str(tmp_path)})
    Path(paths["purelib"], "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # NumPy, and what builds
    settings = ["--config-settings=build-dir=" + os.environ["CRAFT_PYTHON_BUILD"] + "/wheel"]
    if flags := os.environ.get("CRAFT_PYTHON_FLAGS"):
        settings.append("--config-settings=cmake.define.CMAKE_CXX_FLAGS_RELEASE=" + flags)
    command = [python, "-m", "pip", "install", "--no-index", "--no-build-isolation", "--no-deps", *settings, "-e", "."]
    environment = dict(os.environ, PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    here = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, check=True).stdout.split()
    editable = subprocess.run([python, "-c", USE], capture_output=True, text=True, cwd=tmp_path)
    assert editable.returncode == 0, editable.stderr
    assert editable.stdout.split()[0] == str(ROOT / "python/craft_align/__init__.py")
    assert editable.stdout.split()[1:] == here[1:]
