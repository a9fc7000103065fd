"""tests/gpu --build: compiles what needs a GPU, on a machine without one, into a folder that can be carried to another."""

import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from gpu_programs import choose

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 50 << 20  # bytes of the folder: what is carried to a machine that is at hand for minutes
SEARCH = "$ORIGIN/../lib:/usr/local/cuda/lib64:/usr/local/cuda/targets/x86_64-linux/lib"
# What every Linux machine has, and what the CUDA toolkit brings. Everything else must lie in the folder.
SYSTEM = r"(ld-linux.*|libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s)\.so.*"
TOOLKIT = r"lib(cudart|cublas|cublasLt)\.so\.\d+"


class Trouble(Exception):
    """What the user is told, without a traceback."""


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def commit():
    known = os.environ.get("CRAFT_COMMIT", "")
    return known or said("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12") or "unknown"


def nvcc():
    found = os.environ.get("CUDACXX") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not os.access(found, os.X_OK):
        raise Trouble("there is no nvcc: the CUDA toolkit must be on the PATH, in /usr/local/cuda or named by CUDACXX")
    return found


def compile_all(build, emulated, arch, component):
    options = {"CMAKE_BUILD_TYPE": "Release", "CMAKE_CXX_STANDARD": "17", "CRAFT_TESTS": "ON", "CRAFT_BENCH": "ON",
               "CRAFT_EXAMPLES": "OFF", "CRAFT_INSTALL": "OFF", "CRAFT_CUDA_CHECKS": "OFF", "CRAFT_PACKAGE_TESTS": "OFF"}
    if emulated:
        options.update(CRAFT_EMULATED="ON", CRAFT_CUDA="OFF")
    else:
        options.update(CRAFT_EMULATED="OFF", CRAFT_CUDA="ON", CRAFT_TEST_GPU="ON", CRAFT_BENCH_GPU="ON",
                       CRAFT_TEST_LIST="none", CMAKE_CUDA_COMPILER=nvcc(), CMAKE_CUDA_ARCHITECTURES=f"{arch}-real")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    commands = [["cmake", "-S", str(ROOT), "-B", str(build), *generator, *(f"-D{k}={v}" for k, v in options.items())],
                ["cmake", "--build", str(build), "--parallel", str(os.cpu_count()), "--target", component]]
    build.mkdir(parents=True, exist_ok=True)
    log = build / "build.log"
    with log.open("w") as to:
        for command in commands:
            try:
                status = subprocess.run(command, stdout=to, stderr=subprocess.STDOUT).returncode
            except FileNotFoundError as problem:
                raise Trouble(f"there is no {command[0]}") from problem
            if status != 0:
                raise Trouble("\n".join([*log.read_text().splitlines()[-40:], f"it does not compile; all of it is in {log}"]))


def cases_of(program):
    """Catch2's cases by source, which also shows that the program finds its libraries."""
    tagged = subprocess.run([str(program), "-#", "--list-tags"], capture_output=True, text=True)
    sources = re.findall(r"\[#(\w+)_test\]", tagged.stdout)
    if not sources:
        raise Trouble(f"{program.name} does not list its cases: {tagged.stderr.strip() or tagged.stdout.strip()}")

    def listed(*choice):
        for listing in (["--list-test-names-only"], ["--list-tests", "--verbosity", "quiet"]):  # Catch2 2, 3
            names = subprocess.run([str(program), *map(str, choice), *listing], capture_output=True, text=True).stdout
            if names.strip():
                return names.strip().splitlines()
        return []

    cases = {source: listed("-#", f"[#{source}_test]~[.]") for source in sources}
    with tempfile.TemporaryDirectory() as folder:
        for source, names in cases.items():
            again = listed(*choose(names, pathlib.Path(folder) / "names.txt"))
            if sorted(again) != sorted(names) or not names:
                raise Trouble(f"{source}: asked for by name, these cases differ: {sorted(set(again) ^ set(names)) or 'none'}")
    return cases


# ---- what must be true of the folder ----


def dynamic(program):
    """Its libraries and where it looks for them."""
    text = subprocess.run(["readelf", "-d", str(program)], capture_output=True, text=True, check=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", text), ":".join(re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", text))


def problems_of(folder, paths, emulated, limit=LIMIT):
    """What keeps the folder from working elsewhere: each as a line that names the file."""
    found, total = [], 0
    names = sorted(map(str, paths), key=len, reverse=True)  # of a folder in another the whole name
    outside = re.compile(rb"(?<![\w.])(" + b"|".join(re.escape(name.encode()) for name in names) + rb")(?![\w-])")
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        name, content = file.relative_to(folder), file.read_bytes()
        total += len(content)
        there = outside.search(content)
        if there:
            found.append(f"{name}: has a path of this machine in it, {there.group(1).decode()}")
        if content[:4] != b"\x7fELF":
            continue
        libraries, search = dynamic(file)
        own = [library for library in libraries if (folder / "lib" / library).exists()]
        found += [f"{name}: needs {library}, which another machine may not have" for library in libraries
                  if library not in own and not re.fullmatch(SYSTEM, library)
                  and (emulated or not re.fullmatch(TOOLKIT, library))]
        runtimes = [library for library in libraries if "cudart" in library]
        if not emulated and "libcublas" in "".join(libraries) and len(runtimes) != 1:
            found.append(f"{name}: needs one CUDA runtime, the shared one, and has {runtimes or 'none'}")
        if (own or runtimes) and search != SEARCH:
            found.append(f"{name}: looks for libraries in {search or 'no folder of its own'}")
    if total > limit:
        sizes = sorted(((f.stat().st_size, f) for f in folder.rglob("*") if f.is_file()), reverse=True)[:5]
        largest = ", ".join(f"{f.relative_to(folder)} {size / 2**20:.1f}" for size, f in sizes)
        found.append(f"the folder has {total / 2**20:.1f} MiB, more than {limit / 2**20:.0f}: {largest}")
    return found, total


def two_runtimes(build):
    """Link lines that name the static CUDA runtime too."""
    files = [build / "build.ninja"] if (build / "build.ninja").exists() else list(build.rglob("link.txt"))
    return [f"{file}: links cudart_static beside the shared runtime: {line.strip()[:200]}" for file in files
            for line in file.read_text().splitlines() if "cudart_static" in line]


def newest_symbols(folder):
    """The newest versions of the system's libraries that something asks for: what a machine must have."""
    versions = {}
    for file in sorted([*folder.glob("bin/*"), *folder.glob("lib/*")]):
        for name, version in re.findall(r"Name: (GLIBC|GLIBCXX)_([\d.]+)", said("readelf", "-V", str(file))):
            versions[name] = max(versions.get(name, "0"), version, key=lambda v: [int(n) for n in v.split(".")])
    return versions


def build(folder, cmake=None, emulated=False, arch="90"):
    component = "craft_gpu_emulated" if emulated else "craft_gpu"
    folder = pathlib.Path(folder).resolve()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "built.json").exists():
            raise Trouble(f"{folder} is not empty, and not made by tests/gpu")
        shutil.rmtree(folder)
    made_in = pathlib.Path(cmake or ROOT / "build" / "gpu" / ("emulated" if emulated else f"sm_{arch}")).resolve()
    if cmake is None:
        print(f"== compiling in {made_in}" + ("" if emulated else f" for sm_{arch}"), flush=True)
        compile_all(made_in, emulated, arch, component)
    installed = subprocess.run(["cmake", "--install", str(made_in), "--component", component, "--strip", "--prefix",
                                str(folder)], capture_output=True, text=True)
    program = folder / "bin" / "craft_gpu_tests"
    if installed.returncode != 0 or not program.exists():
        raise Trouble(f"{installed.stdout}{installed.stderr}\n{component} cannot be installed from {made_in}")
    # Links may be lost where folders are packed: the library itself in the link's place.
    links = {link: link.resolve() for link in folder.glob("lib/*") if link.is_symlink()}
    for link, library in links.items():
        link.unlink()
        shutil.copy(library, link)
    for library in set(links.values()):
        library.unlink()
    about = {"commit": commit(), "built": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
             "emulated": emulated, "architecture": None if emulated else f"sm_{arch}",
             "toolkit": None if emulated else "".join(re.findall(r"release [^,]*, V([\d.]+)", said(nvcc(), "--version"))),
             "compiler": said("c++", "--version").partition("\n")[0], "needs": newest_symbols(folder),
             "cases": cases_of(program)}
    (folder / "built.json").write_text(json.dumps(about, indent=1) + "\n")
    shutil.rmtree(folder / "tests" / "cuda" / "__pycache__", ignore_errors=True)
    problems, total = problems_of(folder, {ROOT, made_in}, emulated)
    if not emulated:
        problems += two_runtimes(made_in)
    if problems:
        raise Trouble("\n".join([f"{folder} would not work elsewhere:", *problems]))
    count = sum(map(len, about["cases"].values()))
    print(f"== {folder}: {total / 2**20:.1f} MiB, {count} cases of {len(about['cases'])} sources, commit {about['commit']}; "
          f"needs {', '.join(f'{name} {version}' for name, version in about['needs'].items())}")
    print(f"   on a machine with a GPU: {sys.executable.rpartition('/')[2]} {folder.name}/tests/gpu --run")
    return folder
