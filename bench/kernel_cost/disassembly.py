"""The text that nvdisasm prints: instructions and their operands."""
import math
import re

LINE = re.compile(r"\s*/\*([0-9a-f]+)\*/\s+(?:@(!?)(U?P[0-7T])\s+)?([A-Z][A-Z0-9_.a-z]*)\s*(.*?)\s*;")
TERM = re.compile(r"(U?R(?:\d+|Z))((?:\.\w+)*)$")

# Instructions that write no register, or none that anything here depends on.
NO_RESULT = {"ST", "STG", "STS", "STL", "RED", "BAR", "MEMBAR", "NOP", "BSSY", "BSYNC", "BREAK", "WARPSYNC", "ENDCOLLECTIVE",
             "DEPBAR", "ERRBAR", "CCTL", "YIELD", "UCGABAR_ARV", "ACQBULK"}


class Operand:
    """A register, predicate, immediate number, constant, address, label or special register, and its signs."""

    def __init__(self, text):
        self.text = text
        self.negative = self.inverted = self.absolute = False
        while text[:1] in "-!~|" and not re.match(r"-(0x|\d|INF|QNAN|\.)", text):
            self.negative ^= text[0] == "-"
            self.inverted ^= text[0] in "!~"
            self.absolute |= text[0] == "|"
            text = text[1:]
        text = text.rstrip("|").replace(".reuse", "")
        self.half = ".H0_H0" if ".H0_H0" in text else ".H1_H1" if ".H1_H1" in text else ""
        if match := re.match(r"(U?)R(\d+|Z)(?:\.\w+)*$", text):
            self.kind = match[1] + "R"
            self.number = 255 if match[2] == "Z" else int(match[2])
        elif match := re.match(r"(U?)P([0-7T])$", text):
            self.kind = match[1] + "P"
            self.number = 7 if match[2] == "T" else int(match[2])
        elif match := re.match(r"c\[(0x[0-9a-f]+)\]\s*\[(.*)\]$", text):
            self.kind, self.bank, self.terms = "const", int(match[1], 16), terms(match[2])
        elif match := re.match(r"(?:desc\[[^\]]*\])?\[(.*)\]$", text):
            self.kind, self.terms = "address", terms(match[1])
        elif match := re.match(r"`\((.*)\)$", text):
            self.kind, self.label = "label", match[1]
        elif re.match(r"-?0x[0-9a-f]+$", text):
            self.kind, self.value = "int", int(text, 16) & 0xffffffff
        elif re.match(r"[-+]?(\d|\.\d|INF|QNAN|SNAN)", text):
            self.kind = "float"
            word = text.lstrip("+")
            self.value = math.nan if "NAN" in word else float(word.replace("INF", "inf"))
        else:
            self.kind = "other"  # SR_TID.X, SRZ, PR, B0


def terms(text):
    """Of an address: registers (with whether they are wide, and a factor) and the sum of numbers."""
    registers, offset = [], 0
    for term in text.split("+"):
        if match := TERM.match(term.strip()):
            scale = re.search(r"\.X(\d+)", match[2])
            registers.append((Operand(match[1]), ".64" in match[2], int(scale[1]) if scale else 1))
        else:
            offset += int(term, 16)
    return registers, offset


class Instruction:
    def __init__(self, line):
        address, negated, guard, op, operands = LINE.match(line).groups()
        self.address = int(address, 16)
        self.guard = guard and Operand(("!" if negated else "") + guard)
        self.op = op
        self.base, *self.modifiers = op.split(".")
        self.operands = [Operand(o) for o in split(operands)]
        self.jumps = self.base in ("BRA", "EXIT", "RET", "CALL", "BRX")
        self.text = f"{op} {operands}"


def split(text):
    """By commas outside of brackets."""
    parts, depth, begin = [], 0, 0
    for at, c in enumerate(text):
        depth += (c in "[(") - (c in "])")
        if c == "," and depth == 0:
            parts.append(text[begin:at].strip())
            begin = at + 1
    return parts + [text[begin:].strip()] if text.strip() else []


def parse(text):
    """Of one function's disassembly: a line for each instruction, and which of them a label stands before."""
    code, labels = [], {}
    for line in text.splitlines():
        if line.lstrip().startswith("/*") and ";" in line:
            code.append(line)
        elif line.endswith(":"):
            labels[line.strip()[:-1]] = len(code)
    return code, labels


def width(instruction):
    """How many registers it writes."""
    m = instruction.modifiers
    if "128" in m or instruction.base == "HMMA":
        return 4
    wide = instruction.base in ("DADD", "DMUL", "DFMA", "CS2R") or "64" in m or "WIDE" in m or m[:1] == ["F64"]
    return 2 if wide and "32" not in m else 1
