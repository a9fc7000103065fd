"""Every snippet of the pages is code that runs: python3 snippets.py ROOT

A block marked cpp, python or cmake must stand in a source of tests/, examples/, bench/, python/ or include/, line for line; a common
indentation may differ. Those are compiled and run by the tests, which check that no source is left out. In a block marked
console, the scripts that lines beginning with $ call must be there, and know their options.
"""
import pathlib
import re
import sys

from pages import pages, report

SOURCES = {
    "cpp": ("*.cpp", "*.hpp", "*.cu", "*.cuh", "*.cc", "*.h"),
    "python": ("*.py",),
    "cmake": ("CMakeLists.txt", "*.cmake"),
}
WITHOUT_CHECK = {"", "text", "json", "toml", "yaml", "ini"}


def dedent(lines):
    while lines and not lines[0]:
        lines = lines[1:]
    while lines and not lines[-1]:
        lines = lines[:-1]
    margin = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
    return [line[margin:] for line in lines]


def stands_in(block, lines):
    """Whether the dedented block is in the lines, all of it moved right by the same number of blanks."""
    for at, line in enumerate(lines[: len(lines) - len(block) + 1]):
        if not line.endswith(block[0]):
            continue
        margin = line[: len(line) - len(block[0])]
        if not margin.strip() and all(
            there == (margin + here if here else "") for here, there in zip(block, lines[at:])
        ):
            return True
    return False


def sources(root, language):
    for folder in ("tests", "examples", "bench", "python", "include"):
        for pattern in SOURCES[language]:
            for file in sorted((root / folder).rglob(pattern)):
                if root / "tests/docs/broken" not in file.parents:
                    yield [line.rstrip() for line in file.read_text(encoding="utf-8").split("\n")]


def command_errors(root, line):
    """What is wrong with a command of a console block."""
    for command in re.split(r"&&|\|\|?|;", re.sub(r"(^|\s)#.*", "", line)):
        words = command.split()
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if len(words) > 1 and words[0] in ("python", "python3", "bash", "sh") and "/" in words[1]:
            words.pop(0)
        if not words or "/" not in words[0] or words[0].startswith(("/", "build/")):
            continue  # a program that is not ours, or that a build makes
        script = root / words[0].removeprefix("./")
        if not script.is_file():
            yield f"no {words[0]}"
            continue
        texts = [file.read_text(encoding="utf-8", errors="replace")
                 for file in ([script] if script.parent == root else sorted(script.parent.rglob("*"))) if file.is_file()]
        for word in words[1:]:
            option = re.match(r"--[\w-]+", word)
            if option and not any(re.search(re.escape(option.group()) + r"(?![\w-])", text) for text in texts):
                yield f"{words[0]} does not know {option.group()}"


def main(root):
    errors, count = [], 0
    texts = {language: list(sources(root, language)) for language in SOURCES}
    for page in pages(root):
        for language, number, lines in page.blocks:
            where = f"{page.name}:{number}"
            if language in SOURCES:
                block = dedent(lines)
                if not block or not any(stands_in(block, text) for text in texts[language]):
                    errors.append(f"{where}: this {language} block is in no source that is compiled or run")
            elif language == "console":
                commands = [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]
                if not commands:
                    errors.append(f"{where}: a console block without a line that begins with $")
                errors += [f"{where}: {error}" for line in commands for error in command_errors(root, line)]
            elif language not in WITHOUT_CHECK:
                errors.append(f"{where}: {language} is none of {', '.join([*SOURCES, 'console'])}")
            count += 1
    report(errors, f"{count} blocks")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]).resolve())
