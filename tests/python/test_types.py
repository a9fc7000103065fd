"""The types that the package states, as strict type checkers read them."""

import subprocess
import sys
from pathlib import Path

import craft_align
import pytest

USE = str(Path(__file__).with_name("typed_use.py"))


def check(*command):
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=Path(USE).parent)
    return done.returncode, done.stdout + done.stderr


def test_users_of_mypy():
    code, text = check("mypy", "--strict", "--no-incremental", USE)
    assert code == 0, text


def test_the_package_itself():
    code, text = check("mypy", "--strict", "--no-incremental", "-p", "craft_align")
    assert code == 0, text


def test_users_of_pyright():
    code, text = check("pyright", "--pythonpath", sys.executable, USE)
    if "summary" not in text and "errors" not in text:
        pytest.skip("pyright fetches itself when it first runs, and could not: " + text[-200:])
    assert code == 0, text


def test_every_name_is_exported():
    for module in (craft_align, craft_align.torch, craft_align.jax):
        for name in ("mmd", "info_nce", "kmeans", "random_anchors", "two_sample_test", "cosine_embedding"):
            assert getattr(module, name) is getattr(craft_align, name)
