"""The project's pages for people: README.md and docs/. What snippets.py and links.py share; standard library only."""
import pathlib
import re
import sys

FENCE = re.compile(r"^(\s*)```\s*(\S*)\s*$")


class Page:
    """A page by lines: those of text, and its fenced blocks as (language, number of the first line, lines)."""

    def __init__(self, root, path):
        self.path, self.name = path, path.relative_to(root).as_posix()
        self.text, self.blocks = [], []
        block = None
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            fence = FENCE.match(line)
            if block is not None:
                if fence and not fence.group(2):
                    self.blocks.append(block)
                    block = None
                else:
                    block[2].append(line.rstrip())
            elif fence:
                block = (fence.group(2), number + 1, [])
            else:
                self.text.append((number, line))
        if block is not None:
            sys.exit(f"{self.name}:{block[1] - 1}: a block that does not end")


def pages(root):
    files = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [Page(root, file) for file in files if file.exists()]


def report(errors, what):
    for error in errors:
        print(error)
    if errors:
        sys.exit(1)
    print(what)
