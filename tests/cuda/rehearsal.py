#!/usr/bin/env python3
"""The GPU run rehearsed on the emulated device: tests/gpu --build, the folder carried elsewhere, --run there; then once more for
each fault that such a run may meet, which must be named in the table and in the archive and end with status 1.

    rehearsal.py BUILD WORK [PROGRAM...]    BUILD: a build folder with craft_gpu_emulated, which are the programs; WORK: made anew
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import gpu_build  # noqa: E402

GPU = HERE.parent / "gpu"
# Few cases that run for seconds, of two sources, with reference values, and with a comma in a name.
CHOICE = r"^(bandwidth: (the scales of public|where the rule)|alignment_scale: )"

# What stands in for the toolkit's tools. The first only looks whether there is something to run it on.
SANITIZER = """#!/bin/sh
tool=$2
shift 6
case $1 in
  */craft_gpu_tests) [ -n "$("$@" --list-test-names-only)" ] || echo "No test cases matched" ;;
  *) [ -x "$1" ] || exit 1 ;;
esac
if [ "$tool" = "$BROKEN_TOOL" ]; then
  echo "========= COMPUTE-SANITIZER"
  echo "========= Error: Race reported between Write access at panel_kernel"
  echo "========= ERROR SUMMARY: 1 error"
  exit 77
fi
echo "========= ERROR SUMMARY: 0 errors"
"""
NCU = """#!/bin/sh
echo "==PROF== Connected to process 1"
echo '"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
echo '"0","1","panel_kernel","gpu__time_duration.sum","usecond","63.5"'
echo '"0","1","panel_kernel","launch__registers_per_thread","register/thread","96"'
"""
# A test program that reports one case and hangs in the next, with a child of its own.
ASLEEP = f"9876.{os.getpid()}"  # seconds, by which its child is known
HANGS = """#!/bin/sh
while [ "$1" != -f ]; do shift; done
first=$(sed -n '1{s/[\\]//g;p}' "$2") second=$(sed -n '2{s/[\\]//g;p}' "$2")
echo "<?xml version=\\"1.0\\"?><Catch><Group><TestCase name=\\"$first\\"><OverallResult success=\\"true\\"/></TestCase>"
echo "<TestCase name=\\"$second\\"> "
sleep ASLEEP &
wait
""".replace("ASLEEP", ASLEEP)


def check(what, *details):
    if not what:
        sys.exit("rehearsal.py: " + "\n".join(map(str, details)))


def program(path, text):
    path.unlink(missing_ok=True)  # in a copy made of links it is another's file too
    path.write_text(text)
    path.chmod(0o755)


def left_running(word):
    """Processes with this word in their command: what outlived a run."""
    found = []
    for command in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes().split(b"\0")
        except OSError:
            continue
        found += [int(command.parent.name)] if str(word).encode() in words else []
    return found


class Rehearsal:
    def __init__(self, build, work):
        self.build, self.work = build, work
        shutil.rmtree(work, ignore_errors=True)
        self.folder = work / "elsewhere" / "carried"
        self.tools = work / "tools"
        self.tools.mkdir(parents=True)
        program(self.tools / "compute-sanitizer", SANITIZER)
        program(self.tools / "ncu", NCU)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("CRAFT_")}
        self.copies = 0

    def made(self):
        """As one who builds it, carries it elsewhere, and has nothing of it where it was."""
        self.call(0, GPU, "--build", self.work / "made", "--emulated", "--cmake", self.build)
        shutil.copytree(self.work / "made", self.folder)
        (self.work / "made").rename(self.work / "gone")

    def copy(self):
        self.copies += 1
        to = self.work / "elsewhere" / f"copy{self.copies}"
        shutil.copytree(self.folder, to, copy_function=os.link)
        return to

    def call(self, status, *command, **more):
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              cwd=self.work, env={**self.environment, **more})
        check(done.returncode == status, f"{' '.join(map(str, command))}: status {done.returncode}, not {status}", done.stdout)
        return done.stdout

    def run(self, folder, status, *options, minutes=8, **more):
        """What it printed, and what is in its archive."""
        out = self.work / "out" / f"{folder.name}-{len(list((self.work / 'out').glob('*')))}"
        printed = self.call(status, folder / "tests" / "gpu", "--run", "--minutes", minutes, "--filter", CHOICE, "--tools",
                            self.tools, "--out", out, *options, **more)
        data, table, names = self.archive(out)
        check(data["finished"] and printed.endswith(table), "the table is not what the archive says", printed, table)
        check(data["seconds"] < 60 * minutes + 4, f"{data['seconds']} s are more than {minutes} minutes")
        return printed, data, names

    @staticmethod
    def archive(out):
        files = list(out.glob("*.gz"))  # beside it may lie what a run that was killed was writing
        check(len(files) == 1 and files[0].name.startswith("results-") and files[0].name.endswith("-emulated.tar.gz"), files)
        with tarfile.open(files[0]) as archive:
            names = [name.partition("/")[2] for name in archive.getnames()]
            top = files[0].name[:-len(".tar.gz")]
            data, table = (archive.extractfile(f"{top}/{name}").read().decode() for name in ("results.json", "table.txt"))
        return json.loads(data), table, names

    def start_and_end(self, folder, number):
        """Of a run that hangs in the test list: ended from outside once it has got there."""
        out = self.work / "out" / f"{folder.name}-{number}"
        process = subprocess.Popen([folder / "tests" / "gpu", "--run", "--minutes", "8", "--filter", CHOICE, "--out", out,
                                    "--only", "right", "tests"], env=self.environment, stdout=subprocess.DEVNULL)
        for _ in range(300):
            time.sleep(0.2)
            tests = self.archive(out)[0]["tests"] if list(out.glob("*.gz")) else {}
            verdicts = [v for by_panels in tests.values() for cases in by_panels.values() for v in cases.values()]
            if "passed" in verdicts:
                break
        process.send_signal(number)
        status = process.wait(10)
        data, table, _ = self.archive(out)
        check(status != 0 and not data["finished"] and "NOT FINISHED" in table, status, table)
        check(data["steps"]["right"]["status"] == "passed" and data["steps"]["tests"]["status"] == "not run", table)
        check("passed" in verdicts, "the archive has nothing of the test list", table)
        time.sleep(0.5)


def named(printed, *parts):
    for part in parts:
        check(part in printed, f"the table does not name {part!r}", printed)


def green(r):
    printed, data, names = r.run(r.folder, 0)
    steps = {name: step["status"] for name, step in data["steps"].items()}
    check(steps == {"right": "passed", "bars": "passed", "peers": "skipped", "cases": "not asked for", "tests": "passed",
                    "sanitizers": "passed", "counters": "passed", "compiled": "skipped"}, steps, printed)
    check(data["emulated"] and data["device"] == "emulated" and data["commit"] not in ("", "unknown"), data["commit"])
    check(data["bars"] and all(b["met"] is None and b["found"] == "not measured: emulated" for b in data["bars"]), printed)
    check(data["cuda"]["benchmarks"] and not data["errors"], data["errors"])
    check(data["cuda"]["context"]["commit"] == data["commit"], data["cuda"]["context"])
    for source in ("bandwidth", "alignment_scale"):
        for panels in ("whole", "small"):
            verdicts = data["tests"][source][panels]
            check(len(verdicts) > 1 and set(verdicts.values()) == {"passed"}, source, panels, verdicts)
    check(sorted(data["sanitizers"]) == ["initcheck", "memcheck", "racecheck", "synccheck"], data["sanitizers"])
    check(data["counters"]["panel"] == {"time": "63.5 usecond", "registers": "96 register/thread"}, data["counters"])
    check({"results.json", "table.txt", "cuda.json", "peers.json", "logs/right-1.log", "logs/bars.log",
           "logs/whole-bandwidth.xml", "logs/memcheck-beside_cpu.log"} <= set(names), names)
    check(len(printed.splitlines()) < 60, "more than a screen", printed)


def faults(r):
    folder = r.copy()  # a case that fails, by data that are wrong
    reference = folder / "tests" / "reference" / "mmd.json"
    records = json.loads(reference.read_text())
    for record in records:
        if "aux" in record:
            record["aux"] = {name: value * 1.001 if isinstance(value, float) else value for name, value in record["aux"].items()}
    program(reference, json.dumps(records))
    named(r.run(folder, 1, "--only", "tests")[0], "tests: bandwidth (whole): ", "FAILED OR NOT RUN: tests")

    folder = r.copy()  # programs that are not there
    (folder / "bin" / "gpu_beside_cpu").unlink()
    (folder / "bin" / "craft_bench_emulated").unlink()
    named(r.run(folder, 1, "--only", "right", "bars")[0], "gpu_beside_cpu cannot be started: No such file or directory",
          "there is no bin/craft_bench_emulated", "FAILED OR NOT RUN: right, bars")

    folder = r.copy()  # other bits on every run
    program(folder / "bin" / "gpu_beside_cpu", "#!/bin/sh\ndate +%N\n")
    named(r.run(folder, 1, "--only", "right")[0], "not the same bits three times")

    # A find of a sanitizer.
    named(r.run(r.folder, 1, "--only", "sanitizers", BROKEN_TOOL="racecheck")[0], "racecheck: 0 passed; beside_cpu failed",
          "Race reported between Write access at panel_kernel", "FAILED OR NOT RUN: sanitizers")

    folder = r.copy()  # a program that hangs, with a child: the run ends in its time, and says where it was
    program(folder / "bin" / "craft_gpu_tests", HANGS)
    printed, data, _ = r.run(folder, 1, "--only", "right", "tests", minutes=0.3)
    second = list(data["tests"]["alignment_scale"]["whole"])[1]
    named(printed, f"alignment_scale (whole): {second}"[:60], "out of time after", "in this case", "FAILED OR NOT RUN: tests")
    check("not run" in data["tests"]["alignment_scale"]["small"].values(), printed)

    crashing = r.copy()  # one that crashes in every second case: the others are run all the same
    program(crashing / "bin" / "craft_gpu_tests", HANGS.replace(f"sleep {ASLEEP} &\nwait", "kill -SEGV $$"))
    printed, data, _ = r.run(crashing, 1, "--only", "tests")
    named(printed, "ended by signal 11, in this case")
    check(sorted(set(data["tests"]["alignment_scale"]["whole"].values())) == ["failed", "passed"], printed)

    r.start_and_end(folder, signal.SIGTERM)  # the hanging one, ended from outside
    check(not left_running(ASLEEP), f"left running: {left_running(ASLEEP)}")
    r.start_and_end(folder, signal.SIGKILL)  # without a chance to say something: its children end with it, theirs do not
    check(not left_running(folder / "bin" / "craft_gpu_tests"), "a child outlived the run")
    for process in left_running(ASLEEP):
        os.kill(process, signal.SIGKILL)


def folders(r):
    """What the folder itself must be."""
    printed = r.call(1, GPU, "--build", r.work / "path", "--emulated", "--cmake", r.build, CRAFT_COMMIT=str(r.build))
    named(printed, "built.json: has a path of this machine in it", str(r.build))
    named(r.call(1, GPU, "--build", r.tools, "--emulated", "--cmake", r.build), "is not empty, and not made by tests/gpu")
    named("\n".join(gpu_build.problems_of(r.folder, [r.build], True, 1 << 20)[0]), "more than 1: bin/craft_gpu_tests")
    folder = r.copy()
    next((folder / "lib").glob("libbenchmark*")).unlink()
    named("\n".join(gpu_build.problems_of(folder, [r.build], True)[0]), "craft_bench_emulated: needs libbenchmark.so")
    (r.work / "build.ninja").write_text("  LINK_LIBRARIES = -lcudart -lcudart_static\n")
    named("\n".join(gpu_build.two_runtimes(r.work)), "links cudart_static beside the shared runtime")


def report(r):
    """docs/gpu.md of an archive with invented contents, in a folder of its own; none of an emulation."""
    first = r.work / "out" / "carried-0"
    data, _, _ = r.archive(first)
    data.update(emulated=False, device="INVENTED", commit="0000000", architecture="sm_90", toolkit="13.0", driver="0")
    data["bars"][0].update(value=0.81, reached=1.01, met=True, found="0.81 invented")
    archives = r.work / "archives"
    (archives / "results-x").mkdir(parents=True)
    (archives / "results-x" / "results.json").write_text(json.dumps(data))
    with tarfile.open(archives / "results-0000000-INVENTED.tar.gz", "w:gz") as archive:
        archive.add(archives / "results-x", "results-x")
    r.call(0, GPU, "--report", archives, "--out", r.work)
    text = (r.work / "gpu.md").read_text()
    named(text, "## 0000000 on INVENTED", "| 1.01 | 0.81 invented | **met** |", "| bandwidth | whole |",
          "| racecheck | beside_cpu", "| panel | 63.5 usecond | 96 register/thread |")
    shutil.copy(next(first.iterdir()), archives)
    named(r.call(1, GPU, "--report", archives, "--out", r.work), "emulated device, whose numbers mean nothing")


def main():
    r = Rehearsal(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve())
    for part in (Rehearsal.made, green, faults, folders, report):
        began = time.monotonic()
        part(r)
        print(f"{part.__name__}: {time.monotonic() - began:.0f} s", flush=True)
    used = os.times()
    print(f"seconds of CPU: {used.children_user + used.children_system + used.user + used.system:.2f}")


if __name__ == "__main__":
    main()
