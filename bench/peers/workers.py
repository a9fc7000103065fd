"""One contestant in a process of its own: how each of them does each piece of work, and how a call is measured.

peers.py starts this file with a job (JSON) and writes commands to its standard input, one per line:

    prepare     imports, a small call of the same work, then the inputs themselves
    first       one call with its memory: {"seconds": ..., "bytes": ...}
    time        one call: {"seconds": ...}
    save PATH   the results of the last call, as arrays

Every contestant is a function of the case (a dict of sizes and parameters) and its data (float32 arrays) that returns
the call to be timed; that call returns its results by name. Gradients are part of the work wherever there are any.
Names of results are the same for all: value, d_x, d_y, d_log_scale; inertia, iterations; rows.

Plain names are what a competent user writes and gets; "-tuned" is the fastest we could make of it, by the formula or
by the environment (see environment() and KEEP_MEMORY below).
"""

import ctypes
import functools
import gc
import json
import os
import sys
import time
import traceback

import numpy as np

JOB = {}

# ---- craft ----


class Craft:
    """craft_calls.cpp, loaded. One context for all calls of the process, as in a trainer."""

    def __init__(self, real):
        self.real = real
        self.library = ctypes.CDLL(os.path.join(JOB["libraries"], f"libcraft_calls_{real}.so"))
        self.library.craft_calls_error.restype = ctypes.c_char_p
        self.library.craft_calls_build.restype = ctypes.c_char_p
        self.library.craft_calls_open.restype = ctypes.c_void_p
        self.context = ctypes.c_void_p(self.library.craft_calls_open(JOB["threads"]))

    def call(self, verb, *arguments):
        kinds = {int: ctypes.c_int64, float: ctypes.c_double}
        passed = [
            ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else kinds[type(a)](a) for a in arguments
        ]
        if getattr(self.library, "craft_calls_" + verb)(self.context, *passed):
            raise RuntimeError(self.library.craft_calls_error().decode())

    def build(self):
        return self.library.craft_calls_build().decode()


@functools.cache
def craft():
    return Craft("double" if JOB["contestant"] == "craft-double" else "float")


# The memory for results is taken in the first call, which is the one whose memory is measured, and used again in all
# others, as a trainer does with its own.


def craft_mmd(case, data):
    lib, x, y, results = craft(), data["x"], data["y"], {}
    sigmas = np.array(case["sigmas"], dtype=np.float64)

    def run():
        if not results:
            results.update(value=np.empty(1, x.dtype), d_x=np.empty_like(x), d_y=np.empty_like(y))
        lib.call("mmd", x, len(x), y, len(y), x.shape[1], sigmas, len(sigmas), case["factor"], *results.values())
        return results

    return run


def craft_info_nce(case, data):
    lib, x, y, results = craft(), data["x"], data["y"], {}

    def run():
        if not results:
            results.update(value=np.empty(1, x.dtype), d_x=np.empty_like(x), d_y=np.empty_like(y),
                           d_log_scale=np.empty(1, x.dtype))
        lib.call("info_nce", x, y, len(x), x.shape[1], case["log_scale"], *results.values())
        return results

    return run


def craft_kmeans(case, data):
    lib, x, start, results = craft(), data["x"], data["start"], {}

    def run():
        if not results:
            results.update(centres=np.empty((len(start), x.shape[1]), x.dtype), labels=np.empty(len(x), np.int64),
                           inertia=np.empty(1), iterations=np.empty(1, np.int64))
        lib.call("kmeans", x, *x.shape, start, len(start), case["iterations"], *results.values())
        return results

    return run


def craft_farthest(case, data):
    lib, x, results = craft(), data["x"], {}

    def run():
        if not results:
            results.update(rows=np.empty(case["count"], np.int64))
        lib.call("farthest", x, *x.shape, case["count"], case["start"], results["rows"])
        return results

    return run


# ---- torch ----


def leaves(data):
    """x and y as tensors over the same memory, whose gradients are wanted."""
    import torch

    return [torch.from_numpy(data[name]).requires_grad_() for name in ("x", "y")]


def backward(loss, **parameters):
    """Value and gradients; old gradients are given up first, as optimisers' zero_grad does."""
    for tensor in parameters.values():
        tensor.grad = None
    value = loss()
    value.backward()
    return {"value": value.detach(), **{"d_" + name: tensor.grad for name, tensor in parameters.items()}}


def squared_distances(a, b):
    """From one matrix product, in one matrix; rounding must not make them negative."""
    import torch

    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp(min=0)


def mmd_loss(x, y, gammas, factor):
    """Three blocks; what a user of autograd writes who knows of the product."""
    import torch

    def mean_kernel(a, b):
        distances = squared_distances(a, b)
        return sum(torch.exp(-gamma * distances) for gamma in gammas).mean()

    return factor * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))


def twice_by_one_side(mean_kernel, a):
    """mean_kernel(a, a) for a symmetric kernel: its gradient by the second argument is that by the first, so only one
    of the two is computed, and counted twice."""
    half = mean_kernel(a, a.detach())
    return 2 * half - half.detach()


def tuned_mmd_loss(x, y, gammas, factor):
    """The best that we found within autograd: one exponential, since every gamma is twice the one before it, and half
    of the gradients within a sample."""
    import torch

    def mean_kernel(a, b):
        kernel = total = torch.exp(-gammas[0] * squared_distances(a, b))
        for _ in gammas[1:]:
            kernel = kernel * kernel
            total = total + kernel
        return total.mean()

    within = twice_by_one_side(mean_kernel, x) + twice_by_one_side(mean_kernel, y)
    return factor * (within - 2 * mean_kernel(x, y))


def info_nce_loss(x, y, log_scale):
    """As in open_clip's ClipLoss, on features that still have to be normalised; the second logits are the first's
    transpose, which saves a product."""
    import torch
    import torch.nn.functional as F

    logits = log_scale.exp() * F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T
    labels = torch.arange(len(x), device=x.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@functools.cache
def compiled(loss):
    import torch

    return torch.compile(loss, dynamic=False)  # for these shapes: the fastest it can do


def gammas_of(case):
    return tuple(1 / (2 * sigma * sigma) for sigma in case["sigmas"])


def torch_mmd(case, data, loss=mmd_loss):
    x, y = leaves(data)
    gammas = gammas_of(case)
    return lambda: backward(lambda: loss(x, y, gammas, case["factor"]), x=x, y=y)


def torch_info_nce(case, data, loss=info_nce_loss):
    import torch

    x, y = leaves(data)
    log_scale = torch.tensor(case["log_scale"], requires_grad=True)
    return lambda: backward(lambda: loss(x, y, log_scale), x=x, y=y, log_scale=log_scale)


def torch_tuned_mmd(case, data):
    return torch_mmd(case, data, tuned_mmd_loss)


def torch_compile_mmd(case, data):
    return torch_mmd(case, data, compiled(mmd_loss))


def torch_compile_tuned_mmd(case, data):
    return torch_mmd(case, data, compiled(tuned_mmd_loss))


def torch_compile_info_nce(case, data):
    return torch_info_nce(case, data, compiled(info_nce_loss))


def farthest(x, case, distances_to):
    import torch

    nearest = torch.full((len(x),), float("inf"))
    rows = [case["start"]]
    while len(rows) < case["count"]:
        nearest = torch.minimum(nearest, distances_to(rows[-1]))
        rows.append(int(nearest.argmax()))
    return {"rows": np.array(rows)}


def torch_farthest(case, data):
    """Distances as written in the definition."""
    import torch

    x = torch.from_numpy(data["x"])
    return lambda: farthest(x, case, lambda row: (x - x[row]).square().sum(1))


def torch_tuned_farthest(case, data):
    """Distances from norms and a product of matrix and vector: one read of x per step, at the price of rounding."""
    import torch

    x = torch.from_numpy(data["x"])

    def run():
        squares = torch.einsum("ij,ij->i", x, x)  # without a second matrix
        return farthest(x, case, lambda row: squares + squares[row] - 2 * (x @ x[row]))

    return run


# ---- KeOps ----


def keops_mmd_loss(x, y, gammas, factor):
    """Symbolic matrices, reduced without being stored. The gammas are a vector, so that KeOps writes every distance
    once; for a sum of five exponentials it writes it five times, which for large d nobody cleans up."""
    import torch
    from pykeops.torch import LazyTensor

    gammas = torch.tensor(gammas, device=x.device)

    def mean_kernel(a, b):
        distances = ((LazyTensor(a[:, None, :]) - LazyTensor(b[None, :, :])) ** 2).sum(-1)
        kernel = (LazyTensor(-gammas[None, None, :]) * distances).exp().sum(-1)
        return kernel.sum(1).sum() / (len(a) * len(b))

    within = twice_by_one_side(mean_kernel, x) + twice_by_one_side(mean_kernel, y)
    return factor * (within - 2 * mean_kernel(x, y))


def keops_mmd(case, data):
    return torch_mmd(case, data, keops_mmd_loss)


# ---- geomloss ----


def geomloss_mmd(case, data, backend):
    from geomloss import SamplesLoss

    x, y = leaves(data)
    (sigma,) = case["sigmas"]
    loss = SamplesLoss("gaussian", blur=sigma, backend=backend)  # half the biased MMD^2, which is the case's factor
    return lambda: backward(lambda: loss(x, y), x=x, y=y)


def geomloss_tensorized_mmd(case, data):
    return geomloss_mmd(case, data, "tensorized")


def geomloss_online_mmd(case, data):
    return geomloss_mmd(case, data, "online")


# ---- scikit-learn ----


def sklearn_kmeans(case, data):
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    threadpool_limits(JOB["threads"])  # of its products and its loops, from here on
    x, start = data["x"], data["start"]

    def run():
        model = KMeans(len(start), init=x[start], n_init=1, algorithm="lloyd", tol=0, max_iter=case["iterations"])
        model.fit(x)
        return {"centres": model.cluster_centers_, "labels": model.labels_, "inertia": model.inertia_,
                "iterations": model.n_iter_}

    return run


# ---- who can do what ----

CONTESTANTS = {
    "mmd": {
        "craft": craft_mmd,
        "torch": torch_mmd,
        "torch-tuned": torch_tuned_mmd,
        "torch.compile": torch_compile_mmd,
        "torch.compile-tuned": torch_compile_tuned_mmd,
        "keops": keops_mmd,
        "keops-tuned": keops_mmd,
    },
    "half_mmd": {
        "craft": craft_mmd,
        "geomloss-tensorized": geomloss_tensorized_mmd,
        "geomloss-tensorized-tuned": geomloss_tensorized_mmd,
        "geomloss-online": geomloss_online_mmd,
        "geomloss-online-tuned": geomloss_online_mmd,
    },
    "info_nce": {
        "craft": craft_info_nce,
        "torch": torch_info_nce,
        "torch-tuned": torch_info_nce,
        "torch.compile": torch_compile_info_nce,
        "torch.compile-tuned": torch_compile_info_nce,
    },
    "kmeans": {
        "craft": craft_kmeans,
        "scikit-learn": sklearn_kmeans,
        "scikit-learn-tuned": sklearn_kmeans,
    },
    "farthest": {
        "craft": craft_farthest,
        "torch": torch_farthest,
        "torch-tuned": torch_tuned_farthest,
    },
}


def packages(contestant):
    """Python packages without which a contestant stays away."""
    return {
        "craft": [],
        "torch": ["torch"],
        "torch.compile": ["torch"],
        "keops": ["torch", "pykeops"],
        "geomloss-tensorized": ["torch", "geomloss"],
        "geomloss-online": ["torch", "geomloss", "pykeops"],
        "scikit-learn": ["sklearn", "threadpoolctl"],
    }[contestant.removesuffix("-double").removesuffix("-tuned")]


# ---- the environment of those that are tuned ----

# By default the C library gives matrices of many MB back to the system when they are freed, and most of eager torch's
# time can go into getting them again, page by page. These are timed with a C library that keeps them. That costs
# memory, so memory is still measured without, and both numbers are the best these contestants have. craft needs no
# such thing: it keeps its scratch memory.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000000"}
TIMED_WITH_KEPT_MEMORY = ["torch-tuned", "torch.compile-tuned", "geomloss-tensorized-tuned"]


def environment(contestant, libraries):
    """Variables of a contestant's process that make it faster and do nothing else; none for those not tuned."""
    if contestant in TIMED_WITH_KEPT_MEMORY:
        return {"LD_PRELOAD": os.path.join(libraries, "libmkl_as_on_intel.so")}  # see there
    if contestant in ("keops-tuned", "geomloss-online-tuned"):
        return {"CXXFLAGS": "-march=native -ffast-math"}  # added to KeOps' own -O3
    if contestant == "scikit-learn-tuned":
        # OpenBLAS takes its kernels by the processor's model, and AVX2's for models that it does not know yet.
        with open("/proc/cpuinfo") as processor:
            return {"OPENBLAS_CORETYPE": "SkylakeX"} if " avx512bw " in processor.read() else {}
    return {}


# ---- measuring ----


def own_memory(field):
    """VmRSS (resident now) or VmHWM (the most so far) of this process in bytes."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def with_memory(run):
    """Calls run() and returns its results, its seconds, and the most memory resident during the call beyond what was
    resident before it, None where the system does not say.

    What is fair here: libraries are loaded, threads and pools exist and code is compiled, because a small call of the
    same work came before; the inputs are there; what earlier calls have freed has gone back to the system, so that
    nobody computes in pages that were counted before. Everything else counts, for everybody: intermediate matrices,
    copies of the inputs, scratch memory that a library keeps, and the results."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        before = own_memory("VmRSS")
        with open("/proc/self/clear_refs", "w") as reset:
            reset.write("5")  # the most so far := what is resident now
    except (OSError, AttributeError):
        before = None
    results, seconds = timed(run)
    return results, seconds, None if before is None else own_memory("VmHWM") - before


def timed(run):
    start = time.perf_counter()
    results = run()
    return results, time.perf_counter() - start


def load(files):
    data = {name: np.load(path) for name, path in files.items()}
    if JOB["contestant"] == "craft-double":
        data = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in data.items()}
    return data


def as_array(result):
    return result.numpy() if hasattr(result, "numpy") else np.asarray(result)


class Contestant:
    def __init__(self):
        name = JOB["contestant"]
        self.setup = CONTESTANTS[JOB["kind"]]["craft" if name == "craft-double" else name]
        # A compiler that makes code for one shape has to see that shape before it can be measured.
        self.small = "full" if name.startswith("torch.compile") else "small"
        self.run = self.results = None

    def prepare(self):
        if "torch" in packages(JOB["contestant"]):
            import torch

            torch.set_num_threads(JOB["threads"])
        self.setup(JOB[self.small]["case"], load(JOB[self.small]["files"]))()
        self.run = self.setup(JOB["full"]["case"], load(JOB["full"]["files"]))
        return {"build": self.build()}

    @staticmethod
    def build():
        """What this contestant computes with."""
        if JOB["contestant"].startswith("craft"):
            return craft().build()
        if "torch" in sys.modules:
            torch = sys.modules["torch"]
            products = "MKL" if torch.backends.mkl.is_available() else "no MKL"
            return f"{products}, {torch.backends.cpu.get_cpu_capability()}"
        from threadpoolctl import threadpool_info

        return ", ".join(sorted({f"{p['internal_api']} {p['version']} {p.get('architecture', '')}".strip()
                                 for p in threadpool_info()}))

    def first(self):
        self.results, seconds, used = with_memory(self.run)
        return {"seconds": seconds, "bytes": used}

    def time(self):
        gc.collect()
        self.results, seconds = timed(self.run)
        return {"seconds": seconds}

    def save(self, path):
        np.savez(path, **{name: as_array(result) for name, result in self.results.items()})
        return {}


def main():
    JOB.update(json.loads(sys.argv[1]))
    # Answers have a channel of their own, because libraries talk on standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    contestant = Contestant()
    for line in sys.stdin:
        command, *arguments = line.split(maxsplit=1)
        try:
            reply = getattr(contestant, command)(*(a.rstrip("\n") for a in arguments))
        except Exception as problem:
            traceback.print_exc()
            reply = {"error": f"{type(problem).__name__}: {str(problem).strip().partition(chr(10))[0]}"}
        answers.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
