"""craft on a GPU beside what people use there, in one process: torch, torch.compile, KeOps, open_clip, a Triton kernel.

    gpu_peers.py --libraries build/gpu/folder/lib --json out/peers.json

For every case and peer, as tests/gpu has it:

  1. Both are compared with the same formula in double precision, computed in blocks by torch. Beyond the tolerance of
     the case's precision the row says "disagrees" and has no ratio.
  2. Memory: the most that a call allocates beyond its inputs, gradients included. For torch what its allocator says;
     for craft the scratch memory that its context holds, and its gradients.
  3. craft and the peer take turns on one stream, and CUDA events time them: cold, with the second-level cache full of
     something else and another set of inputs each time, and warm, several calls one after the other. Every turn gives a
     ratio; what is printed is their median.

Where something is not installed its row says so. All of it happens in a child process, which is killed and started
again for the rows that are left should one take too long or bring the process down.

    --device cpu --small     the same path with tiny inputs on the CPU (craft's CPU library): does everything work?
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import select
import signal
import statistics
import subprocess
import sys
import time
import traceback

sys.dont_write_bytecode = True  # sources are not the place for what is built

PRECISIONS = ["strict", "tf32", "bfloat16"]

# Largest errors that still count as the same result, relative to double precision: values by their own size, gradients
# entry by entry by the largest. strict: as on the CPU (peers.py says why). tf32 and bfloat16 keep 10 and 7 bits of what
# is multiplied, and torch's autocast also of the products; MMD is a small difference of such numbers.
TOLERANCES = {
    "strict": {"value": 2e-5, "gradient": 1e-4},
    "tf32": {"value": 1e-2, "gradient": 1e-2},
    "bfloat16": {"value": 2e-1, "gradient": 1e-1},
}

PACKAGES = {"keops": "pykeops", "triton": "triton", "open_clip": "open_clip"}
# The last ones compile for a long time.
PEERS = {
    "mmd": ["torch", "torch-tuned", "triton", "torch.compile", "torch.compile-tuned", "keops"],
    "info_nce": ["torch", "open_clip", "torch.compile"],
}
SLOW_TO_START = ["torch.compile", "torch.compile-tuned", "keops"]


def all_cases(small, quick):
    def mmd(n, d, precision):
        return {"name": f"mmd/{n}x{d}/{precision}", "kind": "mmd", "n": n, "d": d, "precision": precision,
                "gammas": [2.0**power / (8 * d) for power in range(5)]}

    def info_nce(n, d, precision):
        return {"name": f"info_nce/{n}x{d}/{precision}", "kind": "info_nce", "n": n, "d": d, "precision": precision,
                "log_scale": math.log(1 / 0.07)}

    if small:
        return [mmd(96, 16, "strict"), mmd(96, 16, "tf32"), info_nce(80, 24, "strict"), info_nce(80, 24, "bfloat16")]
    if quick:
        return [mmd(16384, 512, "strict"), mmd(16384, 64, "strict")]
    return [mmd(16384, 512, "strict"), mmd(16384, 64, "strict"), mmd(16384, 512, "tf32"), mmd(16384, 64, "tf32"),
            info_nce(16384, 768, "strict"), info_nce(32768, 768, "bfloat16"), info_nce(65536, 768, "bfloat16")]


def all_rows(cases, peers):
    rows = [(case, peer) for case in cases for peer in PEERS[case["kind"]] if not peers or peer in peers]
    return sorted(rows, key=lambda row: row[1] in SLOW_TO_START)


def not_for(case, peer):
    """Why a peer has no row for a case, or nothing."""
    if peer == "triton" and (case["d"] > 128 or case["precision"] == "bfloat16"):
        return "whole rows would not fit in registers"
    if peer == "keops" and (case["d"] > 128 or case["precision"] != "strict"):
        return "KeOps has no tensor cores, and for this d takes minutes"
    return None


# ---- the child: everything that needs torch ----


class Craft:
    """craft_calls_cuda.cpp; one context for each precision, on torch's stream. That is the default one for everybody
    here: KeOps knows no other."""

    def __init__(self, libraries):
        import ctypes

        import torch

        self.ctypes, self.contexts = ctypes, {}
        pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
        self.library = library = ctypes.CDLL(str(pathlib.Path(libraries) / "libcraft_calls_cuda.so"))
        library.craft_calls_cuda_error.restype = ctypes.c_char_p
        library.craft_calls_cuda_open.restype = pointer
        library.craft_calls_cuda_open.argtypes = [pointer, ctypes.c_int]
        library.craft_calls_cuda_close.argtypes = [pointer]
        library.craft_calls_cuda_close.restype = None
        library.craft_calls_cuda_bytes.argtypes = [pointer]
        library.craft_calls_cuda_bytes.restype = size
        library.craft_calls_cuda_mmd.argtypes = [pointer, ctypes.c_int, pointer, size, pointer, size, size, pointer,
                                                 size, number, pointer, pointer, pointer]
        library.craft_calls_cuda_info_nce.argtypes = [pointer, ctypes.c_int, pointer, pointer, size, size, number,
                                                      pointer, pointer, pointer, pointer]
        self.torch = torch

    def context(self, precision):
        if precision not in self.contexts:
            stream = self.torch.cuda.current_stream().cuda_stream
            context = self.library.craft_calls_cuda_open(stream, PRECISIONS.index(precision))
            if not context:
                raise RuntimeError(f"craft: {self.library.craft_calls_cuda_error().decode()}")
            self.contexts[precision] = context
        return self.contexts[precision]

    def close(self):
        for context in self.contexts.values():
            self.library.craft_calls_cuda_close(context)
        self.contexts.clear()

    def checked(self, status):
        if status:
            raise RuntimeError(f"craft: {self.library.craft_calls_cuda_error().decode()}")

    def prepare(self, case, sets):
        """The call for a set of inputs."""
        torch, context = self.torch, self.context(case["precision"])
        x, y = sets[0]
        storage = int(x.dtype == torch.bfloat16)
        results = {"value": x.new_empty(1, dtype=torch.float32), "d_x": torch.empty_like(x), "d_y": torch.empty_like(y)}
        if case["kind"] == "mmd":
            sigmas = [math.sqrt(1 / (2 * gamma)) for gamma in case["gammas"]]
            sigmas = (self.ctypes.c_double * len(sigmas))(*sigmas)

            def call(index):
                a, b = sets[index]
                self.checked(self.library.craft_calls_cuda_mmd(
                    context, storage, a.data_ptr(), len(a), b.data_ptr(), len(b), a.shape[1], sigmas, len(sigmas), 1.0,
                    *(r.data_ptr() for r in results.values())))
                return results
        else:
            results["d_log_scale"] = x.new_empty(1, dtype=torch.float32)

            def call(index):
                a, b = sets[index]
                self.checked(self.library.craft_calls_cuda_info_nce(
                    context, storage, a.data_ptr(), b.data_ptr(), len(a), a.shape[1], case["log_scale"],
                    *(r.data_ptr() for r in results.values())))
                return results

        return call

    def bytes(self, case, results):
        held = self.library.craft_calls_cuda_bytes(self.context(case["precision"]))
        return held + sum(r.numel() * r.element_size() for r in results.values())


class CraftOnCpu:
    """craft_calls.cpp in the place of the GPU's, whatever the precision: for a machine without one."""

    def __init__(self, libraries):
        import workers

        workers.JOB.update(libraries=str(libraries), threads=1, contestant="craft")
        self.library = workers.Craft("float")

    def close(self):
        pass

    def prepare(self, case, sets):
        import numpy as np
        import torch

        sets = [[m.float().numpy() for m in pair] for pair in sets]
        x, y = sets[0]
        results = {"value": np.empty(1, np.float32), "d_x": np.empty_like(x), "d_y": np.empty_like(y)}
        if case["kind"] == "info_nce":
            results["d_log_scale"] = np.empty(1, np.float32)
        sigmas = np.array([math.sqrt(1 / (2 * gamma)) for gamma in case.get("gammas", [])])

        def call(index):
            a, b = sets[index]
            if case["kind"] == "mmd":
                self.library.call("mmd", a, len(a), b, len(b), a.shape[1], sigmas, len(sigmas), 1.0, *results.values())
            else:
                self.library.call("info_nce", a, b, len(a), a.shape[1], case["log_scale"], *results.values())
            return {name: torch.from_numpy(r) for name, r in results.items()}

        return call

    def bytes(self, case, results):
        return None


def double_mmd(case, x, y, block):
    """Value and gradients in double, a block of rows at a time."""
    import torch

    z = torch.cat([x, y]).double()
    squares = z.square().sum(1)
    share = torch.cat([z.new_full((len(x),), 1 / len(x)), z.new_full((len(y),), -1 / len(y))])
    value, gradient = z.new_zeros(()), torch.empty_like(z)
    for i in range(0, len(z), block):
        rows = slice(i, i + block)
        distance = (squares[rows, None] + squares - 2 * z[rows] @ z.T).clamp(min=0)
        slope, total = torch.zeros_like(distance), torch.zeros_like(distance)
        for gamma in case["gammas"]:
            kernel = torch.exp(-gamma * distance)
            total += kernel
            slope -= gamma * kernel
        value += share[rows] @ total @ share
        slope *= share
        gradient[rows] = 4 * share[rows, None] * (z[rows] * slope.sum(1, keepdim=True) - slope @ z)
    return {"value": value, "d_x": gradient[:len(x)], "d_y": gradient[len(x):]}


def double_info_nce(case, x, y, block):
    """The same for the mean of both directions' cross entropies."""
    import torch

    scale, n = math.exp(case["log_scale"]), len(x)
    x, y = x.double(), y.double()
    x_norm, y_norm = x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True)
    x, y = x / x_norm, y / y_norm
    by_row, by_column = x.new_empty(n), x.new_full((n,), -math.inf)
    for i in range(0, n, block):
        logits = scale * x[i:i + block] @ y.T
        by_row[i:i + block] = logits.logsumexp(1)
        by_column = torch.logaddexp(by_column, logits.logsumexp(0))
    own = scale * (x * y).sum(1)
    value = ((by_row + by_column) / 2 - own).mean()
    d_x, d_y, d_log_scale = torch.empty_like(x), torch.zeros_like(y), x.new_zeros(())
    for i in range(0, n, block):
        rows = slice(i, i + block)
        logits = scale * x[rows] @ y.T
        weights = ((logits - by_row[rows, None]).exp() + (logits - by_column).exp()) / (2 * n)
        weights.diagonal(offset=i).sub_(1 / n)
        d_log_scale += (weights * logits).sum()
        d_x[rows] = scale * weights @ y
        d_y += scale * weights.T @ x[rows]

    def through_norm(gradient, unit, norm):
        return (gradient - unit * (gradient * unit).sum(1, keepdim=True)) / norm

    return {"value": value, "d_x": through_norm(d_x, x, x_norm), "d_y": through_norm(d_y, y, y_norm),
            "d_log_scale": d_log_scale}


def errors(results, reference):
    found = {"value": float((results["value"].double() - reference["value"]).abs() / reference["value"].abs())}
    found["gradient"] = max(float((results[name].double().reshape(exact.shape) - exact).abs().max() / exact.abs().max())
                            for name, exact in reference.items() if name != "value")
    return found


def disagreement(who, found, precision):
    """Empty if everything is within its tolerance; a number that is not one never is."""
    return "; ".join(f"{who}: {name} {found[name]:.1e}, allowed {limit:g}"
                     for name, limit in TOLERANCES[precision].items() if not found[name] <= limit)


def open_clip_loss():
    """As its users call it: unit features and the scale itself."""
    import torch.nn.functional as F
    from open_clip.loss import ClipLoss

    loss = ClipLoss()
    return lambda x, y, log_scale: loss(F.normalize(x, dim=-1), F.normalize(y, dim=-1), log_scale.exp())


def prepare_peer(case, peer, sets):
    """The call of a peer for a set of inputs; it returns value and gradients."""
    import torch
    import workers

    x = sets[0][0]
    if peer == "triton":
        import triton_mmd

        precision = {"strict": "ieee", "tf32": "tf32"}[case["precision"]]
        return lambda index: triton_mmd.mmd(*sets[index], case["gammas"], precision)
    losses = {
        "mmd": {"torch": workers.mmd_loss, "torch-tuned": workers.tuned_mmd_loss, "keops": workers.keops_mmd_loss},
        "info_nce": {"torch": workers.info_nce_loss},
    }[case["kind"]]
    loss = open_clip_loss() if peer == "open_clip" else losses[peer.replace(".compile", "")]
    if peer.startswith("torch.compile"):
        loss = workers.compiled(loss)
    leaves = [[m.detach().requires_grad_() for m in pair] for pair in sets]
    log_scale = torch.tensor(case.get("log_scale", 0.0), device=x.device, requires_grad=True)

    def call(index):
        a, b = leaves[index]
        parameters = {"x": a, "y": b}
        if case["kind"] == "info_nce":
            parameters["log_scale"] = log_scale

        def value():
            # Products in two bytes, the rest as torch thinks best: what training in bfloat16 does.
            narrow = case["precision"] == "bfloat16"
            with torch.autocast(x.device.type, torch.bfloat16) if narrow else contextlib.nullcontext():
                if case["kind"] == "mmd":
                    return loss(a, b, tuple(case["gammas"]), 1.0)
                return loss(a, b, log_scale)

        return workers.backward(value, **parameters)

    def forget():
        for tensor in [log_scale, *sum(leaves, [])]:
            tensor.grad = None

    call.forget = forget
    return call


class Clock:
    """Seconds of what is put into the stream between two events; on the CPU by the clock on the wall."""

    def __init__(self, torch, device):
        self.torch, self.on_gpu = torch, device == "cuda"
        if self.on_gpu:
            cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 << 20
            self.other = torch.empty(4 * cache, dtype=torch.uint8, device=device)
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def __call__(self, run, cold):
        if not self.on_gpu:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        if cold:  # and not waited for: the host has put the call into the stream before the device gets there
            self.other.fill_(1)
        self.events[0].record()
        run()
        self.events[1].record()
        self.events[1].synchronize()
        return self.events[0].elapsed_time(self.events[1]) * 1e-3


class Child:
    def __init__(self, options):
        # Both have to be there before triton is imported.
        if options.device == "cpu":
            os.environ["TRITON_INTERPRET"] = "1"
        sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
        import torch

        self.torch, self.options = torch, options
        if options.device == "cuda":
            if not torch.cuda.is_available():
                raise SystemExit("torch.cuda is not available here: no GPU, no driver, or a torch built without CUDA")
        else:
            torch.set_num_threads(1)
        self.craft = (Craft if options.device == "cuda" else CraftOnCpu)(options.libraries)
        self.clock = Clock(torch, options.device)
        self.case = None

    def about(self):
        torch = self.torch
        about = {"torch": torch.__version__, "torch_cuda": torch.version.cuda, "python": sys.version.split()[0]}
        if self.options.device == "cuda":
            about["device"] = torch.cuda.get_device_name(0)
        for package in ("triton", "pykeops", "open_clip_torch"):
            try:
                about[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                about[package] = "not installed"
        return about

    def free(self):
        if self.options.device == "cuda":
            self.torch.cuda.synchronize()
            self.torch.cuda.empty_cache()

    def set_case(self, case):
        """Inputs, the reference and craft's own call; kept until another case comes."""
        if self.case == case:
            return
        torch = self.torch
        self.case = self.sets = self.ours = self.reference = None
        self.craft.close()  # its scratch memory was of another size
        self.free()
        torch.set_float32_matmul_precision("highest" if case["precision"] == "strict" else "high")
        generator = torch.Generator(device=self.options.device).manual_seed(1)

        def normal(shift):
            values = torch.randn(case["n"], case["d"], generator=generator, device=self.options.device) + shift
            return values.bfloat16() if case["precision"] == "bfloat16" else values

        shift = 0.1 if case["kind"] == "mmd" else 0.0
        self.sets = [(normal(0.0), normal(shift)) for _ in range(2)]
        double = double_mmd if case["kind"] == "mmd" else double_info_nce
        self.reference = double(case, *self.sets[0], max(1, (1 << 25) // case["n"]))
        self.free()
        self.ours = self.craft.prepare(case, self.sets)
        for index in (1, 1, 0):
            results = self.ours(index)
        self.our_errors = errors(results, self.reference)
        self.our_bytes = self.craft.bytes(case, results)
        self.free()
        self.case = case

    def memory_of(self, run):
        """The most that a call allocates beyond what is there before."""
        if self.options.device != "cuda":
            run()
            return None
        cuda = self.torch.cuda
        self.free()
        before = cuda.memory_allocated()
        cuda.reset_peak_memory_stats()
        run()
        cuda.synchronize()
        return cuda.max_memory_allocated() - before

    def row(self, case, peer):
        self.set_case(case)
        row = {"craft_errors": self.our_errors, "craft_bytes": self.our_bytes}
        wrong = disagreement("craft", self.our_errors, case["precision"])
        reason = not_for(case, peer)
        if reason:
            return {**row, "status": "left out", "reason": reason}
        if peer in PACKAGES and importlib.util.find_spec(PACKAGES[peer]) is None:
            return {**row, "status": "not installed", "reason": "not installed"}
        theirs = None
        try:
            theirs = prepare_peer(case, peer, self.sets)
            forget = getattr(theirs, "forget", lambda: None)
            for index in (1, 1, 0):  # whatever is compiled or kept
                results = theirs(index)
            row["peer_errors"] = errors(results, self.reference)
            wrong = "; ".join(filter(None, [wrong, disagreement(peer, row["peer_errors"], case["precision"])]))
            if wrong:
                return {**row, "status": "disagrees", "reason": wrong}
            del results
            forget()
            row["peer_bytes"] = self.memory_of(lambda: theirs(0))
            row.update(self.timed(theirs))
            if row["peer_bytes"] is not None and row["craft_bytes"]:
                row["memory_ratio"] = row["peer_bytes"] / row["craft_bytes"]
            return {**row, "status": "ok"}
        except self.torch.cuda.OutOfMemoryError as problem:
            return {**row, "status": "out of memory", "reason": str(problem).partition(". ")[0]}
        finally:
            theirs = results = None
            self.free()

    def timed(self, theirs):
        once = [self.clock(lambda: run(0), True) for run in (self.ours, theirs)]
        turns = min(self.options.turns, max(3, int(self.options.budget / sum(once) / 2)))
        pairs = [[self.clock(lambda: run(turn % 2), True) for run in (self.ours, theirs)] for turn in range(turns)]
        calls = [max(1, min(50, int(0.01 / seconds))) for seconds in once]

        def several(run, count):
            for _ in range(count):
                run(0)

        both = list(zip((self.ours, theirs), calls))
        warm = [[self.clock(lambda: several(run, count), False) / count for run, count in both]
                for _ in range(max(1, turns // 2))]

        def summed(prefix, taken):
            ratios = [b / a for a, b in taken]
            return {prefix + "pairs": taken, prefix + "craft_seconds": statistics.median(a for a, _ in taken),
                    prefix + "peer_seconds": statistics.median(b for _, b in taken),
                    prefix + "time_ratio": {"min": min(ratios), "median": statistics.median(ratios),
                                            "max": max(ratios)}}

        return {**summed("", pairs), **summed("warm_", warm)}


def child(options):
    # Answers have a channel of their own, because libraries talk on standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        worker = Child(options)
        answers.write(json.dumps({"about": worker.about()}) + "\n")
    except (ImportError, OSError, SystemExit, RuntimeError) as problem:
        answers.write(json.dumps({"failed": f"{problem}"}) + "\n")
        return
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = worker.row(job["case"], job["peer"])
        except Exception as problem:
            traceback.print_exc()
            said = str(problem).strip().partition("\n")[0]
            answer = {"status": "failed", "reason": f"{type(problem).__name__}: {said}"}
        answers.write(json.dumps(answer) + "\n")


# ---- the parent: times out what hangs, and writes ----


class Worker:
    def __init__(self, options):
        self.log = open(options.json.with_suffix(".log"), "a")
        self.process = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--child"], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        start_new_session=True)

    def answer(self, limit):
        """What it says, or a row that says why there is nothing."""
        if not select.select([self.process.stdout], [], [], max(0.1, limit))[0]:
            return {"status": "too slow", "reason": f"took longer than {limit:.0f} s", "lost": True}
        try:
            return json.loads(self.process.stdout.readline())
        except json.JSONDecodeError:
            return {"status": "failed", "reason": f"its process ended with status {self.process.wait()}", "lost": True}

    def ask(self, job, limit):
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # answer() says how it ended
        return self.answer(limit)

    def end(self):
        # With compilers that it may have started: they are all in its session.
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()


def seconds(value):
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"


def megabytes(value):
    return "not measured" if value is None else f"{value / 1e6:.4g} MB"


def ratio(value):
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def shown(found):
    return ", ".join(f"{name} {error:.0e}" for name, error in found.items())


def cells(row):
    if row["status"] != "ok":
        reason = row["reason"] if row["status"] == "not installed" else f"{row['status']}: {row['reason']}"
        return [reason.replace("|", "/"), "", "", "", "", ""]
    r, w = row["time_ratio"], row["warm_time_ratio"]
    memory = ratio(row["memory_ratio"]) if "memory_ratio" in row else "not measured"
    return [f"**{ratio(r['median'])}** ({ratio(r['min'])} to {ratio(r['max'])})", ratio(w["median"]), memory,
            f"{seconds(row['peer_seconds'])}, {megabytes(row['peer_bytes'])}",
            f"{seconds(row['craft_seconds'])}, {megabytes(row['craft_bytes'])}",
            f"{shown(row['peer_errors'])}; {shown(row['craft_errors'])}"]


def markdown(report):
    about = report["about"]
    lines = [", ".join(f"{name} {value}" for name, value in about.items() if value), ""]
    if report.get("stopped"):
        lines += [f"**{report['stopped']}**", ""]
    lines += [
        "Ratios are peer / craft, above 1 where craft is faster or smaller; errors are relative to double precision.",
        "",
        "| case | peer | time ratio, cold | warm | memory ratio | peer | craft | errors of the peer; of craft |",
        "|---|---|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join([row["case"], row["peer"], *cells(row)]) + " |" for row in report["rows"]]
    return "\n".join(lines) + "\n"


def write(report, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(report))


def parent(options):
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # not without the child, which has a session of its own
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.with_suffix(".log").write_text("")
    report = {"about": {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")},
              "quick": options.quick, "small": options.small, "tolerances": TOLERANCES, "rows": []}
    cases = [c for c in all_cases(options.small, options.quick) if c["name"].startswith(tuple(options.cases))]
    if not cases:
        sys.exit(f"gpu_peers.py: no case begins with {' or '.join(options.cases)}; there are " +
                 ", ".join(case["name"] for case in all_cases(options.small, options.quick)))
    worker = None
    try:
        for case, peer in all_rows(cases, options.peers):
            left = options.total - (time.monotonic() - started)
            row = {"case": case["name"], "kind": case["kind"], "n": case["n"], "d": case["d"],
                   "precision": case["precision"], "peer": peer}
            if left < 5:
                row.update(status="not run", reason=f"the {options.total:.0f} s for all peers were over")
            else:
                if worker is None:
                    worker = Worker(options)
                    hello = worker.answer(120)
                    if "about" not in hello:
                        report["stopped"] = hello.get("failed", hello.get("reason"))
                        write(report, options.json)
                        print(f"gpu_peers.py: {report['stopped']}", file=sys.stderr)
                        return 2
                    report["about"].update(hello["about"])
                row.update(worker.ask({"case": case, "peer": peer}, min(left, options.limit)))
                if row.pop("lost", False):
                    worker.end()
                    worker = None
            report["rows"].append(row)
            print(f"{row['case']:28} {peer:20} " + " | ".join(filter(None, cells(row))).replace("*", ""), flush=True)
            write(report, options.json)
    finally:
        if worker is not None:
            worker.end()
    print(f"written: {options.json} and {options.json.with_suffix('.md')}; what libraries said: "
          f"{options.json.with_suffix('.log')}")
    if any(disagreement("craft", row["craft_errors"], row["precision"])
           for row in report["rows"] if "craft_errors" in row):
        print("gpu_peers.py: craft's results are wrong", file=sys.stderr)
        return 1
    broken = [f"{row['case']} {row['peer']}" for row in report["rows"] if row["status"] == "failed"]
    if broken:
        print(f"gpu_peers.py: failed: {', '.join(broken)}", file=sys.stderr)
        return 1
    return 0


def arguments():
    parser = argparse.ArgumentParser(prog="gpu_peers.py", description="craft on a GPU beside its peers.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny inputs: does everything work?")
    parser.add_argument("--quick", action="store_true", help="few cases")
    parser.add_argument("--cases", nargs="+", default=[""], metavar="CASE", help="only cases that begin like this")
    parser.add_argument("--peers", nargs="+", metavar="PEER", help="only these")
    parser.add_argument("--libraries", type=pathlib.Path, required=True, metavar="FOLDER",
                        help="where libcraft_calls_cuda.so is (on the CPU libcraft_calls_float.so)")
    parser.add_argument("--json", type=pathlib.Path, required=True, metavar="FILE", help="a table goes beside it")
    parser.add_argument("--turns", type=int, default=9, help="of craft and the peer (9)")
    parser.add_argument("--budget", type=float, default=4, metavar="S", help="seconds of turns in a row (4)")
    parser.add_argument("--limit", type=float, default=90, metavar="S", help="seconds that a row may take (90)")
    parser.add_argument("--total", type=float, default=210, metavar="S", help="seconds for everything (210)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cpu" and not options.small:
        parser.error("--device cpu only shows that this runs, and needs --small; bench/peers/run compares CPUs")
    return options


if __name__ == "__main__":
    chosen = arguments()
    if chosen.child:
        child(chosen)
    else:
        sys.exit(parent(chosen))
