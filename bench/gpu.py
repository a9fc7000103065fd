"""The GPU's benchmarks: every case of craft_bench_cuda in a process of its own, with a time limit, and the tables.

    gpu.py measure --program build/gpu/folder/bin/craft_bench_cuda --out DIR    makes DIR/cuda.json
    gpu.py report --out DIR           DIR/cuda.md, with DIR/peers.json if it is there

tests/gpu does both. A case that fails, hangs or runs out of time is in both files with its reason; the
exit status of `measure` is then 1, and 2 if nothing could be measured at all.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PRECISIONS = {"strict": "float32", "tf32": "TF32", "bfloat16": "bfloat16"}

# What the bars below are about comes first, should time run out.
FIRST = (r"^mmd/gaussians5/gradient/n:16384/m:16384/d:(512|64)/|^objective/all_terms/|"
         r"^alignment/info_nce/gradient/n:65536/m:65536/d:768/|^mmd/gaussians5/gradient/n:262144/")

# ---- measuring ----


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def about_machine():
    about = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}
    asked = ["driver_version", "memory.total", "clocks.max.sm", "power.limit", "persistence_mode"]
    answer = output_of("nvidia-smi", "--query-gpu=" + ",".join(asked), "--format=csv,noheader")
    if answer:
        about.update(zip(asked, (value.strip() for value in answer.splitlines()[0].split(","))))
    git = ["git", "--no-optional-locks", "-C", str(HERE)]
    commit = output_of(*git, "rev-parse", "--short", "HEAD")
    if os.environ.get("CRAFT_COMMIT"):
        about["commit"] = os.environ["CRAFT_COMMIT"]
    elif commit:
        about["commit"] = commit + (" with changes" if output_of(*git, "status", "--porcelain") else "")
    return about


def case_of(name):
    """mmd/.../float/tf32/cold/iterations:1/manual_time -> (mmd/.../float/tf32, cold)."""
    return name.partition("/iterations:")[0].rpartition("/")[::2]


def run_case(program, case, modes, limit, options):
    """Its benchmarks, and failures as (name, reason)."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "case.json"
        command = [str(program), f"--benchmark_filter=^{case}/", f"--benchmark_out={out}",
                   "--benchmark_out_format=json", *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {}, [], [(f"{case}/{mode}", f"took longer than {limit:.0f} s") for mode in modes], 0
        said = done.stderr.strip().splitlines()
        try:
            result = json.loads(out.read_text())
        except (OSError, json.JSONDecodeError):
            reason = f"ended with status {done.returncode}: {said[-1] if said else 'it said nothing'}"
            return {}, [], [(f"{case}/{mode}", reason) for mode in modes], done.returncode
    measured, failures = [], []
    for benchmark in result["benchmarks"]:
        name = "/".join(case_of(benchmark["name"]))
        if benchmark.get("error_occurred") or "seconds" not in benchmark:
            failures.append((name, benchmark.get("error_message", "no result")))
        else:
            measured.append({**benchmark, "name": name})
    there = {m["name"] for m in measured} | {name for name, _ in failures}
    failures += [(f"{case}/{mode}", "no result") for mode in modes if f"{case}/{mode}" not in there]
    return result["context"], measured, failures, done.returncode


def measure(options):
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "cuda.json"
    passed = [f"--budget={options.budget}"] + (["--small"] if options.small else [])
    report = {"context": about_machine(), "benchmarks": [], "failures": []}

    def write():
        path.write_text(json.dumps(report, indent=1) + "\n")

    def stop(reason):
        report["stopped"] = reason
        write()
        print(f"bench/gpu.py: {reason}", file=sys.stderr)
        return 2

    try:
        listed = subprocess.run([str(options.program), "--benchmark_list_tests", *passed], capture_output=True,
                                text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return stop(f"{options.program} cannot be run: {problem}")
    if listed.returncode != 0:
        return stop(f"{options.program} cannot list its cases: {listed.stderr.strip() or listed.returncode}")
    cases = {}
    for name in listed.stdout.split():
        case, mode = case_of(name)
        cases.setdefault(case, []).append(mode)
    wanted = [case for case in cases if re.search(options.filter, case + "/")
              and (not options.first or re.search(FIRST, case + "/"))
              and (not options.others or not re.search(FIRST, case + "/"))]
    if not wanted:
        return stop("no case is called like that")
    wanted.sort(key=lambda case: re.search(FIRST, case + "/") is None)
    started = time.monotonic()
    for case in wanted:
        left = options.total - (time.monotonic() - started)
        if left < 5:
            reason = f"the {options.total:.0f} s for all cases were over"
            report["failures"] += [{"name": f"{case}/{mode}", "reason": reason} for mode in cases[case]]
            continue
        context, measured, failures, status = run_case(options.program, case, cases[case], min(left, options.limit),
                                                       passed)
        if status == 2 and not report["benchmarks"]:  # no device: the same for all of them
            return stop(failures[0][1] if failures else "no device")
        report["context"] = {**context, **report["context"]}
        report["benchmarks"] += measured
        report["failures"] += [{"name": name, "reason": reason} for name, reason in failures]
        for m in measured:
            print(f"{m['name']:75} {duration(m['seconds']):>9}  {m['fraction']:.2f} of cuBLAS", flush=True)
        for name, reason in failures:
            print(f"{name:75} FAILED: {reason}", flush=True)
        write()
    write()
    if report["failures"]:
        count = sum(len(cases[case]) for case in wanted)
        print(f"bench/gpu.py: {len(report['failures'])} of {count} were not measured", file=sys.stderr)
        return 1
    return 0


# ---- tables ----


def duration(seconds):
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"


def parts(name):
    """What comes before the sizes, the sizes, and [type, precision, mode]."""
    what, _, rest = name.partition("/n:")
    sizes = re.findall(r"(?:^|/[md]:)(\d+)", rest)
    return what, [int(s) for s in sizes[:3]], rest.split("/")[-3:]


class Measured:
    """Cases and peers' rows by name, and why the others are missing."""

    def __init__(self, cuda, peers):
        self.cases = {m["name"]: m for m in cuda.get("benchmarks", [])}
        self.failures = {f["name"]: f["reason"] for f in cuda.get("failures", [])}
        self.stopped = cuda.get("stopped")
        self.rows = {(row["case"], row["peer"]): row for row in peers.get("rows", [])}
        self.peers_stopped = peers.get("stopped")

    def case(self, name):
        return self.cases.get(name), self.stopped or self.failures.get(name, "not run")

    def row(self, case, peer):
        row = self.rows.get((case, peer))
        if row is None:
            return None, self.peers_stopped or "not run"
        return (row, "") if row["status"] == "ok" else (None, f"{row['status']}: {row['reason']}")


def bar(work, wanted, found, reason, value, shown, least=None, below=None):
    """What is to be reached, `least` or something `below`, and how much of that was: met from 1 on. Or why nobody knows."""
    line = {"work": work, "bar": wanted, "value": None, "reached": None, "met": None, "found": f"not measured: {reason}"}
    if found is not None and value(found) > 0:
        v = value(found)
        line.update(value=v, found=shown(found, v), met=v >= least if below is None else v < below,
                    reached=v / least if below is None else below / v)
    elif found is not None:
        line["found"] = "not measured: no number"
    return line


def bars(m):
    lines = []

    def fraction(text, name, least):
        lines.append(bar(text, f"{least:.2f} of cuBLAS's rate", *m.case(name), lambda c: c["fraction"],
                         lambda c, v: f"{v:.2f} ({c['fraction_low']:.2f} - {c['fraction_high']:.2f}); "
                                      f"{c['of_tiles']:.2f} at the panels' shape, "
                                      f"{c['of_large']:.2f} of a large square; {duration(c['seconds'])}",
                         least=least))

    mmd = "mmd/gaussians5/gradient/n:16384/m:16384/"
    title = "MMD, 5 Gaussians, value and gradients, n = m = 16384"
    work = f"{title}, d = 512, 12 n^2 d operations, "
    fraction(work + "strict float32", mmd + "d:512/float/strict/cold", 0.80)
    fraction(work + "TF32", mmd + "d:512/float/tf32/cold", 0.60)
    fraction(work + "bfloat16, inputs in float", mmd + "d:512/float/bfloat16/cold", 0.60)
    fraction(work + "bfloat16, inputs in bfloat16", mmd + "d:512/bfloat16/bfloat16/cold", 0.60)
    for scalar, precision in (("float", "strict"), ("float", "tf32"), ("float", "bfloat16"), ("bfloat16", "bfloat16")):
        lines.append(bar(f"{title}, d = 64, {PRECISIONS[precision]}, inputs in {scalar}",
                         "0.50 of the larger of products and exponentials alone",
                         *m.case(f"{mmd}d:64/{scalar}/{precision}/cold"), lambda c: c["of_bound"],
                         lambda c, v: f"{v:.2f}; {c['of_bound_at_shape']:.2f} with cuBLAS's rate at the panels' shape; "
                                      f"{duration(c['seconds'])}",
                         least=0.50))
    for d, times in ((512, 3), (64, 10)):
        for precision in ("strict", "tf32"):
            row = m.row(f"mmd/16384x{d}/{precision}", "torch")
            against = f"the same, d = {d}, {PRECISIONS[precision]}, against PyTorch eager in the same precision"
            lines.append(bar(against, f"{times} times as fast", *row, lambda r: r["time_ratio"]["median"],
                             lambda r, v: f"{v:.1f} times ({r['time_ratio']['min']:.1f} - "
                                          f"{r['time_ratio']['max']:.1f}); {duration(r['peer_seconds'])} / "
                                          f"{duration(r['craft_seconds'])}",
                             least=times))
            lines.append(bar(against, "a twentieth of its memory", *row, lambda r: r.get("memory_ratio", 0),
                             lambda r, v: f"1/{v:.0f}", least=20))
    lines.append(bar("MMD, 5 Gaussians, value and gradients, n = m = 262144, d = 256",
                     "under 2 GB beyond inputs and gradients",
                     *m.case("mmd/gaussians5/gradient/n:262144/m:262144/d:256/float/tf32/cold"),
                     lambda c: c["extra_bytes"],
                     lambda c, v: f"{v / 1e9:.2f} GB; TF32, {duration(c['seconds'])}, "
                                  f"{c['fraction']:.2f} of cuBLAS's rate",
                     below=2e9))
    nce = "alignment/info_nce/gradient/n:65536/m:65536/d:768/"
    work = "symmetric InfoNCE with all gradients, n = 65536, d = 768, 8 n^2 d operations, bfloat16, "
    fraction(work + "inputs in float", nce + "float/bfloat16/cold", 0.60)
    fraction(work + "inputs in bfloat16", nce + "bfloat16/bfloat16/cold", 0.60)
    for n in (4, 8, 16, 32, 64, 128):
        name = f"objective/all_terms/n:{n}/m:100/d:512/float/strict/"
        others = {mode: m.case(name + mode)[0] for mode in ("graph_cold", "warm", "cold")}
        said = {"graph_cold": "a replay with nothing in cache", "warm": "plain calls", "cold": "one plain call"}
        lines.append(bar(f"whole objective, batch {n}, d = 512, one graph replay", "under 60 us",
                         *m.case(name + "graph"), lambda c: c["seconds"],
                         lambda c, v: ", ".join([duration(v)] + [f"{said[mode]} {duration(other['seconds'])}"
                                                                 for mode, other in others.items() if other]),
                         below=60e-6))
    return lines


def table(cases):
    lines = [
        "| case | n, m, d | type, precision | how | time (low - high) | TFLOP/s | of cuBLAS (low - high) |"
        " at the shape | of large square | of the bound | of copies | scratch memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in cases:
        what, size, (scalar, precision, mode) = parts(c["name"])
        lines.append(
            f"| {what} | {', '.join(map(str, size))} | {scalar}, {precision} | {mode} | {duration(c['seconds'])} "
            f"({duration(c['seconds_low'])} - {duration(c['seconds_high'])}) | {c['flops'] / 1e12:.3g} "
            f"| **{c['fraction']:.2f}** ({c['fraction_low']:.2f} - {c['fraction_high']:.2f}) | {c['of_tiles']:.2f} "
            f"| {c['of_large']:.2f} | {c['of_bound']:.2f} | {format(c['of_copies'], '.2f') if c['of_copies'] else ''} "
            f"| {c['extra_bytes'] / 1e6:.4g} MB |")
    return lines


def limits(cases):
    """Rates per precision and shape: they are measured beside every case, these are the medians."""
    found = {}
    for c in cases:
        _, (n, m, d), (scalar, precision, mode) = parts(c["name"])
        if mode != "cold":
            continue
        rows, columns = min(n, int(c["tile_rows"])), min(m, int(c["tile_columns"]))
        key = ("double" if scalar == "double" else PRECISIONS[precision], rows, columns, d)
        found.setdefault(key, []).append(c)
    middle = lambda group, name: sorted(c[name] for c in group)[len(group) // 2]  # noqa: E731
    lines = ["| products in | panel, d | cuBLAS there, TFLOP/s | large square | exponentials, 10^12/s | copies, GB/s |",
             "|---|---|---|---|---|---|"]
    for (precision, rows, columns, d), group in sorted(found.items()):
        lines.append(f"| {precision} | {rows} x {columns}, {d} | {middle(group, 'tiles_flops') / 1e12:.3g} "
                     f"| {middle(group, 'large_flops') / 1e12:.3g} | {middle(group, 'exponentials') / 1e12:.3g} "
                     f"| {middle(group, 'copy_bytes_per_second') / 1e9:.4g} |")
    return lines


def read(path, empty):
    try:
        return json.loads(path.read_text())
    except OSError:
        return {"stopped": empty}
    except json.JSONDecodeError as problem:
        return {"stopped": f"{path.name} is broken: {problem}"}


def report(options):
    cuda = read(options.out / "cuda.json", "there is no cuda.json")
    peers = read(options.out / "peers.json", "there is no peers.json")
    context, cases = cuda.get("context", {}), cuda.get("benchmarks", [])
    shown = ["device", "driver_version", "toolkit", "cuda_runtime", "multiprocessors", "clocks.max.sm", "power.limit",
             "compiler", "flags", "commit", "date"]
    shown = [f"{name.replace('_', ' ')} {str(context[name]).strip()}" for name in shown if context.get(name)]
    lines = ["; ".join(shown), ""]
    for part, what in ((cuda, "craft"), (peers, "peers")):
        if part.get("stopped"):
            lines += [f"**{what}: {part['stopped']}**", ""]
    measured = bars(Measured(cuda, peers))
    lines += ["## To reach", "", "| work | bar | measured | |", "|---|---|---|---|"]
    said = {True: "**met**", False: "not met", None: ""}
    lines += [f"| {line['work']} | {line['bar']} | {line['found']} | {said[line['met']]} |" for line in measured] + [""]
    if cases:
        lines += ["## Cases", "", *table(cases), "", "## Limits", "", *limits(cases), ""]
    if cuda.get("failures"):
        lines += ["## Not measured", "", *(f"* {f['name']}: {f['reason']}" for f in cuda["failures"]), ""]
    (options.out / "cuda.md").write_text("\n".join(lines))
    print("written:", *(str(options.out / name) for name in ("cuda.json", "cuda.md", "peers.json", "peers.md")
                        if (options.out / name).exists()))
    return 0


def main():
    parser = argparse.ArgumentParser(prog="gpu.py", description="The GPU's benchmarks: measure, report.")
    parser.add_argument("what", choices=["measure", "report"])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--program", type=pathlib.Path, help="craft_bench_cuda")
    parser.add_argument("--filter", default="", help="only cases in whose name this is found")
    parser.add_argument("--first", action="store_true", help="only the cases that the bars are about")
    parser.add_argument("--others", action="store_true", help="only those that they are not about")
    parser.add_argument("--small", action="store_true", help="hardly any rows: that everything runs")
    parser.add_argument("--limit", type=float, default=40, metavar="S", help="seconds a case may take (40)")
    parser.add_argument("--total", type=float, default=210, metavar="S", help="seconds for all cases (210)")
    parser.add_argument("--budget", type=float, default=0.5, metavar="S",
                        help="seconds for the repetitions of one (0.5)")
    options = parser.parse_args()
    if options.what == "measure" and options.program is None:
        parser.error("measure needs --program")
    sys.exit(measure(options) if options.what == "measure" else report(options))


if __name__ == "__main__":
    main()
