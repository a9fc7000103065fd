"""What a call from Python costs over the bare verb: n = m = 16, d = 32, float32, one thread.

    python bench/python_overhead.py build/bench/bench/craft_bench_bare

in an environment where craft_align is installed (tests/python/run --prepare makes one). The program named is a target of
bench/CMakeLists.txt; it and the calls from Python are timed in turn, 31 times. Printed in microseconds: the least and the median of the
calls, and the least minus the least of the bare verb. Hosts that are not installed are left out.
"""

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
    from craft_align import torch as craft

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


HOSTS = [torch_cases]


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
