"""Writes the functions of craft_align and the modules of craft_align.torch from the verbs' descriptions.

    python generate.py CORE FOLDER       CORE: the module craft_align._core that was built; writes _verbs.py and _modules.py there
    python generate.py CORE --reference  prints docs/python.md
"""

import importlib.machinery
import importlib.util
import math
import sys
import textwrap

ARRAYS = ("matrix", "computed", "labels", "targets", "numbers")


def load(path):
    loader = importlib.machinery.ExtensionFileLoader("craft_align._core", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location("craft_align._core", path, loader=loader))
    loader.exec_module(module)
    return module


def camel(name):
    return "".join(part.capitalize() for part in name.split("_"))


class Names:
    """The types of choices, one for all fields that have the same."""

    def __init__(self, verbs):
        self.of = {}
        for v in verbs:
            for f in v["fields"]:
                if f["choices"]:
                    self.of.setdefault(tuple(f["choices"]), camel(f["name"]))

    def lines(self):
        for choices, name in self.of.items():
            yield f"{name} = Literal[{', '.join(map(repr_text, choices))}]"


def repr_text(text):
    return '"' + text + '"'


def unlimited(f):
    """Whether it has no default: a limit that there is not, or what depends on another option."""
    return f["kind"] == "number" and f["default"] is not None and not math.isfinite(f["default"])


def default(f):
    """The default as Python writes it; None: there is none."""
    if f["required"]:
        return None
    if f["kind"] in ARRAYS or f["kind"] in ("list", "wholes") or unlimited(f):
        return "None"
    return repr_text(f["default"]) if isinstance(f["default"], str) else repr(f["default"])


def python_type(f, names, array, options_only=False):
    """options_only: without arrays, as a module takes it."""
    if f["choices"]:
        return names.of[tuple(f["choices"])]
    kinds = {
        "matrix": array,
        "computed": array,
        "labels": "Labels",
        "targets": "Labels",
        "numbers": "Numbers",
        "scalar": "float" if options_only else "Number",
        "list": "Union[float, Sequence[float]]" if options_only else "Numbers",
        "number": "float",
        "whole": "int",
        "wholes": "Sequence[int]",
        "flag": "bool",
    }
    if array == "Tensor" and f["kind"] in ARRAYS:
        kinds.update(labels="Tensor", targets="Tensor", numbers="Tensor")
    return f"Optional[{kinds[f['kind']]}]" if default(f) == "None" else kinds[f["kind"]]


def parameters(v, names, array="A", ellipsis=False):
    """The parameters of the function, as text."""
    out, named = [], False
    for f in v["fields"]:
        if not f["positional"] and not named:
            out.append("*")
            named = True
        d = default(f)
        out.append(f"{f['name']}: {python_type(f, names, array)}" + (" = " + ("..." if ellipsis else d) if d else ""))
    return out if named else [*out, "*"]


def result_class(v, verbs):
    """The name of the tuple that a verb of several results gives: that of the first verb with the same."""
    fields = result_names(v)
    return camel(next(w["name"] for w in verbs if result_names(w) == fields)) + "Result" if len(fields) > 1 else None


def result_names(v):
    return v["results"][0]["names"] if len(v["results"]) == 1 and v["results"][0]["names"] else [r["name"] for r in v["results"]]


def result_texts(v):
    if len(v["results"]) == 1 and v["results"][0]["names"]:
        return {name: "" for name in v["results"][0]["names"]}
    return {r["name"]: r["text"] for r in v["results"]}


def returned(v, verbs, array="A"):
    if result_class(v, verbs):
        return result_class(v, verbs)
    return array if any(f["kind"] in ("matrix", "computed") for f in v["fields"]) and not found_number(v) else "Any"


def found_number(v):
    return len(v["results"]) == 1 and v["results"][0]["type"] and not v["results"][0]["shape"]


def sizes(f):
    return " (" + " x ".join(part.replace("*", " * ") for part in map("*".join, f["shape"])) + ")" if f["shape"] else ""


def chosen(f):
    """The choices that the text does not name."""
    return "" if all(repr_text(c) in f["text"] for c in f["choices"]) else ": " + ", ".join(map(repr_text, f["choices"]))


def described(v, wide=100):
    """The docstring."""
    first, _, rest = v["text"].partition("\n")
    lines = [first, *rest.split("\n"), ""]
    entries = [(f["name"] + sizes(f), f["text"] + chosen(f)) for f in v["fields"]]
    if v["gradients"]:
        if v["results"]:
            entries.append(("upstream", "dL/dvalue: multiplies the gradients, not the value"))
        entries.append(("gradients", "of " + ", ".join(v["gradients"]) + ": those wanted, by name"))
    for name, text in entries:
        lines += textwrap.wrap(f"{name}: {text}", wide, subsequent_indent="    ", break_long_words=False)
    lines.append("")
    if v["results"] and len(result_names(v)) == 1:
        lines += textwrap.wrap("Returns " + v["results"][0]["text"] + sizes(v["results"][0])
                               + ("; with gradients, that and a dictionary of them." if v["gradients"] else "."), wide)
    elif v["results"]:
        lines += textwrap.wrap("Returns " + ", ".join(result_names(v)) + ("; with gradients, those and a dictionary." if v["gradients"] else "."), wide)
    else:
        lines.append("Returns a dictionary of the gradients.")
    return lines


def docstring(lines, indent):
    text = "\n".join((indent + line).rstrip() for line in lines[1:])
    return f'{indent}"""{lines[0]}\n{text}\n{indent}"""'


# ----------------------------------------------------------------------------------------------------------------------
# The functions


def functions(verbs, names):
    classes = {}
    for v in verbs:
        if result_class(v, verbs):
            classes.setdefault(result_class(v, verbs), v)
    public = [v["name"] for v in verbs] + list(classes) + sorted(names.of.values())
    yield '"""The verbs of craft on arrays of any library. Made by generate.py from their descriptions."""'
    yield ""
    yield "from __future__ import annotations"
    yield ""
    yield "from typing import Any, Literal, NamedTuple, Optional, Sequence, Tuple, TypeVar, Union, overload"
    yield ""
    yield "from . import _dispatch"
    yield "from ._dispatch import tensors as _tensors"
    yield ""
    yield "__all__ = [" + ", ".join(map(repr_text, public)) + "]"
    yield ""
    yield 'A = TypeVar("A")  # an array of any library, and results of the same'
    yield "Labels = Any  # an array of integers, or a sequence of them"
    yield "Number = Any  # a number, or an array of one"
    yield "Numbers = Any  # numbers, or an array of them"
    yield from names.lines()
    for name, v in classes.items():
        yield ""
        yield ""
        yield f"class {name}(NamedTuple):"
        yield f'    """What `{v["name"]}` gives."""'
        for field, text in result_texts(v).items():
            yield ""
            yield f"    {field}: Any"
            if text:
                yield "    " + '"""' + text + '"""'
    for index, v in enumerate(verbs):
        yield ""
        yield ""
        yield from function(index, v, verbs, names)
    yield ""
    yield ""
    of = ", ".join(f"{i}: {result_class(v, verbs)}" for i, v in enumerate(verbs) if result_class(v, verbs))
    yield f"_dispatch.results = {{{of}}}"


def function(index, v, verbs, names):
    name, out = v["name"], returned(v, verbs)
    wants = bool(v["gradients"])
    plain = parameters(v, names, ellipsis=True)
    if wants and v["results"]:
        more = ["upstream: Number = ..."]
        yield "@overload"
        yield f"def {name}({', '.join([*plain, *more, 'gradients: Union[str, Sequence[str]]'])}) -> Tuple[{out}, dict[str, A]]: ..."
        yield "@overload"
        yield f"def {name}({', '.join([*plain, *more, 'gradients: Tuple[()] = ...'])}) -> {out}: ..."
    signature = parameters(v, names, array="Any" if wants and v["results"] else "A")
    if wants and v["results"]:
        signature += ["upstream: Number = 1.0", "gradients: Union[str, Sequence[str]] = ()"]
        out = "Any"
    elif wants:
        signature += ["gradients: Union[str, Sequence[str]] = (" + "".join(repr_text(f["name"]) + ", " for f in v["fields"][:2]) + ")"]
        out = "dict[str, A]"
    if signature[-1] == "*":
        signature.pop()
    yield f"def {name}("
    for p in signature:
        yield f"    {p},"
    yield f") -> {out}:"
    yield docstring(described(v), "    ")
    given = ", ".join(f["name"] for f in v["fields"])
    gradients = "gradients" if wants else "()"
    upstream = "upstream" if wants and v["results"] else "1.0"
    ignored = "" if out == "Any" else "  # type: ignore[no-any-return]"
    if in_torch(v):
        first = v["fields"][0]["name"]
        yield f"    if type({first}) in _tensors or _dispatch.is_torch({first}):"
        for line in on_tensors(index, v, verbs, given, upstream, ignored):
            yield "        " + line
    yield f"    return _dispatch.call({index}, ({given},), {upstream}, {gradients}){ignored}"


def on_tensors(index, v, verbs, given, upstream, ignored):
    """The call of the operator, whose numbers that may be learned are two arguments."""
    if v["gradients"]:
        if v["results"]:
            yield "if gradients:"
        yield f"{'    ' * bool(v['results'])}return _dispatch.torch.with_gradients({index}, ({given},), {upstream}, gradients){ignored}"
        if not v["results"]:
            return
    flat = []
    for f in v["fields"]:
        n = f["name"]
        flat += [n]
        if f["kind"] in ("scalar", "list"):
            flat += ["learnable_" + n]
            usual = f"type({n}) is not float" if f["kind"] == "scalar" else f"{n} is not None and type({n}) is not list"
            yield f"learnable_{n}: Any = None"
            yield f"if {usual}:"
            yield f"    {n}, learnable_{n} = _dispatch.torch." + (f"number({n}, {default(f)})" if f["kind"] == "scalar" else f"numbers({n})")
        elif f["kind"] in ("labels", "targets", "numbers"):
            yield f"if {n} is not None:"
            yield f"    {n} = _dispatch.torch.listed({n})"
    yield "try:"
    yield f"    out = _dispatch.operators.{v['name']}({', '.join(flat)})"
    yield "except RuntimeError as error:"
    as_given = (f"{n} if learnable_{n} is None else learnable_{n}" if "learnable_" + n in flat else n for n in given.split(", "))
    yield f"    _dispatch.torch.explain({index}, error, ({', '.join(as_given)},))"
    yield "    raise"
    if v["results"][0]["names"]:
        yield f"return {result_class(v, verbs)}._make((*out[1].unbind(), out[0]))"
    else:
        yield f"return {result_class(v, verbs)}(*out)" if len(v["results"]) > 1 else f"return out{ignored}"


# ----------------------------------------------------------------------------------------------------------------------
# PyTorch


def in_torch(v):
    return any(f["kind"] in ARRAYS for f in v["fields"])


def modules(verbs, names):
    public = [v["module"] for v in verbs if v["module"]]
    yield '"""Modules of PyTorch. Made by generate.py from the descriptions of the verbs."""'
    yield ""
    yield "from typing import TYPE_CHECKING, Any, List, NamedTuple, Optional, Sequence, Union"
    yield ""
    yield "import torch"
    yield "from torch import Tensor, nn"
    yield ""
    yield "from . import _torch"
    yield "from ._verbs import " + ", ".join(sorted(names.of.values()))
    yield ""
    yield "__all__ = [" + ", ".join(map(repr_text, public)) + "]"
    for index, v in enumerate(verbs):
        if v["module"] and result_class(v, verbs):
            yield ""
            yield ""
            yield f"class {result_class(v, verbs)}(NamedTuple):"
            yield f'    """What `{v["name"]}` gives."""'
            yield ""
            for field in result_names(v):
                yield f"    {field}: Tensor"
    for index, v in enumerate(verbs):
        if v["module"]:
            yield ""
            yield ""
            yield from module(index, v, verbs, names)


def module(index, v, verbs, names):
    inputs = [f for f in v["fields"] if f["kind"] in ARRAYS]
    options = [f for f in v["fields"] if f["kind"] not in ARRAYS]
    back = next((w for w in verbs if w["name"] == v["pullback"]), v)  # whose gradients those of a map are
    learnt = [f for f in options if f["kind"] in ("scalar", "list") and f["name"] in back["gradients"]]
    flag = {f["name"]: "learn_" + f["name"].replace("log_", "") for f in learnt}
    yield f"class {v['module']}(_torch.Module):"
    lines = [v["text"].partition("\n")[0], "", f"Options are those of `{v['name']}`."]
    if learnt:
        lines += textwrap.wrap(", ".join(flag.values()) + ": make " + ", ".join(f["name"] for f in learnt)
                               + " parameters; such a parameter is None otherwise.", 100)
    result = result_class(v, verbs)
    shape = ", ".join(f["name"] + " (" + ", ".join("*".join(d) for d in f["shape"]) + ")" for f in inputs)
    out = "(" + ", ".join("*".join(d) for d in v["results"][0]["shape"]) + ")" if not result else ", ".join(result_names(v))
    lines += ["", *textwrap.wrap(f"Shape: {shape} -> {out}.", 100, subsequent_indent="    ")]
    yield docstring(lines, "    ")
    yield ""
    for f in options:
        yield f"    _{f['name']}: {script_type(f)}"
    for f in learnt:
        yield f"    {f['name']}: Optional[Tensor]"
    yield ""
    yield "    def __init__("
    yield "        self,"
    named = False
    for f in options:
        if not f["positional"] and not named:
            yield "        *,"
            named = True
        d = default(f)
        yield f"        {f['name']}: {python_type(f, names, 'Tensor', True)}" + (f" = {d}" if d else "") + ","
    for f in learnt:
        if not named:
            yield "        *,"
            named = True
        yield f"        {flag[f['name']]}: bool = False,"
    yield "    ) -> None:"
    yield f"        super().__init__({index})"
    for f in options:
        value = f["name"]
        if f["kind"] == "list":
            value = f"_torch.numbers({value})[0]"
        elif f["kind"] == "number" and not unlimited(f) or f["kind"] == "scalar":
            value = f"float({value})"
        elif unlimited(f):
            value = f"None if {value} is None else float({value})"
        yield f"        self._{f['name']} = {value}"
    yield "        self.check()"
    for f in learnt:
        yield f"        self.learn(\"{f['name']}\", {flag[f['name']]})"
    yield ""
    yield "    def forward("
    yield "        self,"
    for f in inputs:
        yield f"        {f['name']}: {'Tensor' if f['required'] else 'Optional[Tensor] = None'},"
    yield f"    ) -> {result or 'Tensor'}:"
    yield '        """See the class."""'
    given = []
    for f in v["fields"]:
        given.append(f["name"] if f["kind"] in ARRAYS else f"self._{f['name']}")
        if f["kind"] in ("scalar", "list"):
            given.append(f"self.{f['name']}" if f in learnt else "None")
    call = f"torch.ops.craft.{v['name']}({', '.join(given)})"
    if v["results"][0]["names"]:
        yield f"        total, terms = {call}"
        each = ", ".join(f"terms[{k}]" for k in range(len(result_names(v)) - 1))
        yield f"        return {result}({each}, total)"
    else:
        yield f"        out: Tensor = {call}"
        yield "        return out"
    yield ""
    yield "    if TYPE_CHECKING:"
    yield ""
    inside = ", ".join(f"{f['name']}: {'Tensor' if f['required'] else 'Optional[Tensor] = None'}" for f in inputs)
    yield f"        def __call__(self, {inside}) -> {result or 'Tensor'}: ..."


def script_type(f):
    return {
        "scalar": "float",
        "list": "Optional[List[float]]",
        "number": "Optional[float]" if unlimited(f) else "float",
        "whole": "int",
        "wholes": "Optional[List[int]]",
        "flag": "bool",
        "choice": "str",
    }[f["kind"]]


# ----------------------------------------------------------------------------------------------------------------------
# The reference page


def reference(verbs):
    yield "# Python: every function"
    yield ""
    yield "Made by `python/generate.py` from the descriptions that stand beside the verbs in their headers. All functions take arrays of NumPy and"
    yield "of whatever has DLPack, tensors of PyTorch and arrays of JAX, and are differentiated by the latter two ([PyTorch](embed/torch.md),"
    yield "[JAX](embed/jax.md)); for the others `gradients` names those that are wanted."
    yield ""
    for v in verbs:
        yield f"## {v['name']}"
        yield ""
        yield "```text"
        given = [f["name"] + (f"={default(f)}" if default(f) else "") for f in v["fields"]]
        given.insert(next((k for k, f in enumerate(v["fields"]) if not f["positional"]), len(given)), "*")
        given += ["upstream=1.0", "gradients=()"] if v["gradients"] and v["results"] else ["gradients=(...)"] if v["gradients"] else []
        yield from textwrap.wrap(f"{v['name']}({', '.join(given)})", 120, subsequent_indent="    ")
        yield ""
        yield from described(v, 120)
        yield "```"
        yield ""


def main(core, target):
    verbs = load(core).verbs()
    names = Names(verbs)
    if target == "--reference":
        print("\n".join(reference(verbs)).rstrip())
        return
    for file, lines in (("_verbs.py", functions(verbs, names)), ("_modules.py", modules(verbs, names))):
        with open(f"{target}/{file}", "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
