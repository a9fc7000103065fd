"""tests/gpu --run: the steps, in their order, each with its share of the time. Whatever happens, what is known is on disk."""

import csv
import io
import json
import re
import shutil
import sys
import time
import xml.etree.ElementTree

from gpu_programs import Program, choose

# What runs under compute-sanitizer, which may slow a kernel down a thousand times: short cases that go through every kernel
# between them, as a name and what Catch2 is asked for; beside_cpu is a program of its own.
SANITIZED = [("beside_cpu", None), ("alignment", "[#alignment_test][reference]"), ("mmd", "MMD with sample weights*"),
             ("relative", "[#relative_test][reference]"), ("linear", "the linear-time form*"),
             ("anchors", "[#anchors_test][reference]"), ("bandwidth", "[#bandwidth_test][reference]"),
             ("objective", "[#objective_test][reference]")]
TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]

# The kernels whose counters are read, and a benchmark that launches each.
KERNELS = {
    "panel": ("^panel_kernel$", "^mmd/gaussians5/gradient/n:16384/m:16384/d:512/float/tf32/cold/"),
    "tensor": ("^tensor_kernel$", "^mmd/gaussians5/gradient/n:16384/m:16384/d:64/float/tf32/cold/"),
    "log_sum_exp": ("^log_sum_exp_kernel$", "^alignment/info_nce/gradient/n:65536/m:65536/d:768/float/bfloat16/cold/"),
}
COUNTERS = {
    "gpu__time_duration.sum": "time",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "of the multiprocessors' peak",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue slots busy",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps there",
    "smsp__inst_executed.sum": "instructions",
    "dram__bytes.sum": "bytes of memory",
    "launch__registers_per_thread": "registers",
}
EMULATED_CASES = r"^mmd/gaussians5/gradient/|^objective/all_terms/"  # of the emulated device: that they run


# ---- is it right at all ----


def right(run, limit):
    """A small program, three times: it compares with the CPU, and prints what must be the same bits."""
    outputs, until = [], time.monotonic() + limit
    for number in (1, 2, 3):
        program = run.wait(Program([run.program("gpu_beside_cpu")], run.logs / f"right-{number}.log", until - time.monotonic()))
        outputs.append(program)
        if program.why():
            apart = [line for line in program.text().splitlines() if " apart" in line]
            return "failed", "; ".join([program.why(), *apart[:3]])
    if len({program.log.read_text() for program in outputs}) > 1:
        return "failed", "not the same bits three times: see right-1.log, right-2.log and right-3.log"
    return "passed", "beside the CPU, three times the same bits"


# ---- benchmarks and peers: nothing runs beside them ----


def cuda_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def benchmarks(run, limit, name, choice):
    out = run.scratch / name
    program = run.program("craft_bench_emulated" if run.emulated else "craft_bench_cuda")
    if not program.exists():
        return "failed", f"there is no {program.relative_to(run.folder)}"
    choice = ["--small", "--filter", EMULATED_CASES] if run.emulated else choice

    def look():
        run.results.benchmarks(name, cuda_json(out / "cuda.json"))

    done = run.wait(Program([sys.executable, run.folder / "bench" / "gpu.py", "measure", "--program", program, "--out", out,
                             "--total", max(1, limit - 2), *choice], run.logs / f"{name}.log", limit,
                            {"CRAFT_COMMIT": run.results.data["commit"]}), look)
    look()
    measured = cuda_json(out / "cuda.json")
    for failure in measured.get("failures", []):
        run.results.error(name, failure["name"], failure["reason"])
    said = f"{len(measured.get('benchmarks', []))} measured"
    if done.why():
        return "failed", measured.get("stopped") or (f"{said}, {len(measured['failures'])} not" if measured.get("failures")
                                                     else f"{done.why()}; {said}")
    return "passed", said + (", emulated: no time means anything" if run.emulated else "")


def bars(run, limit):
    return benchmarks(run, limit, "bars", ["--first"])


def cases(run, limit):
    return benchmarks(run, limit, "cases", ["--others"])


def peers_rows(run, limit, name, peers, bad=("failed", "too slow", "not run")):
    """Rows of these peers; `bad`: what none may be for the step to pass."""
    path = run.scratch / f"{name}.json"

    def look():
        run.results.peers(name, cuda_json(path))

    caches = {"TORCHINDUCTOR_CACHE_DIR": str(run.scratch / "inductor"), "TRITON_CACHE_DIR": str(run.scratch / "triton")}
    done = run.wait(Program([run.python, run.folder / "bench" / "peers" / "gpu_peers.py", "--libraries", run.folder / "lib",
                             "--json", path, "--total", max(1, limit - 3), "--peers", *peers], run.logs / f"{name}.log", limit,
                            caches), look)
    look()
    found = cuda_json(path)
    late = [row for row in found.get("rows", []) if row["status"] in bad]
    without = sum(row["status"] in ("failed", "too slow", "not run") for row in found.get("rows", []))
    if run.emulated and done.status == 2 and found.get("stopped"):
        return "skipped", f"emulated; the script started and says: {found['stopped']}"
    for row in late:
        run.results.error(name, f"{row['case']} {row['peer']}", f"{row['status']}: {row['reason']}")
    said = f"{len(found.get('rows', [])) - without} rows" + (f", {without} without a result" if without else "")
    if done.why() or late:
        return "failed", found.get("stopped") or "; ".join(filter(None, [done.why(), said]))
    return "passed", said


def peers(run, limit):
    return peers_rows(run, limit, "peers", ["torch", "torch-tuned", "triton", "open_clip", "keops"])


def compiled(run, limit):
    if run.emulated:
        return "skipped", "emulated"
    if limit < 30:
        return "skipped", "no time was left"
    return peers_rows(run, limit, "compiled", ["torch.compile", "torch.compile-tuned"], ("failed",))


# ---- side by side: the whole test list, and the sanitizers ----


class Job:
    """What runs side by side with others, a program."""

    program = None
    share = 0  # seconds that it may have; less where those of all are over before

    def begin(self, left, share):
        self.share = share
        self.start(min(left, share))

    @property
    def cut_short(self):
        return self.program.over and self.program.limit < self.share

    def look(self):
        """Takes over what it has told so far."""


class Cases(Job):
    """Some cases of one source, with the panels that users get (whole) or small ones; Catch2 writes what it knows as it goes."""

    def __init__(self, run, panels, source, names, part=1):
        self.run, self.panels, self.source, self.names, self.part = run, panels, source, names, part
        self.lane, self.name = "tests", f"{panels}-{source}" + (f"-{part}" if part > 1 else "")

    def start(self, limit):
        chosen = choose(self.names, self.run.scratch / f"{self.name}.txt")
        environment = {"CRAFT_TEST_AS_USERS_FIND_IT": "1"} if self.panels == "whole" else {}
        self.program = Program([self.run.program("craft_gpu_tests"), *chosen, "-r", "xml", "-d", "yes", "-w", "NoAssertions"],
                               self.run.logs / f"{self.name}.xml", limit, environment)

    def look(self):
        """What its report says of each case, and which one it is at, as far as it has got."""
        verdicts, texts, at = {}, {}, None
        try:
            with self.program.log.open("rb") as report:
                for event, element in xml.etree.ElementTree.iterparse(report, ("start", "end")):
                    if element.tag != "TestCase":
                        continue
                    at = element.get("name") if event == "start" else None
                    if event == "end":
                        good = element.find("OverallResult").get("success") == "true"
                        verdicts[element.get("name")] = "passed" if good else "failed"
                        said = [e.text or "" for e in element.iter()
                                if e.tag in ("Original", "Expanded", "Exception", "FatalErrorCondition", "Info", "Failure")]
                        texts[element.get("name")] = " ".join(" ".join(said).split())[:400]
        except xml.etree.ElementTree.ParseError:
            pass  # it is not at its end yet, or never got there
        self.run.results.cases(self.panels, self.source, verdicts)
        return verdicts, texts, at

    def finish(self):
        verdicts, texts, at = self.look()
        what = f"{self.source} ({self.panels})"
        for name, verdict in verdicts.items():
            if verdict == "failed":
                self.run.results.error("tests", f"{what}: {name}", texts[name])
        rest = [name for name in self.names if name not in verdicts]
        why = self.program.why()
        if not rest:
            if why and "failed" not in verdicts.values():
                self.run.results.error("tests", what, why)
            return []
        if self.cut_short:
            return []  # the time of all was over: no fault of the case that was running
        if at in rest:
            self.run.results.cases(self.panels, self.source, {at: "failed"})
            self.run.results.error("tests", f"{what}: {at}", f"{why or 'no result'}, in this case")
            rest.remove(at)
        elif "failed" not in verdicts.values():
            self.run.results.error("tests", what, why or f"{len(rest)} cases without a result")
        # The others once more, without what hangs or crashes, as long as they get fewer.
        return [Cases(self.run, self.panels, self.source, rest, self.part + 1)] if 0 < len(rest) < len(self.names) else []


class Sanitized(Job):
    def __init__(self, run, sanitizer, tool, name, spec):
        self.run, self.sanitizer, self.tool, self.spec = run, sanitizer, tool, spec
        self.lane, self.name, self.what = "sanitizers", f"{tool}-{name}", name

    def start(self, limit):
        command = [self.run.program("craft_gpu_tests"), "-#", self.spec] if self.spec else [self.run.program("gpu_beside_cpu")]
        self.program = Program([self.sanitizer, "--tool", self.tool, "--error-exitcode", "77", "--print-limit", "10", *command],
                               self.run.logs / f"{self.name}.log", limit)

    def finish(self):
        if self.cut_short:
            return []  # it stays "not run"
        text = self.program.text()
        found = re.findall(r"^========= (.*)", text, flags=re.M)
        if re.search(r"No test(s ran| cases matched)", text):
            why = "there is no such case"
        elif self.program.why():
            why = "; ".join([self.program.why(), *[line for line in found if "COMPUTE-SANITIZER" not in line][:3]])
        elif not re.search(r"(ERROR|RACECHECK) SUMMARY: 0 ", text):
            why = "it says no summary"
        else:
            why = None
        self.run.results.sanitizer(self.tool, self.what, "failed" if why else "passed")
        if why:
            self.run.results.error("sanitizers", f"{self.tool}, {self.what}", why)
        return []


def side_by_side(run, limit):
    """Tests four at a time, the panels that users get before small ones; and beside them sanitizers."""
    until = time.monotonic() + limit
    lanes = {"tests": 2 if run.emulated else 4, "sanitizers": 6}
    waiting, running = [], []
    if "tests" in run.choice.steps:
        for panels in ("whole", "small"):
            for source, names in run.built["cases"].items():
                names = [name for name in names if re.search(run.choice.filter, f"{source}: {name}")]
                if names:
                    run.results.cases(panels, source, dict.fromkeys(names, "not run"))
                    waiting.append(Cases(run, panels, source, names))
    sanitizer = run.tool("compute-sanitizer") if "sanitizers" in run.choice.steps else None
    if sanitizer:
        waiting += [Sanitized(run, sanitizer, tool, *one)
                    for tools in (TOOLS[:2], TOOLS[2:]) for one in SANITIZED for tool in tools]
        for job in waiting:
            if job.lane == "sanitizers":
                run.results.sanitizer(job.tool, job.what, "not run")
    try:
        while running or waiting:
            for job in [job for job in running if job.program.ended()]:
                running.remove(job)
                waiting = job.finish() + waiting
            left = until - time.monotonic()
            for job in list(waiting) if left > 2 else []:
                if sum(other.lane == job.lane for other in running) < lanes[job.lane]:
                    waiting.remove(job)
                    # None may take it all: what hangs must leave time for the others.
                    job.begin(left - 1, 0.6 * limit)
                    running.append(job)
            if left <= 2 and not running:
                break
            if time.monotonic() - run.saved > 2:
                for job in running:
                    job.look()
                run.save_now_and_then()
            time.sleep(0.05)
    finally:
        for job in running:
            if job.program.status is None:
                job.program.kill()
    verdicts = {"tests": run.results.verdict_of_tests(), "sanitizers": run.results.verdict_of_sanitizers()}
    if not sanitizer:
        verdicts["sanitizers"] = ("skipped", "emulated" if run.emulated else "there is no compute-sanitizer")
    return verdicts


# ---- counters ----


def counters(run, limit):
    ncu = run.tool("ncu")
    if not ncu:
        return "skipped", "emulated" if run.emulated else "there is no ncu"
    until, bench = time.monotonic() + limit, run.program("craft_bench_emulated" if run.emulated else "craft_bench_cuda")
    missing = []
    for k, (name, (kernel, case)) in enumerate(KERNELS.items()):
        done = run.wait(Program([ncu, "--csv", "--metrics", ",".join(COUNTERS), "--kernel-name", f"regex:{kernel}",
                                 "--launch-skip", "3", "--launch-count", "1", "--kill", "yes",
                                 bench, f"--benchmark_filter={case}", "--budget=0"],
                                run.logs / f"ncu-{name}.log", (until - time.monotonic()) / (len(KERNELS) - k)))
        if "ERR_NVGPUCTRPERM" in done.text():
            return "skipped", "this machine permits no counters (ERR_NVGPUCTRPERM)"
        table = done.text()[max(0, done.text().find('"ID"')):]
        found = {row["Metric Name"]: f"{row['Metric Value']} {row['Metric Unit']}".strip()
                 for row in csv.DictReader(io.StringIO(table)) if row.get("Metric Name") in COUNTERS and row.get("Metric Value")}
        if found:
            run.results.counters(name, {COUNTERS[metric]: value for metric, value in found.items()})
        else:
            missing.append(name)
            run.results.error("counters", name, done.why() or "ncu says no counters: was the kernel launched?")
    return ("failed", f"none of {', '.join(missing)}") if missing else ("passed", f"{len(KERNELS)} kernels")


# Name, function and share. `tests` and `sanitizers` run side by side; `compiled` gets what is left; `cases`, all the other
# benchmarks, is for those who ask.
STEPS = [("right", right, 20), ("bars", bars, 110), ("peers", peers, 90), ("cases", cases, 110), ("tests", side_by_side, 230),
         ("sanitizers", None, 0), ("counters", counters, 40), ("compiled", compiled, 5)]
DEFAULT = [name for name, _, _ in STEPS if name != "cases"]


def run_all(run):
    """All steps that are chosen, in their order. What a step does not use of its time is the later ones'."""
    for name, _, _ in STEPS:
        run.results.step(name, *(("not run", "the run ended before") if name in run.choice.steps else ("not asked for", "")))
    run.results.save()
    try:
        todo = [(name, function, share) for name, function, share in STEPS
                if function and (name in run.choice.steps or (name == "tests" and "sanitizers" in run.choice.steps))]
        for k, (name, function, share) in enumerate(todo):
            # Ten seconds at least, for a program that loads cuBLAS from a disk.
            limit = min(max(10, run.left() * share / sum(s for _, _, s in todo[k:])), run.left())
            if limit < 1:
                run.results.step(name, "skipped" if name == "compiled" else "not run", "no time was left")
                continue
            print(f"== {name}: at most {limit:.0f} s of the {run.left():.0f} that are left", flush=True)
            began = time.monotonic()
            found = function(run, limit)
            for step, (status, said) in (found if isinstance(found, dict) else {name: found}).items():
                if step in run.choice.steps:
                    run.results.step(step, status, said, time.monotonic() - began)
            run.results.save()
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
        run.results.save()
