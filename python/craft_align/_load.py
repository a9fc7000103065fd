"""craft_align._core and the paths of the other libraries, for the best level of x86-64 that this processor runs.

The package may hold each library several times: compiled as its flags said ("baseline", any x86-64 unless they said
more), and with the numerical code for x86-64-v3 (AVX2, FMA) and x86-64-v4 (AVX-512). One level is chosen when the
package is imported, for all of its libraries. The environment variable CRAFT_ALIGN_LEVEL chooses another; ValueError if
it names none of those in this build, RuntimeError if this processor does not run it.
"""

import os
import sys
from ctypes import CDLL, c_char_p
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import Any, Callable, List, Optional

# What is built lies beside what is generated; in an editable installation that is not where this file is.
_generated = find_spec("craft_align._verbs")
if _generated is None or _generated.origin is None:
    raise ImportError("craft_align is not built: install it with pip, from the folder that pyproject.toml is in")
_folder = os.path.dirname(_generated.origin)
_files = os.listdir(_folder)


def _find(stem: str) -> Optional[str]:
    """The path of stem.so, or what the system calls it; None if there is none."""
    return next((os.path.join(_folder, f) for f in _files if f.startswith(stem + ".") and not f[len(stem) + 1 :].startswith("x86")), None)


def _built() -> List[str]:
    """The levels that this package was built with, the best one last."""
    levels = ("x86-64-v3", "x86-64-v4")
    return ["baseline", *(level for level in levels if _find("_core." + level))]


def _runs(level: str) -> bool:
    """Whether this processor and system run code of that level."""
    if level == "baseline":
        return True
    runs = CDLL(_find("libcraft_level")).craft_runs
    runs.argtypes = [c_char_p]
    return bool(runs(level.encode()))


def _choose(wanted: Optional[str], built: List[str], runs: Callable[[str], bool]) -> str:
    if not wanted:
        return next(level for level in reversed(built) if runs(level))
    if wanted not in built:
        raise ValueError(f"CRAFT_ALIGN_LEVEL: this build has {', '.join(built)}, got {wanted!r}")
    if not runs(wanted):
        raise RuntimeError(f"CRAFT_ALIGN_LEVEL: this processor does not run {wanted}")
    return wanted


_level = _choose(os.environ.get("CRAFT_ALIGN_LEVEL"), _built(), _runs)


def level() -> str:
    """The level of x86-64 whose code runs: "x86-64-v4", "x86-64-v3", or "baseline" (as the package's flags said).

    Results differ between levels in their last digits. On one level they are the same bits on every run. Chosen when
    the package is imported: the best that this processor runs, or the one that the environment variable
    CRAFT_ALIGN_LEVEL names.
    """
    return _level


def library(name: str) -> Optional[str]:
    """The path of a library of this package, of the level chosen; None if it was not built."""
    return _find(name if _level == "baseline" else f"{name}.{_level}")


def _core() -> Any:
    path = library("_core")
    if path is None:
        raise ImportError(f"craft_align is not built for this Python: there is no _core in {_folder}")
    loader = ExtensionFileLoader("craft_align._core", path)
    spec = spec_from_file_location("craft_align._core", path, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    sys.modules["craft_align._core"] = module
    return module


core = _core()
