"""What tests/gpu --run keeps: one archive, written anew after every step, with results.json, a table and the logs."""

import importlib.util
import json
import os
import pathlib
import re
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMAT = 1  # of results.json

spec = importlib.util.spec_from_file_location("craft_bench_gpu", ROOT / "bench" / "gpu.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


class Results:
    def __init__(self, work, out, about):
        self.work, self.began = work, time.monotonic()
        self.data = {"format": FORMAT, **about, "finished": False, "seconds": 0, "steps": {}, "errors": [], "bars": [],
                     "tests": {}, "sanitizers": {}, "counters": {}, "cuda": {}, "peers": {}}
        name = re.sub(r"[^\w.]+", "-", f"results-{about['commit']}-{about['device']}").strip("-")
        self.archive = out / f"{name}.tar.gz"
        self.bars()

    # ---- what the steps tell ----

    def step(self, name, status, said="", seconds=0):
        self.data["steps"][name] = {"status": status, "said": said, "seconds": round(seconds, 1)}

    def error(self, step, name, text):
        self.data["errors"].append({"step": step, "name": name, "text": text})

    def benchmarks(self, step, measured):
        have = self.data["cuda"]
        known = {m["name"] for m in measured.get("benchmarks", [])}
        others = [m for m in have.get("benchmarks", []) if m["name"] not in known] if step == "cases" else []
        self.data["cuda"] = {**measured, "benchmarks": others + measured.get("benchmarks", [])}
        self.bars()

    def peers(self, step, measured):
        others = self.data["peers"].get("rows", []) if step == "compiled" else []
        known = {(row["case"], row["peer"]) for row in measured.get("rows", [])}
        rows = [row for row in others if (row["case"], row["peer"]) not in known] + measured.get("rows", [])
        self.data["peers"] = {**self.data["peers"], **measured, "rows": rows}
        self.bars()

    def bars(self):
        cuda, peers = self.data["cuda"], self.data["peers"]
        lines = bench.bars(bench.Measured({"stopped": None, **cuda}, {"stopped": None, **peers}))
        if self.data["emulated"]:
            lines = [{**line, "value": None, "reached": None, "met": None, "found": "not measured: emulated"} for line in lines]
        self.data["bars"] = lines

    def cases(self, panels, source, verdicts):
        self.data["tests"].setdefault(source, {}).setdefault(panels, {}).update(verdicts)

    def sanitizer(self, tool, what, verdict):
        self.data["sanitizers"].setdefault(tool, {})[what] = verdict

    def counters(self, kernel, values):
        self.data["counters"][kernel] = values

    # ---- what follows from it ----

    def counted(self):
        """Of each source and panels: how many passed, failed and were not run."""
        return {source: {panels: [list(verdicts.values()).count(v) for v in ("passed", "failed", "not run")]
                         for panels, verdicts in by_panels.items()}
                for source, by_panels in self.data["tests"].items()}

    def verdict_of_tests(self):
        sums = [sum(c) for c in zip(*(c for by_panels in self.counted().values() for c in by_panels.values()))] or [0, 0, 0]
        said = f"{sums[0]} passed, {sums[1]} failed, {sums[2]} not run"
        broken = any(e["step"] == "tests" for e in self.data["errors"])
        return ("passed" if sums[0] > 0 and not sums[1] and not sums[2] and not broken else "failed"), said

    def verdict_of_sanitizers(self):
        all_of_them = [v for by_name in self.data["sanitizers"].values() for v in by_name.values()]
        said = ", ".join(f"{all_of_them.count(v)} {v}" for v in ("passed", "failed", "not run"))
        return ("passed" if set(all_of_them) == {"passed"} else "failed"), said

    def bad(self):
        """Steps that failed or were not run, which the exit status is about."""
        return [name for name, step in self.data["steps"].items() if step["status"] in ("failed", "not run")]

    # ---- on disk ----

    def save(self):
        """All that is known, into one archive, which is replaced at once."""
        self.data["seconds"] = round(time.monotonic() - self.began, 1)
        (self.work / "results.json").write_text(json.dumps(self.data, indent=1) + "\n")
        (self.work / "table.txt").write_text(table(self))
        for name in ("cuda", "peers"):
            if self.data[name]:
                (self.work / f"{name}.json").write_text(json.dumps(self.data[name], indent=1) + "\n")
        part = self.archive.with_suffix(".part")
        with tarfile.open(part, "w:gz") as archive:
            archive.add(self.work, self.archive.name[:-len(".tar.gz")],
                        filter=lambda member: None if member.isfile() and member.size == 0 else member)
        os.replace(part, self.archive)


# ---- one screen ----


def table(results):
    data = results.data
    lines = [f"craft {data['commit']} on {data['device']}; driver {data['driver']}, toolkit {data['toolkit']}, "
             f"{data['architecture'] or 'emulated'}; {data['date']}; {data['seconds']:.0f} s of {60 * data['minutes']:.0f}"]
    if not data["finished"]:
        lines.append("NOT FINISHED: this is what was known when it ended")
    for name, step in data["steps"].items():
        if step["status"] != "not asked for":
            lines.append(f"  {name:11} {step['status']:8} {step['seconds']:6.1f} s  {step['said']}"[:200].rstrip())
    asked = data["steps"].get("bars", {}).get("status") != "not asked for"
    if asked and data["emulated"]:
        lines.append(f"bars: {len(data['bars'])}, not measured: emulated")
    elif asked:
        met = [line["met"] for line in data["bars"]]
        lines.append(f"bars: {met.count(True)} met, {met.count(False)} missed, {met.count(None)} not measured; "
                     "first how much of the bar is reached, 1 and more is all of it")
        for line in data["bars"]:
            how = {True: "met", False: "missed", None: "?"}[line["met"]]
            reached = "" if line["reached"] is None else f"{line['reached']:.2f}"
            lines.append(f"  {how:6} {reached:>5}  {line['work']}: {line['bar']}; {line['found']}"[:170])
    counted = results.counted()
    if counted:
        lines.append("tests by source, passed/failed/not run:  (w) as users find it, (s) small panels")
        cells = [f"{source} " + " ".join(f"({panels[0]}) {p}/{f}/{n}" for panels, (p, f, n) in by_panels.items())
                 for source, by_panels in counted.items() if any(map(sum, by_panels.values()))]
        width = max(map(len, cells)) + 2
        rows = -(-len(cells) // 3)
        lines += ["  " + "".join(f"{cell:{width}}" for cell in cells[row::rows]).rstrip() for row in range(rows)]
    for tool, by_name in data["sanitizers"].items():
        wrong = [f"{name} {verdict}" for name, verdict in by_name.items() if verdict != "passed"]
        lines.append(f"{tool}: {len(by_name) - len(wrong)} passed" + (f"; {', '.join(wrong)}" if wrong else ""))
    for kernel, values in data["counters"].items():
        lines.append(f"{kernel}: " + ", ".join(f"{what} {value}" for what, value in values.items()))
    errors = data["errors"]
    if errors:
        lines.append(f"errors: {len(errors)}")
    for step in dict.fromkeys(e["step"] for e in errors):
        of_step = [f"  {step}: {e['name']}: {e['text']}"[:220] for e in errors if e["step"] == step]
        lines += of_step[:8] + ([f"  {step}: and {len(of_step) - 8} more, in results.json"] if len(of_step) > 8 else [])
    bad = results.bad()
    lines.append(f"FAILED OR NOT RUN: {', '.join(bad)}" if bad else "nothing failed")
    return "\n".join(lines) + "\n"


# ---- docs/gpu.md from a folder of archives ----


def read_archive(path):
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith("/results.json"):
                data = json.load(archive.extractfile(member))
                if data.get("format") != FORMAT:
                    raise ValueError(f"{path.name}: results.json is of format {data.get('format')}, not {FORMAT}")
                if data["emulated"]:
                    raise ValueError(f"{path.name}: is of the emulated device, whose numbers mean nothing")
                return data
    raise ValueError(f"{path.name}: has no results.json")


def section(data):
    lines = [f"## {data['commit']} on {data['device']}", "",
             f"{data['date']}; driver {data['driver']}, CUDA {data['toolkit']}, {data['architecture']}, {data['compiler']}; "
             f"{data['seconds']:.0f} s" + ("" if data["finished"] else ", **ended before it was through**") + ".", "",
             "| step | result | seconds | |", "|---|---|---|---|"]
    lines += [f"| {name} | {step['status']} | {step['seconds']:.0f} | {step['said'].replace('|', '/')} |"
              for name, step in data["steps"].items() if step["status"] != "not asked for"]
    said = {True: "**met**", False: "missed", None: ""}
    lines += ["", "| work | bar | reached of it | measured | |", "|---|---|---|---|---|"]
    lines += [f"| {b['work']} | {b['bar']} | {'' if b['reached'] is None else format(b['reached'], '.2f')} | {b['found']} "
              f"| {said[b['met']]} |" for b in data["bars"]]
    rows = [row for row in data["peers"].get("rows", []) if row["status"] == "ok"]
    if rows:
        lines += ["", "| case | peer | its time over ours (least to most) | its memory over ours |", "|---|---|---|---|"]
        for r in rows:
            time_ratio, memory = r["time_ratio"], format(r["memory_ratio"], ".3g") if "memory_ratio" in r else ""
            lines.append(f"| {r['case']} | {r['peer']} | {time_ratio['median']:.2f} ({time_ratio['min']:.2f} to "
                         f"{time_ratio['max']:.2f}) | {memory} |")
    if data["tests"]:
        lines += ["", "| tests | panels | passed | failed | not run |", "|---|---|---|---|---|"]
        for source, by_panels in data["tests"].items():
            for panels, verdicts in by_panels.items():
                count = [list(verdicts.values()).count(v) for v in ("passed", "failed", "not run")]
                lines.append(f"| {source} | {panels} | " + " | ".join(map(str, count)) + " |")
    if data["sanitizers"]:
        lines += ["", "| compute-sanitizer | passed | failed | not run |", "|---|---|---|---|"]
        for tool, by_name in data["sanitizers"].items():
            cells = [", ".join(n for n, v in by_name.items() if v == verdict) for verdict in ("passed", "failed", "not run")]
            lines.append(f"| {tool} | " + " | ".join(cells) + " |")
    if data["counters"]:
        names = list(dict.fromkeys(what for values in data["counters"].values() for what in values))
        lines += ["", "| kernel | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        lines += [f"| {kernel} | " + " | ".join(values.get(name, "") for name in names) + " |"
                  for kernel, values in data["counters"].items()]
    left_out = [f"{source} ({panels}): {name}" for source, by_panels in data["tests"].items()
                for panels, verdicts in by_panels.items() for name, verdict in verdicts.items() if verdict == "not run"]
    if left_out:
        lines += ["", "Not run:", "", *(f"* {name}" for name in left_out)]
    if data["errors"]:
        lines += ["", "What went wrong:", ""]
        lines += [f"* {e['step']}: {e['name']}: `{e['text'].replace('`', ' ')[:300]}`" for e in data["errors"]]
    return lines + [""]


def report(folder, to):
    """docs/gpu.md of all archives, newest first."""
    archives = sorted(folder.glob("results-*.tar.gz"))
    if not archives:
        raise ValueError(f"there is no results-*.tar.gz in {folder}")
    runs = sorted(map(read_archive, archives), key=lambda data: data["date"], reverse=True)
    lines = ["# On GPUs", "",
             "Made by `tests/gpu --report` from archives that `tests/gpu --run` left ([cuda.md](cuda.md)); not to be edited.", ""]
    for data in runs:
        lines += section(data)
    to.write_text("\n".join(lines).rstrip() + "\n")
