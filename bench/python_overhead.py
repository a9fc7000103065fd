"""What a call from Python costs over the bare verb: n = m = 16, d = 32, float32, one thread.

    python bench/python_overhead.py build/bench/bench/craft_bench_bare

in an environment where craft_align is installed (tests/python/run --prepare makes one). The program named is a target of
bench/CMakeLists.txt; it and the calls from Python are timed in turn, 31 times. Printed in microseconds: the least and the median of the
calls, and the least minus the least of the bare verb. Hosts that are not installed are left out.
"""

import importlib.util
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def torch_cases():
    """(name, the bare verb it is compared with, call)."""
    import torch
    import craft_align as craft

    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(16, 32), torch.randn(16, 32)
    learnt = x.clone().requires_grad_()
    module = craft.MMDLoss(bandwidths=[4.0])

    def step(loss):
        def call():
            learnt.grad = None
            loss().backward()

        return call

    yield "torch.ops.craft.mmd, value", "mmd", lambda: torch.ops.craft.mmd(x, y, bandwidths=[4.0])
    yield "torch: mmd, value", "mmd", lambda: craft.mmd(x, y, bandwidths=[4.0])
    yield "torch: mmd, forward", "mmd_gradient", lambda: craft.mmd(learnt, y, bandwidths=[4.0])
    yield "torch: MMDLoss, forward", "mmd_gradient", lambda: module(learnt, y)
    yield "torch: mmd, forward and backward", "mmd_gradient", step(lambda: craft.mmd(learnt, y, bandwidths=[4.0]))
    yield "torch: info_nce, value", "info_nce", lambda: craft.info_nce(x, y)
    yield "torch: info_nce, forward", "info_nce_gradient", lambda: craft.info_nce(learnt, y)
    yield "torch: info_nce, forward and backward", "info_nce_gradient", step(lambda: craft.info_nce(learnt, y))
    yield "PyTorch's own mse_loss, forward", None, lambda: torch.nn.functional.mse_loss(learnt, y)
    yield "PyTorch's own mse_loss, both", None, step(lambda: torch.nn.functional.mse_loss(learnt, y))


def arrays_cases():
    """craft_align's functions on the arrays of each library, with gradients by name."""
    import craft_align
    import numpy

    rng = numpy.random.default_rng(0)
    x, y = (rng.normal(size=(16, 32)).astype("float32") for _ in range(2))
    pairs = {"NumPy": (x, y)}
    if importlib.util.find_spec("torch"):
        import torch

        pairs["PyTorch"] = torch.tensor(x), torch.tensor(y)
    if importlib.util.find_spec("jax"):
        import jax.numpy

        pairs["JAX"] = jax.numpy.asarray(x), jax.numpy.asarray(y)
    for name, (a, b) in pairs.items():
        for verb in ("mmd", "info_nce"):
            call = getattr(craft_align, verb)
            yield (
                f"arrays: {verb}, both gradients, {name}",
                f"{verb}_gradients",
                lambda call=call, a=a, b=b: call(a, b, gradients=("x", "y")),
            )


def jax_cases():
    """Compiled, until the gradients are there; beside a compiled function that does nothing."""
    import craft_align as craft
    import jax
    import numpy

    rng = numpy.random.default_rng(0)
    x, y = (jax.numpy.asarray(rng.normal(size=(16, 32)).astype("float32")) for _ in range(2))
    nothing = jax.jit(lambda x, y: (x[0, 0], (x + 1, y + 1)))
    yield "jax: jit of nothing", None, lambda: jax.block_until_ready(nothing(x, y))
    for verb in ("mmd", "info_nce"):
        step = jax.jit(jax.value_and_grad(getattr(craft, verb), (0, 1)))
        yield f"jax: {verb}, value_and_grad", f"{verb}_gradients", lambda f=step: jax.block_until_ready(f(x, y))


HOSTS = [torch_cases, arrays_cases, jax_cases]


def microseconds(call, calls=20, blocks=20):
    """Per call, in the least of some short blocks: what a busy machine disturbs least."""
    took = []
    for _ in range(blocks):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        took.append(time.perf_counter() - start)
    return min(took) / calls * 1e6


def bare(program):
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split("\n")
    return {name: float(value) for name, value in (line.split() for line in lines if line)}


def main(program, rounds=31):
    cases = []
    for host in HOSTS:
        try:
            cases += list(host())
        except ImportError as error:
            print(f"left out: {error}", file=sys.stderr)
    for _, _, call in cases:
        microseconds(call)
    took = {name: [] for name, _, _ in cases}
    verbs = {}
    for _ in range(rounds):
        for verb, least in bare(program).items():
            verbs[verb] = min(least, verbs.get(verb, least))
        for name, _, call in cases:
            took[name].append(microseconds(call))
    print("| call | least | median | over the bare verb |\n|---|---|---|---|")
    for name, verb, _ in cases:
        over = f"{min(took[name]) - verbs[verb]:.1f}" if verb else ""
        print(f"| {name} | {min(took[name]):.1f} | {statistics.median(took[name]):.1f} | {over} |")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(sys.argv[1])
