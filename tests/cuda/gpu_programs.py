"""How tests/gpu runs programs: with a limit, in a session that is killed as a whole, while what is known goes to disk."""

import ctypes
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

LIBC = ctypes.CDLL(None)


def choose(names, file):
    """What makes Catch2 run these cases and no others; a comma would end a name, a bracket begin a tag."""
    file.write_text("".join(re.sub(r'([,\[\]"\\])', r"\\\1", name) + "\n" for name in names))
    return ["-f", file]


def die_with_parent():
    """In a child before it starts: it is killed when we are, even by a signal that we cannot catch (PR_SET_PDEATHSIG)."""
    LIBC.prctl(1, signal.SIGKILL)


class Program:
    """A command in a session of its own with its output in a file; killed with its children when its time is over."""

    def __init__(self, command, log, limit, environment=None):
        self.log, self.started, self.over = log, time.monotonic(), False
        self.limit, self.status, self.seconds, self.trouble = limit, None, 0, None
        self.errors = log.with_suffix(".stderr")
        try:
            with log.open("wb") as out, self.errors.open("wb") as errors:
                self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
                                                start_new_session=True, preexec_fn=die_with_parent,
                                                env={**os.environ, **(environment or {})})
        except OSError as problem:
            self.process, self.status = None, 127
            self.trouble = f"{pathlib.Path(command[0]).name} cannot be started: {problem.strerror}"

    def ended(self):
        if self.status is None:
            if not self.over and time.monotonic() - self.started > self.limit:
                self.over = True
                self.kill()
            self.status = self.process.poll()
            self.seconds = time.monotonic() - self.started
        return self.status is not None

    def kill(self):
        for what, patience in ((signal.SIGTERM, 1.5), (signal.SIGKILL, 5)):
            try:
                os.killpg(self.process.pid, what)
                self.process.wait(patience)
            except ProcessLookupError:
                pass
            except subprocess.TimeoutExpired:
                continue
        self.ended()

    def text(self):
        return self.log.read_text(errors="replace") + self.errors.read_text(errors="replace")

    def why(self):
        """Why it is not as it should be, or nothing."""
        if self.trouble or self.over:
            return self.trouble or f"out of time after {self.seconds:.0f} s"
        if self.status == 0:
            return None
        said = [line for line in self.errors.read_text(errors="replace").splitlines()
                if line.strip() and not line.startswith("seconds of CPU")]
        how = f"ended by signal {-self.status}" if self.status < 0 else f"ended with status {self.status}"
        return how + (f": {said[-1]}" if said else "")


class Run:
    """One run: its folder, its time, its results; and how programs are run in it."""

    def __init__(self, folder, built, results, minutes, choice, python, tools):
        self.folder, self.built, self.results, self.python = folder, built, results, python
        self.emulated = built["emulated"]
        self.deadline = time.monotonic() + 60 * minutes
        self.choice = choice
        self.logs = results.work / "logs"
        self.logs.mkdir()
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="craft-gpu-"))
        self.tools = tools
        self.saved = 0

    def left(self):
        return max(0, self.deadline - time.monotonic())

    def program(self, name):
        return self.folder / "bin" / name

    def tool(self, name):
        """A tool of the CUDA toolkit; not for an emulated device, unless a folder of stand-ins is given."""
        if self.tools:
            return shutil.which(name, path=self.tools)
        places = ["/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer"]
        return None if self.emulated else shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *places]))

    def save_now_and_then(self):
        if time.monotonic() - self.saved > 2:
            self.results.save()
            self.saved = time.monotonic()

    def wait(self, program, look=lambda: None):
        try:
            while not program.ended():
                time.sleep(0.05)
                if time.monotonic() - self.saved > 2:
                    look()
                    self.save_now_and_then()
        finally:
            if program.status is None:
                program.kill()
        return program
