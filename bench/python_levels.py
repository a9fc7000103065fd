"""What the levels of x86-64 that craft_align has code for are worth: losses of PyTorch tensors, forward and backward.

    python bench/python_levels.py [case ...]

in an environment where craft_align is installed (tests/python/run --prepare makes one). Each level has a process of its
own; they take turns, 15 times per case. Printed: medians of processor time in milliseconds, and how many times as fast
as baseline. float32, one thread.
"""

import os
import statistics
import subprocess
import sys
import time

LEVELS = ("baseline", "x86-64-v3", "x86-64-v4")
CASES = [f"{loss} {n} {d}" for loss in ("mmd", "info_nce", "anchors") for n in (256, 2048) for d in (64, 512)]


def work():
    """Times one call per line of the input, of the case named there."""
    import torch
    from craft_align import torch as craft

    torch.set_num_threads(1)
    torch.manual_seed(0)

    def made(case):
        loss, n, d = case.split()
        x, y = (torch.randn(int(n), int(d)).requires_grad_() for _ in range(2))
        a, labels = torch.randn(100, int(d)).requires_grad_(), torch.randint(100, (int(n),))
        sigma = float(d) ** 0.5
        call = {
            "mmd": lambda: craft.mmd(x, y, bandwidths=[0.5 * sigma, sigma, 2 * sigma]),
            "info_nce": lambda: craft.info_nce(x, y),
            "anchors": lambda: craft.anchor_cross_entropy(x, a, labels),
        }[loss]
        return lambda: call().backward()

    calls = {}
    for line in sys.stdin:
        case = line.strip()
        if case not in calls:
            calls[case] = made(case)
            calls[case]()
        start = time.process_time()
        calls[case]()
        print(time.process_time() - start, flush=True)


def main(cases):
    import craft_align._load as load

    workers = {}
    for level in LEVELS:
        if level in load._built() and load._runs(level):
            environment = dict(os.environ, CRAFT_ALIGN_LEVEL=level, OMP_NUM_THREADS="1")
            command = [sys.executable, __file__, "--work"]
            pipe = subprocess.PIPE
            workers[level] = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1)
    others = list(workers)[1:]
    print("| case |" + "".join(f" {level}, ms |" for level in workers) + "".join(f" {level} |" for level in others))
    for case in cases:
        times = {level: [] for level in workers}
        for _ in range(15):
            for level, worker in workers.items():
                worker.stdin.write(case + "\n")
                times[level].append(float(worker.stdout.readline()) * 1e3)
        median = {level: statistics.median(t) for level, t in times.items()}
        ratios = [median["baseline"] / median[level] for level in others]
        cells = [*(f"{t:.3g}" for t in median.values()), *(f"{r:.2f}" for r in ratios)]
        print(f"| {case} | {' | '.join(cells)} |", flush=True)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["--work"]:
        work()
    else:
        main(sys.argv[1:] or CASES)
