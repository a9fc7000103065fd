"""What a call from Python costs over the bare C++ verb, for a batch of 16 x 32 against 16 x 32 in float32 with the
gradients of both sides: microseconds, the best of many short series, on one thread.

    OMP_NUM_THREADS=1 python bench/python_overhead.py

Needs craft_align, a C++ compiler and Eigen; rows of libraries that are not installed are left out.
"""

import ctypes
import importlib.util
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
project = Path(__file__).resolve().parents[1]
N, WIDTH = 16, 32

BARE = """
#include <chrono>
#include "craft/alignment.hpp"
#include "craft/mmd.hpp"

template <class F>
double best(const F& f) {
  double least = 1e9;
  for (int series = 0; series < 200; ++series) {
    const auto start = std::chrono::steady_clock::now();
    for (int k = 0; k < 100; ++k) f();
    const std::chrono::duration<double, std::micro> t = std::chrono::steady_clock::now() - start;
    least = std::min(least, t.count() / 100);
  }
  return least;
}
extern "C" void bare(const float* x, const float* y, craft::index_t n, craft::index_t d, double* times) {
  const craft::cpu ctx(1);
  const craft::matrix_view<const float> xv(x, n, d), yv(y, n, d);
  std::vector<float> dx(n * d), dy(n * d);
  const auto to_x = craft::overwrite(craft::view(dx.data(), n, d)), to_y = craft::overwrite(craft::view(dy.data(), n, d));
  float value;
  craft::mmd_gradients<float> g{to_x, to_y, {}, {}};
  craft::alignment_gradients<float> h{to_x, to_y, {}, {}};
  times[0] = best([&] { craft::mmd(ctx, xv, yv, craft::gaussians<>({1.0}), craft::mmd_options{}, value, g); });
  times[1] = best([&] { craft::info_nce(ctx, xv, yv, craft::contrastive_options{}, value, h); });
}
"""


def bare(x, y):
    """mmd and info_nce called in C++."""
    compiler = os.environ.get("CXX") or sysconfig.get_config_var("CXX").split()[0]
    found = subprocess.run(["pkg-config", "--variable=includedir", "eigen3"], capture_output=True, text=True)
    eigen = os.path.join(found.stdout.strip() or "/usr/include", "eigen3")
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "bare.cpp", Path(folder) / "bare.so"
        source.write_text(BARE)
        flags = ["-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-shared", "-w", f"-I{project / 'include'}", f"-I{eigen}"]
        subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
        times = (ctypes.c_double * 2)()
        pointer = lambda a: ctypes.c_void_p(a.__array_interface__["data"][0])
        ctypes.CDLL(str(library)).bare(pointer(x), pointer(y), ctypes.c_int64(N), ctypes.c_int64(WIDTH), times)
        return {"mmd": times[0], "info_nce": times[1]}


def best(call):
    """Microseconds of one call."""
    least = float("inf")
    for _ in range(100):
        start = time.perf_counter()
        for _ in range(50):
            call()
        least = min(least, (time.perf_counter() - start) / 50 * 1e6)
    return least


def arrays(x, y):
    """craft_align's functions on arrays of each library; "Array": x was converted before."""
    import craft_align

    pairs = {"NumPy": (x, y), "NumPy, Array": (craft_align.as_array(x), craft_align.as_array(y))}
    if importlib.util.find_spec("torch"):
        import torch

        pairs["PyTorch"] = torch.tensor(x), torch.tensor(y)
    if importlib.util.find_spec("jax"):
        import jax.numpy

        pairs["JAX"] = jax.numpy.asarray(x), jax.numpy.asarray(y)
    for name, (a, b) in pairs.items():
        yield f"craft_align, {name}", {
            "mmd": best(lambda: craft_align.mmd(a, b, gradients=("x", "y"))),
            "info_nce": best(lambda: craft_align.info_nce(a, b, gradients=("x", "y"))),
        }


def jax(x, y):
    """craft_align.jax, compiled, until the gradient is there; beside a compiled function that does nothing."""
    if not importlib.util.find_spec("jax"):
        return
    import jax

    import craft_align.jax as craft

    a, b = jax.numpy.asarray(x), jax.numpy.asarray(y)
    nothing = jax.jit(lambda x, y: (x[0, 0], (x + 1, y + 1)))
    yield "JAX, jit of nothing", dict.fromkeys(("mmd", "info_nce"), best(lambda: jax.block_until_ready(nothing(a, b))))
    yield "craft_align.jax, jit", {
        name: best(lambda f=jax.jit(jax.value_and_grad(getattr(craft, name), (0, 1))): jax.block_until_ready(f(a, b)))
        for name in ("mmd", "info_nce")
    }


def main():
    import numpy

    rng = numpy.random.default_rng(0)
    x, y = (rng.normal(size=(N, WIDTH)).astype("float32") for _ in range(2))
    floor = bare(x, y)
    print(f"{'':28}" + "".join(f"{name:>10}{'over':>8}" for name in floor))
    print(f"{'C++':28}" + "".join(f"{t:10.1f}{'':8}" for t in floor.values()))
    for rows in (arrays, jax):
        for name, times in rows(x, y):
            print(f"{name:28}" + "".join(f"{t:10.1f}{t - floor[verb]:8.1f}" for verb, t in times.items()))


if __name__ == "__main__":
    sys.exit(main())
