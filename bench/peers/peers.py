"""craft against the libraries that people use for the same work: same inputs, same threads, one alternating run.

bench/peers/run builds what is needed and starts this; bench/peers/run --help lists the options. workers.py shows how
each contestant does each piece of work.

For every case and peer:
  1. Both are compared with craft's result in double precision for the same inputs. Unless both are within the
     tolerance the row says "disagrees", there is no ratio, and the exit status is 1.
  2. Memory is taken from the first call of a fresh process (workers.py says what counts).
  3. craft and the peer take turns, one call each, so that both see the same weather on the machine. Every pair gives
     a ratio; what is printed is their median, with the smallest and the largest.
Every contestant is a process of its own, so that neither OpenMP runtimes nor memory mix; one computes at a time.
"""

import argparse
import datetime
import gzip
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
import select
import signal
import statistics
import subprocess
import sys
import tempfile

import numpy as np

sys.dont_write_bytecode = True  # sources are not the place for what is built
import workers

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "bench"
FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")  # dataset-fashion-mnist
PACKAGES = ["numpy", "torch", "pykeops", "geomloss", "scikit-learn", "scipy", "threadpoolctl"]

# Largest errors that still count as the same result, relative to craft in double: values and inertia by their own
# size, gradients entry by entry by the largest entry.
#
# mmd: all go by float distances of about 2 d, taken from dot products of rows of squared norm about d: each is wrong by
#   a few 2^-24 of itself, and the narrowest Gaussian multiplies that by 4. Gradients are means of such terms, of which
#   the parts within and across cancel to a tenth or less, and so does the value, a difference of three means. That
#   makes a few 1e-6; and the order of sums of thousands of terms is everybody's own.
# info_nce: the same for logits up to 14, and no such cancellation.
# kmeans: rows between two centres go either way by rounding, and later rounds carry that on; the inertia hardly moves.
# farthest: the same rows, in the same order.
TOLERANCES = {
    "mmd": {"value": 1e-5, "gradient": 5e-5},
    "half_mmd": {"value": 1e-5, "gradient": 5e-5},
    "info_nce": {"value": 1e-5, "gradient": 2e-5},
    "kmeans": {"inertia": 1e-4, "iterations": 0},
    "farthest": {"rows": 0},
}

# ---- cases and their inputs ----


def series(d):
    """Five bandwidths whose inverse variances double: pairs at a typical distance have kernel values of 0.02 to 0.8."""
    return [math.sqrt(d * 2.0**power) for power in (2, 1, 0, -1, -2)]


def all_cases(quick):
    cases = []
    for n, d in [(256, 64)] if quick else [(4096, 512), (4096, 64), (4096, 16), (1024, 512), (1024, 64)]:
        cases.append({"name": f"mmd/{n}x{d}", "kind": "mmd", "n": n, "d": d, "sigmas": series(d), "factor": 1.0,
                      "text": f"MMD^2 and both gradients, biased, sum of 5 Gaussians, n = m = {n}, d = {d}"})
    for n, d in [(256, 16)] if quick else [(4096, 512), (4096, 16), (1024, 64)]:
        cases.append({"name": f"half_mmd/{n}x{d}", "kind": "half_mmd", "n": n, "d": d, "sigmas": [math.sqrt(d)],
                      "factor": 0.5,
                      "text": f"half MMD^2 and both gradients, biased, 1 Gaussian, n = m = {n}, d = {d}"})
    for n, d in [(256, 64)] if quick else [(8192, 512), (1024, 512)]:
        cases.append({"name": f"info_nce/{n}x{d}", "kind": "info_nce", "n": n, "d": d, "log_scale": math.log(1 / 0.07),
                      "text": f"symmetric InfoNCE and gradients to x, y and log scale, n = {n}, d = {d}"})
    n, d, k, iterations = (2000, 64, 16, 5) if quick else (60000, 784, 256, 10)
    images = not quick and FASHION_MNIST.exists()
    cases.append({"name": f"kmeans/{n}x{d}", "kind": "kmeans", "n": n, "d": d, "k": k, "iterations": iterations,
                  "images": images,
                  "text": f"k-means, {iterations} rounds of Lloyd from the same {k} rows, n = {n}, d = {d}, "
                          f"{'Fashion-MNIST' if images else 'synthetic'}"})
    n, d, count = (2000, 32, 32) if quick else (20000, 512, 256)
    cases.append({"name": f"farthest/{n}x{d}", "kind": "farthest", "n": n, "d": d, "count": count, "start": 0,
                  "text": f"farthest point sampling, {count} rows, n = {n}, d = {d}"})
    return cases


def small(case):
    """Hardly any of the same work: it loads libraries and compiles kernels, which are made for one d."""
    few = {"mmd": {"n": 128}, "half_mmd": {"n": 128}, "info_nce": {"n": 128},
           "kmeans": {"n": 300, "k": 8, "iterations": 2, "images": False}, "farthest": {"n": 300, "count": 8}}
    return {**case, **few[case["kind"]]}


def inputs(case):
    random = np.random.default_rng(1)
    n, d, kind = case["n"], case["d"], case["kind"]

    def normal(*shape):
        return random.standard_normal(shape, dtype=np.float32)

    if kind in ("mmd", "half_mmd"):
        shift = np.zeros(d, np.float32)
        shift[::2] = 1
        return {"x": normal(n, d), "y": normal(n, d) + shift}
    if kind == "info_nce":
        x = normal(n, d)
        return {"x": x, "y": x + 2 * normal(n, d)}
    if kind == "kmeans":
        if case["images"]:
            with gzip.open(FASHION_MNIST) as file:
                x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(n, d) / np.float32(255)
        else:
            # Clusters in a space of 8 dimensions that overlap, so that the iteration does not settle early.
            centres, mixing = normal(case["k"], 8), normal(8, d)
            x = (centres[random.integers(case["k"], size=n)] + 0.5 * normal(n, 8)) @ mixing + 0.5 * normal(n, d)
        return {"x": x, "start": random.choice(n, case["k"], replace=False)}
    return {"x": normal(n, d)}


def save_inputs(case, folder):
    folder.mkdir()
    files = {}
    for name, array in inputs(case).items():
        files[name] = str(folder / f"{name}.npy")
        np.save(files[name], array)
    return {"case": case, "files": files}


# ---- workers ----


class Failed(Exception):
    """A peer could not do its work, and why."""


class Worker:
    """One contestant's process; workers.py says what it can be told to do."""

    WORDS = {"prepare": "imports and compilation", "first": "the first call"}

    def __init__(self, contestant, job, options, folder, variables={}):
        self.contestant, self.folder = contestant, folder
        threads = str(options.threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            # Idle threads of one contestant would otherwise spin on the cores while the other one computes.
            "OMP_WAIT_POLICY": "passive",
            "CUDA_VISIBLE_DEVICES": "",  # processors against processors
            # What compiles at run time compiles into the build folder, in one process.
            "KEOPS_CACHE_FOLDER": str(options.cache / contestant),
            "CXXFLAGS": "",
            "TORCHINDUCTOR_CACHE_DIR": str(options.cache / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            **workers.environment(contestant, options.libraries),
            **variables,
        }
        job = {**job, "contestant": contestant, "threads": options.threads, "libraries": str(options.libraries)}
        self.log = open(options.cache / "workers.log", "a")
        print(f"== {job['kind']} {contestant}", file=self.log, flush=True)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "workers.py"), json.dumps(job)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, start_new_session=True)

    def tell(self, command, limit=None):
        """Its answer. Failed if it has none to give, or none in time; the end of everything if that is craft."""
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
            in_time = select.select([self.process.stdout], [], [], limit)[0]
            answer = json.loads(self.process.stdout.readline()) if in_time else {
                "error": f"{self.WORDS.get(command, command)} took longer than {limit:g} s"}
        except (BrokenPipeError, json.JSONDecodeError):
            answer = {"error": f"its process ended with status {self.process.wait()}"}
        if "error" not in answer:
            return answer
        if self.contestant.startswith("craft"):
            sys.exit(f"bench/peers/run: craft failed: {answer['error']}")
        raise Failed(answer["error"])

    def results(self):
        path = self.folder / "results.npz"
        self.tell(f"save {path}")
        with np.load(path) as arrays:
            results = dict(arrays)
        path.unlink()
        return results

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # With compilers that it may have started: they are all in its session.
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()


# ---- comparing ----


def errors(results, reference):
    """Relative to the reference; see TOLERANCES."""
    found = {}
    for name in ("value", "inertia"):
        if name in reference:
            mine, exact = float(results[name].squeeze()), float(reference[name].squeeze())
            found[name] = abs(mine - exact) / abs(exact)
    gradients = [name for name in reference if name.startswith("d_")]
    if gradients:
        found["gradient"] = max(float(np.max(np.abs(results[name] - reference[name])) / np.max(np.abs(reference[name])))
                                for name in gradients)
    for name in ("iterations", "rows"):
        if name in reference:
            found[name] = int(np.count_nonzero(results[name] != reference[name]))
    return found


def shown(found):
    names = {"rows": "other rows", "iterations": "other iterations"}
    return ", ".join(f"{names.get(name, name)} {error:.1e}" if isinstance(error, float) else
                     f"{names.get(name, name)} {error}" for name, error in found.items())


def disagreement(who, found, tolerances):
    """Empty if everything is within its tolerance; a number that is not one never is."""
    beyond = [f"{who}: {name} {found[name]:.1e}, allowed {limit:g}" for name, limit in tolerances.items()
              if not found[name] <= limit]
    return "; ".join(beyond)


def missing_packages(peer):
    return [package for package in workers.packages(peer) if importlib.util.find_spec(package) is None]


def take_turns(craft, worker, pairs):
    """Seconds of craft and the peer, one call each, `pairs` times."""
    return [(craft.worker.tell("time")["seconds"], worker.tell("time")["seconds"]) for _ in range(pairs)]


def compare(case, peer, craft, reference, job, options, folder):
    """One row of the table."""
    row = {"case": case["name"], "peer": peer, "craft_bytes": craft.bytes, "craft_errors": craft.errors}
    missing = missing_packages(peer)
    if missing:
        return {**row, "status": "skipped", "reason": f"not installed: {', '.join(missing)}"}
    try:
        with Worker(peer, job, options, folder) as worker:
            row["peer_environment"] = workers.environment(peer, options.libraries)
            row["peer_build"] = worker.tell("prepare", options.setup_limit)["build"]
            first = worker.tell("first", options.limit)
            row["peer_bytes"] = first["bytes"]
            row["peer_errors"] = errors(worker.results(), reference)
            tolerances = TOLERANCES[case["kind"]]
            wrong = [disagreement("craft", craft.errors, tolerances),
                     disagreement(peer, row["peer_errors"], tolerances)]
            if any(wrong):
                return {**row, "status": "disagrees", "reason": "; ".join(filter(None, wrong))}
            # Slow peers get fewer turns, but not fewer than three.
            pairs = min(options.pairs, max(3, int(options.budget / (first["seconds"] + craft.seconds))))
            if peer not in workers.TIMED_WITH_KEPT_MEMORY:
                times = take_turns(craft, worker, pairs)
        if peer in workers.TIMED_WITH_KEPT_MEMORY:
            row["timed_with"] = workers.KEEP_MEMORY
            with Worker(peer, job, options, folder, workers.KEEP_MEMORY) as worker:
                worker.tell("prepare", options.setup_limit)
                for _ in range(4):  # until it has gathered what it keeps
                    worker.tell("time", options.limit)
                times = take_turns(craft, worker, pairs)
    except Failed as problem:
        return {**row, "status": "skipped", "reason": str(problem)}
    ratios = [theirs / ours for ours, theirs in times]
    row.update(status="ok", pairs=times, craft_seconds=statistics.median(ours for ours, _ in times),
               peer_seconds=statistics.median(theirs for _, theirs in times),
               time_ratio={"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)})
    if row["craft_bytes"] and row["peer_bytes"] is not None:
        row["memory_ratio"] = row["peer_bytes"] / row["craft_bytes"]
    return row


class Craft:
    """craft's worker in a case, after its first call."""

    def __init__(self, worker, reference):
        self.worker = worker
        self.build = worker.tell("prepare")["build"]
        first = worker.tell("first")
        self.seconds, self.bytes = first["seconds"], first["bytes"]
        self.errors = errors(worker.results(), reference)


def run_case(case, peers, options, machine):
    """Rows of all peers."""
    with tempfile.TemporaryDirectory(dir=options.cache, prefix="inputs.") as name:
        folder = pathlib.Path(name)
        job = {"kind": case["kind"], "full": save_inputs(case, folder / "full"),
               "small": save_inputs(small(case), folder / "small")}
        with Worker("craft-double", job, options, folder) as worker:
            worker.tell("prepare")
            worker.tell("first")
            reference = worker.results()
        with Worker("craft", job, options, folder) as worker:
            craft = Craft(worker, reference)
            machine["compiler"] = craft.build
            for peer in peers:
                row = compare(case, peer, craft, reference, job, options, folder)
                print("  " + line(row), flush=True)
                yield row


# ---- what is printed and written ----


def seconds(value):
    return f"{value:.3g} s" if value >= 0.1 else f"{value * 1e3:.3g} ms"


def megabytes(value):
    return "not measured" if value is None else f"{value / 1e6:.3g} MB"


def ratio(value):
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def time_ratio(row):
    r = row["time_ratio"]
    return f"{ratio(r['median'])} ({ratio(r['min'])} to {ratio(r['max'])})"


def memory_ratio(row):
    return ratio(row["memory_ratio"]) if "memory_ratio" in row else "not measured"


def line(row):
    if row["status"] != "ok":
        return f"{row['peer']:25} {row['status']}: {row['reason']}"
    times = f"{time_ratio(row)} = {seconds(row['peer_seconds'])} / {seconds(row['craft_seconds'])}"
    memory = f"{memory_ratio(row)} = {megabytes(row['peer_bytes'])} / {megabytes(row['craft_bytes'])}"
    return (f"{row['peer']:25} time {times}, {len(row['pairs'])} pairs; memory {memory}; "
            f"errors: {shown(row['peer_errors'])}; craft's: {shown(row['craft_errors'])}")


def markdown(report):
    m = report["machine"]
    out = [
        f"craft {m['commit']} on {m['processor']}, {m['cores']} cores, {m['threads']} thread(s) for everybody; "
        f"{m['compiler']}; " + ", ".join(f"{name} {version}" for name, version in m["packages"].items() if version) +
        f"; {m['date']}.",
        "",
        "Ratios are peer / craft, above 1 where craft is faster or smaller: of times the median over the pairs "
        "(smallest to largest), of memory the most during the first call beyond the inputs. Errors are relative to "
        "craft in double.",
        "",
        "| case | peer | time ratio | memory ratio | peer | craft | peer's errors | craft's errors |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        if row["status"] == "ok":
            cells = [time_ratio(row), memory_ratio(row),
                     f"{seconds(row['peer_seconds'])}, {megabytes(row['peer_bytes'])}",
                     f"{seconds(row['craft_seconds'])}, {megabytes(row['craft_bytes'])}",
                     shown(row["peer_errors"]), shown(row["craft_errors"])]
        else:
            cells = [f"{row['status']}: {row['reason']}".replace("|", "/")] + [""] * 5
        out.append("| " + " | ".join([row["case"], row["peer"], *cells]) + " |")
    out += ["", *(f"* {case['name']}: {case['text']}" for case in report["cases"]), ""]
    return "\n".join(out)


def write(report, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(report))


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def line_of(path, start):
    try:
        lines = pathlib.Path(path).read_text().splitlines()
        return next((text.partition(":")[2].strip() for text in lines if text.startswith(start)), "")
    except OSError:
        return ""


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def about_machine(options):
    git = ["git", "--no-optional-locks", "-C", str(HERE)]
    commit = output_of(*git, "rev-parse", "--short", "HEAD") or "unknown"
    if output_of(*git, "status", "--porcelain"):
        commit += " with changes"
    pages = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "processor": line_of("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": line_of("/proc/meminfo", "MemTotal"),
        "huge_pages": pages.read_text().strip() if pages.exists() else "",
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
        "runtime_compiler": output_of("g++", "--version").partition("\n")[0],
        "compiler": "",
        "commit": commit,
        "threads": options.threads,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


# ---- the run ----


def arguments():
    peers = sorted({peer for of_kind in workers.CONTESTANTS.values() for peer in of_kind} - {"craft"})
    parser = argparse.ArgumentParser(
        prog="bench/peers/run",
        description="craft against its peers. Prints, per case and peer, ratios peer / craft of time and memory.")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of every contestant (1)")
    parser.add_argument("--pairs", type=int, default=7, metavar="N", help="turns of craft and the peer (7)")
    parser.add_argument("--quick", action="store_true", help="small sizes, 3 pairs: does everything work?")
    parser.add_argument("--cases", nargs="+", default=[""], metavar="CASE",
                        help="only cases that begin like this, for example mmd or mmd/4096x512")
    parser.add_argument("--peers", nargs="+", default=peers, metavar="PEER", choices=peers, help="only these")
    parser.add_argument("--limit", type=float, default=60, metavar="S",
                        help="seconds a peer's first call may take (60)")
    parser.add_argument("--setup-limit", type=float, default=600, metavar="S",
                        help="seconds a peer's imports and compilation may take (600)")
    parser.add_argument("--budget", type=float, default=120, metavar="S",
                        help="seconds a row's pairs may take; slow peers get fewer pairs, at least 3 (120)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE",
                        help="where everything is written, the table beside it with .md (build/bench/peers.json, or "
                             "peers-quick.json)")
    parser.add_argument("--libraries", type=pathlib.Path, default=BUILD / "bench" / "peers", metavar="FOLDER",
                        help="where libcraft_calls_float.so and libcraft_calls_double.so are")
    options = parser.parse_args()
    if options.threads < 1 or options.pairs < 1:
        parser.error("--threads and --pairs must be at least 1")
    if options.quick:
        options.pairs = min(options.pairs, 3)
    options.json = options.json or BUILD / ("peers-quick.json" if options.quick else "peers.json")
    options.cache = BUILD / "peers"
    options.cache.mkdir(parents=True, exist_ok=True)
    return options


def main():
    options = arguments()
    cases = [case for case in all_cases(options.quick) if case["name"].startswith(tuple(options.cases))]
    if not cases:
        sys.exit(f"bench/peers/run: no case begins with {' or '.join(options.cases)}; there are " +
                 ", ".join(case["name"] for case in all_cases(options.quick)))
    machine = about_machine(options)
    if options.threads > machine["cores"]:
        print(f"warning: {options.threads} threads on {machine['cores']} cores", file=sys.stderr)
    report = {"machine": machine, "quick": options.quick, "cases": cases, "tolerances": TOLERANCES, "rows": []}
    for case in cases:
        peers = [peer for peer in workers.CONTESTANTS[case["kind"]] if peer in options.peers]
        if not peers:
            continue
        print(f"{case['name']}: {case['text']}", flush=True)
        for row in run_case(case, peers, options, machine):
            report["rows"].append(row)
            write(report, options.json)
    print(f"\nwritten: {options.json} and {options.json.with_suffix('.md')}; what workers said: "
          f"{options.cache / 'workers.log'}")
    if options.quick:
        print("these sizes are too small for the ratios to mean anything")
    disagreeing = [f"{row['case']} {row['peer']}" for row in report["rows"] if row["status"] == "disagrees"]
    if disagreeing:
        sys.exit(f"bench/peers/run: results disagree: {', '.join(disagreeing)}")


if __name__ == "__main__":
    main()
