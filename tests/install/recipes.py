"""The recipes for Spack and conda, carried out as far as can be without those tools.

    recipes.py spack|conda SOURCE WORK VERSION GENERATOR

Each is compared with the project (name, version, licence, what it needs), then its build is run and the files of the
package are looked for.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

tool, source, work, version, generator = sys.argv[1:]
source, work = pathlib.Path(source), pathlib.Path(work)
packaging = source / "cmake" / "packaging"
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)


def same(what, found, expected):
    if found != expected:
        sys.exit(f"{what} is {found!r}, expected {expected!r}")


def has_files(root, paths):
    for path in paths:
        if not (root / path).is_file():
            sys.exit(f"the package has no {path}")


def cmake_minimum():
    text = (source / "CMakeLists.txt").read_text()
    return re.search(r"cmake_minimum_required\(VERSION ([0-9.]+)\)", text).group(1)


def spack():
    """Runs package.py with a stand-in for Spack's language, which writes down what it is told."""
    repository = packaging / "spack" / "spack_repo" / "craft"
    same("the namespace", re.findall(r"namespace: (\S+)", (repository / "repo.yaml").read_text()), ["craft"])
    told = []

    class CMakePackage:
        variants = {}

        @staticmethod
        def define(name, value):
            return f"-D{name}:BOOL={'ON' if value else 'OFF'}"

        def define_from_variant(self, name, variant):
            return self.define(name, self.variants[variant])

    def directive(name):
        return lambda *args, **options: told.append((name, args, options))

    def module(name, **contents):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(contents)

    # Imported in parts, as Spack's own modules are.
    for name in ("spack", "spack_repo", "spack_repo.builtin", "spack_repo.builtin.build_systems"):
        module(name, __path__=[])
    module("spack.package", **{name: directive(name) for name in ("version", "variant", "depends_on", "license")})
    module("spack_repo.builtin.build_systems.cmake", CMakePackage=CMakePackage)
    package_py = repository / "packages" / "craft" / "package.py"
    recipe = {}
    exec(compile(package_py.read_text(), str(package_py), "exec"), recipe)
    craft = recipe["Craft"]()

    same("the version", [args for name, args, _ in told if name == "version"], [(version,)])
    same("the licence", [args for name, args, _ in told if name == "license"], [("MIT",)])
    needs = {args[0]: options for name, args, options in told if name == "depends_on"}
    same("what it needs", set(needs), {"cxx", f"cmake@{cmake_minimum()}:", "eigen@3.4:", "cuda@12:"})
    same("when it needs CUDA", needs["cuda@12:"], {"when": "+cuda"})
    same("how it needs Eigen (to build and to use it)", needs["eigen@3.4:"], {})
    craft.variants = {args[0]: options["default"] for name, args, options in told if name == "variant"}
    same("the variants", craft.variants, {"openmp": True, "cuda": False})

    build, prefix = work / "build", work / "prefix"
    arguments = craft.cmake_args()
    subprocess.run(["cmake", "-S", source, "-B", build, "-G", generator, f"-DCMAKE_INSTALL_PREFIX={prefix}", *arguments],
                   check=True)
    # Options that the project does not know would stand in the cache without a description.
    cache = (build / "CMakeCache.txt").read_text()
    for argument in arguments:
        if f"//No help, variable specified on the command line.\n{argument[2:]}\n" in cache:
            sys.exit(f"the project has no option {argument}")
    subprocess.run(["cmake", "--install", build], check=True)
    has_files(prefix, craft.sanity_check_is_file)
    craft.variants = {"openmp": False, "cuda": True}
    same("+cuda", [a for a in craft.cmake_args() if "CUDA" in a or "OPENMP" in a],
         ["-DCRAFT_OPENMP:BOOL=OFF", "-DCRAFT_CUDA:BOOL=ON"])


def conda():
    """Reads recipe.yaml, fills in its variables, and runs its script with the folders that rattler-build would give."""
    import yaml

    text = (packaging / "conda" / "recipe.yaml").read_text()
    same("the version", yaml.safe_load(text)["context"]["version"], version)
    text = re.sub(r'\$\{\{ *compiler\("cxx"\) *\}\}', "cxx-compiler", text)
    text = re.sub(r"\$\{\{ *version *\}\}", version, text)
    if "${{" in text:
        sys.exit("recipe.yaml has a variable that is not filled in: " + text[text.index("${{"):][:40])
    recipe = yaml.safe_load(text)
    same("the package", recipe["package"], {"name": "craft", "version": version})
    same("the kind", recipe["build"]["noarch"], "generic")
    same("the licence", recipe["about"]["license"], "MIT")
    tree = packaging / "conda" / recipe["source"]["path"]
    same("the source", tree.resolve(), source.resolve())
    for path in [recipe["about"]["license_file"], *recipe["tests"][1]["files"]["source"]]:
        if not (tree / path).exists():
            sys.exit(f"the tree has no {path}")
    needs = recipe["requirements"]
    same("what it is built with", needs["build"], ["cxx-compiler", f"cmake >={cmake_minimum()}", "ninja"])
    same("what it is built against", needs["host"], ["eigen >=3.4"])
    same("what its users need", needs["run"], ["eigen >=3.4"])

    # Where the sources lie, under the names that the script knows.
    here = work / "source"
    here.mkdir()
    for name in ("CMakeLists.txt", "LICENSE", "cmake", "include", "cuda"):
        (here / name).symlink_to(source / name)
    # DESTDIR goes before whatever folder the script installs to, so that a wrong one does no harm.
    environment = {**os.environ, "PREFIX": "/prefix", "DESTDIR": str(work / "root")}
    for line in recipe["build"]["script"]:
        subprocess.run(["bash", "-euc", line], cwd=here, env=environment, check=True)
    has_files(work / "root" / "prefix", recipe["tests"][0]["package_contents"]["files"])
    # The package's own test, in another place, of which it knows the files it names.
    there = work / "test"
    for path in recipe["tests"][1]["files"]["source"]:
        shutil.copytree(tree / path, there / path)
    environment["CMAKE_PREFIX_PATH"] = str(work / "root" / "prefix")
    for line in recipe["tests"][1]["script"]:
        subprocess.run(["bash", "-euc", line], cwd=there, env=environment, check=True)
    subprocess.run([there / "build" / "consumer"], check=True)


{"spack": spack, "conda": conda}[tool]()
