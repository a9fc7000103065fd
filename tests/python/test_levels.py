"""The levels of x86-64 that the package has code for: which is chosen, how to choose one, that all compute the same."""

import functools
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import craft_align
import numpy as np
import pytest
from craft_align import _load

LEVELS = ["baseline", "x86-64-v3", "x86-64-v4"]

# Every verb and product of each library, at sizes that leave rests in registers of any width.
COMPUTE = """
import json
import numpy as np
import jax, torch
import craft_align
from craft_align import jax as cj, torch as ct

jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(3)
results = {"level": craft_align.level()}

def keep(name, value):
    results[name] = np.asarray(value, dtype=float).ravel().tolist()

for dtype in ("float64", "float32"):
    for n, m, d in ((37, 53, 19), (130, 70, 64)):
        x, y, a = (rng.normal(size=(rows, d)).astype(dtype) for rows in (n, m, 11))
        labels = rng.integers(0, 11, n)
        at = f"{dtype} {n}"
        for family in ("gaussian", "laplacian", "inverse_multiquadric", "rational_quadratic", "energy", "dot_product"):
            options = {} if family in ("energy", "dot_product") else {"bandwidths": (3.0, 5.0)}
            if family == "rational_quadratic":
                options["shape"] = 2.0
            value, g = craft_align.mmd(x, y, kernel=family, gradients=("x", "y"), **options)
            keep(f"mmd {family} {at}", value), keep(f"mmd {family} gradient {at}", g["x"])
        value, g = craft_align.anchor_cross_entropy(x, a, labels, log_scale=-1.0, gradients=("x", "anchors"))
        keep(f"anchors {at}", value), keep(f"anchors gradient {at}", g["anchors"])
        keep(f"relative {at}", craft_align.relative(x, a))
        t, u = torch.from_numpy(x).requires_grad_(), torch.from_numpy(x[::-1].copy())
        loss = ct.info_nce(t, u, log_scale=-1.0) + ct.sigmoid_contrastive(t, u, log_scale=-1.0)
        loss = loss + ct.mmd(t, torch.from_numpy(y), bandwidths=[3.0])
        loss.backward()
        keep(f"torch {at}", loss.detach()), keep(f"torch gradient {at}", t.grad)
        loss = lambda x: cj.info_nce(x, x[::-1], log_scale=-1.0) + cj.mmd(x, y, bandwidths=(3.0,))
        value, g = jax.jit(jax.value_and_grad(loss))(x)
        keep(f"jax {at}", value), keep(f"jax gradient {at}", g)
with open("/proc/self/maps") as maps:
    libraries = sorted({line.split("/")[-1].strip() for line in maps if "/craft_align/" in line and ".so" in line})
print(json.dumps([libraries, results]))
"""


def run(code, level=None):
    environment = {name: value for name, value in os.environ.items() if name != "CRAFT_ALIGN_LEVEL"}
    if level is not None:
        environment["CRAFT_ALIGN_LEVEL"] = level
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def compute(level):
    """The libraries that were loaded for it, and the results."""
    done = run(COMPUTE, level)
    assert done.returncode == 0, done.stderr
    libraries, results = json.loads(done.stdout)
    assert results.pop("level") == level
    return libraries, results


computed = functools.cache(compute)


def supported():
    """What the C library's loader says of this processor, best last."""
    said = subprocess.run(["/lib64/ld-linux-x86-64.so.2", "--help"], capture_output=True, text=True, check=True).stdout
    return ["baseline", *(level for level in LEVELS[1:] if f"{level} (supported" in said)]


x86_64_linux = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="levels are x86-64's, their tests for Linux"
)


@x86_64_linux
def test_all_levels_are_built():
    assert _load._built() == LEVELS, "or was it built with flags that name a processor?"


@x86_64_linux
def test_the_best_level_is_chosen():
    done = run("import craft_align; print(craft_align.level())")
    assert done.stdout.strip() == supported()[-1], done.stderr
    assert [level for level in LEVELS if _load._runs(level)] == supported()
    assert not _load._runs("x86-64-v5")


@x86_64_linux
def test_only_the_chosen_levels_libraries_are_loaded():
    for level in supported():
        libraries, _ = computed(level)
        middle = "" if level == "baseline" else "." + level
        core = os.path.basename(_load._find("_core" + middle))
        assert set(libraries) - {"libcraft_level.so"} == {core, *(f"libcraft_{part}{middle}.so" for part in ("align_torch", "jax"))}


@x86_64_linux
def test_levels_agree_up_to_rounding():
    _, expected = computed("baseline")
    for level in supported()[1:]:
        _, got = computed(level)
        assert got.keys() == expected.keys()
        differ = 0
        for name, values in expected.items():
            tolerance = 1e-12 if "float64" in name else 2e-5
            scale = np.max(np.abs(values))
            assert scale > 0
            np.testing.assert_allclose(got[name], values, rtol=0, atol=tolerance * scale, err_msg=f"{level}: {name}")
            differ += got[name] != values
        assert differ, f"{level}: the same bits as baseline, so it is no code of its own"
        assert compute(level) == computed(level), f"{level}: not the same bits on every run"


def test_what_is_no_level_is_an_error():
    for level in ("x86-64-v9", "native", "v3", "BASELINE"):
        done = run("import craft_align", level)
        assert done.returncode == 1
        built = ", ".join(_load._built())
        assert f"ValueError: CRAFT_ALIGN_LEVEL: this build has {built}, got '{level}'" in done.stderr


def test_a_level_that_the_processor_does_not_run_is_an_error():
    def runs(level):
        return level != "x86-64-v4"

    with pytest.raises(RuntimeError, match="^CRAFT_ALIGN_LEVEL: this processor does not run x86-64-v4$"):
        _load._choose("x86-64-v4", LEVELS, runs)
    assert _load._choose(None, LEVELS, runs) == "x86-64-v3"
    assert _load._choose("", LEVELS, runs) == "x86-64-v3"
    assert _load._choose("baseline", LEVELS, runs) == "baseline"


@x86_64_linux
def test_levels_of_this_processor_that_it_does_not_run():
    for level in set(LEVELS) - set(supported()):
        done = run("import craft_align", level)
        assert f"RuntimeError: CRAFT_ALIGN_LEVEL: this processor does not run {level}" in done.stderr


def test_a_build_without_levels_has_one():
    assert _load._choose(None, ["baseline"], _load._runs) == "baseline"
    with pytest.raises(ValueError, match="this build has baseline, got 'x86-64-v3'"):
        _load._choose("x86-64-v3", ["baseline"], _load._runs)
    assert craft_align.level() in LEVELS


def test_the_reference_page_is_current():
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(root / "python/generate.py"), _load.core.__file__, "--reference"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (root / "docs/python.md").read_text(), "python python/generate.py CORE --reference > docs/python.md"
