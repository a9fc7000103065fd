#!/usr/bin/env python3
"""What Doxygen reads in place of a file of this project (its INPUT_FILTER): python3 filter.py FILE > text

Sources are written for people who read them as they are. This turns the habits that Doxygen does not know into its own
words, line by line, so that its line numbers stay those of the file.

Headers:
  the comment at the top describes the header: it becomes a page of that name, with all that stands in namespace craft
  "Cost:", "Throws" and the like start a paragraph; docs/math.md becomes a link
  one comment serves all that a declaration declares, and overloads that follow without an empty line
  deduction guides are left out
  what a top comment lists as "name(arguments)   what it is" serves every member of that name without a comment
Pages:
  headings get the anchors that they have on GitHub; links to pages become Doxygen's, links to other files plain text
  the README, which is the front page, ends with docs/README.md, the list of pages
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FRONT, LIST = ROOT / "README.md", ROOT / "docs/README.md"


def page_id(path):
    return "page_" + re.sub(r"\W", "_", path.relative_to(ROOT).with_suffix("").as_posix())


def named_page(name):
    return f'@ref {page_id(ROOT / name)} "{name}"'


# ---- headers ----

SENTENCE = r"(^|(?<=[.;:)] ))"
KEYWORD = re.compile(
    SENTENCE + r"((?:Units|Cost|Memory|Accuracy|Precision|Copies|Lifetime|Sources?)(?=:| beyond| of the ideas))")
THROWS = re.compile(SENTENCE + r"(Throws)(?= [a-z_]+)")
PAGE = re.compile(r"\bdocs/[\w/]+\.md\b")


def words(text):
    """The text of one comment line; what is indented is a formula or code and stays as it is."""
    if text.startswith("    "):
        return text
    body = text.lstrip()
    body = THROWS.sub(r"<p><b>\2</b>", KEYWORD.sub(r"<p><b>\2</b>", body))
    body = PAGE.sub(lambda m: named_page(m.group()), body)
    return text[: len(text) - len(text.lstrip())] + body


def code_of(line):
    """The line without strings, characters and comments."""
    return re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])\'|//.*|/\*.*?\*/', "", line)


def split_declaration(code):
    """The declarations in `T a = 1, b{}, c[2];`, each on its own; None where there is only one."""
    found = re.match(r"(\s*)((?:const )?[\w:]+(?:<[^;]*>)?[ *&]+)(\w.*);\s*$", code)
    if not found or "(" in found.group(2) or re.match(r"(using|return|friend|template|class|struct)\b", found.group(2)):
        return None
    parts, depth, start, text = [], 0, 0, found.group(3)
    for at, c in enumerate(text):
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    parts.append(text[start:].strip())
    if len(parts) < 2:
        return None
    return [f"{found.group(1)}{found.group(2)}{part};" for part in parts]


def header(path):
    lines = path.read_text(encoding="utf-8").split("\n")
    name = re.sub(r".*?/craft/", "", path.relative_to(ROOT).as_posix())
    group = "header_" + re.sub(r"\W", "_", name)
    head = next(i for i, line in enumerate(lines) if not line.startswith("//"))
    listed = {}
    for line in lines[:head]:
        entry = re.match(r"// {3,}(\w+)(?:<\w+>)?(?:\([^)]*\))? {2,}(\S.*)", line)
        if entry:
            listed[entry.group(1)] = re.sub(r"^[a-z](?=[a-z])", lambda m: m.group().upper(), entry.group(2)) + "."

    out = []
    scopes = []       # for every open brace: whether declarations stand in it
    starts = True     # whether the next line of code starts a declaration
    comment = []      # the doc comment that ends above this line
    last = ("", "")   # the last function with a comment, if no empty line came after it, and that comment
    for i, line in enumerate(lines):
        code = code_of(line)
        if i < head:
            out.append("///" + (f" @defgroup {group} {name}\n///" if i == 0 else "") + words(line[2:]))
            continue
        if re.match(r"\w+\(.*\) -> .*;$", line):  # a deduction guide is for the compiler
            out[-1] = line = ""
        if line == "#pragma once":  # stands behind the top comment, and makes up for the line that came in there
            continue
        if re.match(r"namespace craft(::(?!detail|engine)\w+)* \{$", line):
            line += f" /** @addtogroup {group} */ /** @{{ */"
        elif re.match(r"\}  // namespace craft(::(?!detail|engine)\w+)*$", line):
            line = "/** @} */ " + line
        elif line.strip().startswith("///"):
            comment.append(line.strip()[3:])
            mark, text = line.split("///", 1)
            line = f"{mark}///{words(text)}"
        elif not line.strip():
            comment, last = [], ("", "")
        elif starts and all(scopes) and code.strip():
            line = declaration(lines, i, comment, listed, last)
            declared = declared_name(lines, i)
            if comment:
                last = (declared, comment)
            comment = []
        if code.strip() and not code.lstrip().startswith("#"):
            for c in code:
                if c == "{":
                    before = code[: code.index("{")]
                    named = before if not scopes or before.strip() else lines[i - 1]
                    kind = re.search(r"\b(namespace|class|struct|enum)\b", named)
                    scopes.append(bool(kind) and "(" not in before)
                elif c == "}":
                    scopes.pop()
            starts = code.rstrip()[-1] in ";{}:"
        out.append(line)
    sys.stdout.write("\n".join(out))


def declared_name(lines, i):
    """The function or variable that the declaration starting at line i declares."""
    text = lines[i].strip()
    if re.fullmatch(r"template <.*>", text):
        text = lines[i + 1].strip()
    found = re.match(r"[^(={;]*?(operator\W+?|\w+)(?=\(| = |;|\{)", text)
    return found.group(1) if found else ""


def declaration(lines, i, comment, listed, last):
    line = lines[i]
    code, behind = (line.split("///<", 1) + [""])[:2]
    name = declared_name(lines, i)
    indent = line[: len(line) - len(line.lstrip())]
    parts = split_declaration(code_of(code).rstrip())
    if parts and (behind or comment):
        text = words(" " + (behind or " ".join(comment)).strip())
        if behind:
            return " ".join(f"{part.strip()} /**<{text} */" for part in parts)
        return f" /**{text} */ ".join(parts)
    if behind:
        return f"{code}///<{words(behind)}"
    if comment:
        return line
    if name in listed:
        return f"{indent}/** {words(listed[name])} */ {line.lstrip()}"
    if name and name == last[0]:
        text = " ".join(part.strip() for part in last[1])
        return f"{indent}/** {words(text)} */ {line.lstrip()}"
    return line


# ---- pages ----

LANGUAGES = {"cpp": "{.cpp}", "python": "{.py}", "console": "", "cmake": ""}


def slug(title):
    """GitHub's anchor of a heading."""
    title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).strip().lower()
    return re.sub(r"[^\w\- ]", "", title).replace(" ", "-")


def anchor(path, fragment):
    return page_id(path) + "_" + re.sub(r"\W", "_", fragment)


def link(path, text, target, subpages):
    if re.match(r"[a-z]+:", target):
        return f"[{text}]({target})"
    target, _, fragment = target.partition("#")
    to = (path.parent / target).resolve() if target else path
    if to.suffix != ".md" or to.parent != ROOT and ROOT / "docs" not in to.parents:
        return text
    if fragment:
        return f"[{text}](@ref {anchor(to, fragment)})"
    if subpages:
        return f'@subpage {page_id(to)} "{text}"'
    return f"[{text}](@ref {'pages' if to == LIST else 'index' if to == FRONT else page_id(to)})"


def heading(path, line):
    found = re.match(r"(#+) (.*)", line)
    if not found:
        return line
    line = line.replace("`", "")  # would come out as <tt>
    if len(found.group(1)) == 1:
        return f"{line} {{#{'mainpage' if path == FRONT else page_id(path)}}}"
    # The front page's chapters would stand among the pages in the navigation.
    return line if path == FRONT else f"{line} {{#{anchor(path, slug(found.group(2)))}}}"


def page_text(path, subpages=False):
    """Code, in fences or single backticks, stays as it is."""
    out = []
    for part in re.split(r"(^ *```.*?^ *```$)", path.read_text(encoding="utf-8"), flags=re.M | re.S):
        if part.lstrip().startswith("```"):
            part = re.sub(r"```(\w+)$", lambda m: "```" + LANGUAGES.get(m.group(1), ""), part, count=1, flags=re.M)
        else:
            part = re.sub(r"(?<!!)\[([^][]*)\]\(([^)\s]+)\)", lambda m: link(path, m.group(1), m.group(2), subpages), part)
            words = re.split(r"(`[^`]*`|@(?:ref|subpage) \S+ \"[^\"]*\"|\[[^][]*\]\([^)]*\))", part)
            words[::2] = [PAGE.sub(lambda m: named_page(m.group()), text) for text in words[::2]]
            part = "\n".join(heading(path, line) for line in "".join(words).split("\n"))
        out.append(part)
    return "".join(out)


def page(path):
    text = page_text(path)
    if path == FRONT:
        text += "\n" + re.sub(r"^# (.*) {#.*}", r"## \1 @anchor pages", page_text(LIST, subpages=True))
    sys.stdout.write(text)


if __name__ == "__main__":
    file = pathlib.Path(sys.argv[1]).resolve()
    page(file) if file.suffix == ".md" else header(file)
