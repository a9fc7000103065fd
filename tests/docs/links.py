"""The pages name only what is there: python3 links.py ROOT

Every relative link leads to a file, and to a heading if it says so; every path in backticks is a file or folder of the
project; every page is in docs/README.md, the list of pages.
"""
import pathlib
import re
import sys

from pages import pages, report

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "docs/site"))
from filter import slug  # noqa: E402

LINK = re.compile(r"\]\(([^)\s]+)\)")  # the text may begin on the line before
CODE = re.compile(r"`([^`]+)`")
# A path as people write it; capitals stand for a name to be filled in, and * for many.
PATH = re.compile(r"[\w.+-]+(?:/[\w.+-]+)*/?")


def anchors(page):
    found = set()
    for _, line in page.text:
        heading = re.match(r"#+ (.*)", line)
        if heading:
            name, n = slug(heading.group(1)), 1
            while name in found:
                name, n = f"{slug(heading.group(1))}-{n}", n + 1
            found.add(name)
    return found


def path_of(code):
    """The path that a piece of code is or begins with (a command), or None."""
    words = code.split()
    if not words or not PATH.fullmatch(words[0]) or re.search(r"(^|/)[A-Z]+([./]|$)", words[0].replace("README.md", "")):
        return None
    return words[0]


def is_there(root, page, name, headers):
    first = name.split("/")[0]
    if "/" not in name.rstrip("/"):
        # A name alone is one of ours if it looks like a header or a page.
        return not re.search(r"\.(hpp|cuh|md)$", name) or name in headers
    bases = [root, page.path.parent, root / "include", root / "include/craft", root / "cuda", root / "cuda/craft"]
    if first == "build" or not any((base / first).exists() for base in bases) or re.search(r"/[\d.]+$", name):
        return True  # made by a build, or no path of ours: n/m, an owner and a repository, a name and a version
    return any((base / name).exists() for base in bases)


def main(root):
    errors, count = [], 0
    all_pages = pages(root)
    by_path = {page.path.resolve(): page for page in all_pages}
    headers = {file.name for folder in ("include", "cuda", "docs", "examples", "tests", "bench")
               for pattern in ("*.hpp", "*.cuh", "*.md") for file in (root / folder).rglob(pattern)}
    headers |= {file.name for file in root.glob("*.md")}
    linked = set()
    for page in all_pages:
        for number, line in page.text:
            for target in LINK.findall(CODE.sub("", line)):
                if re.match(r"[a-z]+:", target):
                    continue
                count += 1
                file, _, fragment = target.partition("#")
                to = (page.path.parent / file).resolve() if file else page.path.resolve()
                linked.add((page.name, to))
                if not to.exists():
                    errors.append(f"{page.name}:{number}: no {target}")
                elif fragment and (to not in by_path or fragment not in anchors(by_path[to])):
                    errors.append(f"{page.name}:{number}: no heading {target}")
            for code in CODE.findall(line):
                name = path_of(code)
                if name:
                    count += 1
                    if not is_there(root, page, name, headers):
                        errors.append(f"{page.name}:{number}: no {name}")
    for page in all_pages:
        if page.name not in ("README.md", "docs/README.md") and ("docs/README.md", page.path.resolve()) not in linked:
            errors.append(f"{page.name}: not in docs/README.md")
    report(errors, f"{count} links and paths")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
