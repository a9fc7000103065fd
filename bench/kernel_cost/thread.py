"""Runs the machine code of one CUDA thread, to count what it issues.

Not a model of a GPU: integers, predicates, branches, constants and shared memory are followed exactly, because they decide
which way a thread goes; floating point is computed well enough to compare numbers that are far apart; what an instruction
that is not known here writes is unknown, and so is what comes of that. A branch that depends on something unknown is an
error which names the instruction. Memory has no contents but what arguments.cpp says: a pointer is the number of a region,
whose elements are all equal.
"""
import re
import struct

from disassembly import NO_RESULT, Instruction, Operand, width
from instructions import HANDLERS, MASK, Stuck, bits32, f32, f64, signed


class Thread:
    def __init__(self, code, labels, constants, regions, special):
        """constants: bytes of each bank; regions: bytes of an element each, the first one has number 1. Of code, a list of
        lines, what is reached is replaced by instructions: most of it never is."""
        self.code, self.labels, self.constants, self.regions, self.special = code, labels, constants, regions, special
        self.registers, self.uniform = [0] * 256, [0] * 256
        self.predicates, self.uniform_predicates = [False] * 7 + [True], [False] * 7 + [True]
        self.shared, self.returns = {}, []
        self.counts = [0] * len(code)
        self.blame = {}  # registers' unknown contents: the instruction they came from

    def run(self, most=3_000_000):
        code, counts, at = self.code, self.counts, 0
        for _ in range(most):
            instruction = code[at]
            if isinstance(instruction, str):
                instruction = code[at] = self.decoded(instruction)
            counts[at] += 1
            at += 1
            go = True if instruction.guard is None else self.predicate(instruction.guard)
            if go is False:
                continue
            if instruction.jumps:
                at = self.branch(instruction, go, at)
                if at is None:
                    return [(instruction, count) for instruction, count in zip(code, counts) if count]
            elif go is None or instruction.handler is None:
                self.forget(instruction)
            else:
                instruction.handler(self, instruction, instruction.modifiers, instruction.operands)
        raise Stuck(f"it does not end within {most} instructions, at {instruction.address:04x}: {instruction.text}")

    @staticmethod
    def decoded(line):
        """With what it does: one for uniform registers does what the one for others does."""
        instruction = Instruction(line)
        uniform = instruction.base[:1] == "U" and instruction.base[1:] in HANDLERS
        instruction.does = instruction.base[1:] if uniform else instruction.base
        instruction.handler = HANDLERS.get(instruction.does)
        return instruction

    # ---- where it goes

    def branch(self, instruction, go, at):
        operands = instruction.operands
        for operand in operands:
            if operand.kind in ("P", "UP") and go:
                go = self.predicate(operand)
        if "DIV" in instruction.modifiers or "CONV" in instruction.modifiers:
            return at  # one thread never parts with itself
        if go is None:
            source = instruction.guard or next(o for o in operands if o.kind in ("P", "UP"))
            raise Stuck(f"branch at {instruction.address:04x} ({instruction.text}) depends on what is unknown since "
                        f"{self.blame.get((source.kind, source.number), '?')}")
        if not go:
            return at
        if instruction.base == "EXIT":
            return None
        if instruction.base == "RET":
            return self.returns.pop()
        if instruction.base == "CALL":
            self.returns.append(at)
        if instruction.base == "BRX":  # by a table of addresses: a register counted from the next instruction and a number
            register, number = re.match(r"(R\d+) (-?0x[0-9a-f]+)", operands[0].text).groups()
            target = self.word(Operand(register))
            if target is None:
                raise Stuck(f"a jump to an unknown address at {instruction.address:04x}: {instruction.text}")
            return (instruction.address + 16 + target + int(number, 16)) // 16
        if operands[-1].kind != "label":
            raise Stuck(f"a jump to who knows where at {instruction.address:04x}: {instruction.text}")
        return self.labels[operands[-1].label]

    # ---- operands

    def predicate(self, o):
        value = (self.predicates if o.kind == "P" else self.uniform_predicates)[o.number]
        return value if value is None else value != o.inverted

    def word(self, o, next_ones=0):
        """The 32 bits of an operand without its signs; next_ones: those of the registers behind it."""
        if o.kind == "R":
            return 0 if o.number == 255 else self.registers[o.number + next_ones]
        if o.kind == "UR":
            return 0 if o.number == 255 else self.uniform[o.number + next_ones]
        if o.kind == "int":
            return 0 if next_ones else o.value
        if o.kind == "float":
            return bits32(o.value)
        if o.kind == "const":
            words = self.constant(o, 4 + 4 * next_ones)
            return words and words[next_ones]
        return self.special.get(o.text) if o.kind == "other" else None

    def integer(self, o):
        value = self.word(o)
        if value is None:
            return None
        if o.absolute:
            value = abs(signed(value))
        if o.inverted:
            value = ~value
        return (-value if o.negative else value) & MASK

    def single(self, o):
        if o.kind == "float":
            return o.value
        value = self.word(o)
        if value is None:
            return None
        value = f32(value)
        if o.absolute:
            value = abs(value)
        return -value if o.negative else value

    def double(self, o):
        if o.kind == "float":
            return o.value
        if o.kind == "int":
            value = f64(0, o.value)
        else:
            low, high = self.word(o), self.word(o, 1)
            if low is None or high is None:
                return None
            value = f64(low, high)
        if o.absolute:
            value = abs(value)
        return -value if o.negative else value

    def address(self, operand_terms):
        registers, address = operand_terms
        for o, wide, scale in registers:
            low = self.word(o)
            high = self.word(o, 1) if wide else 0
            if low is None or high is None:
                return None
            address += (low + (high << 32)) * scale
        return address & ((1 << 64) - 1 if any(wide for _, wide, _ in registers) else MASK)

    def constant(self, o, size):
        at = self.address(o.terms)
        bank = self.constants.get(o.bank)
        if at is None or bank is None or at + size > len(bank):
            return None
        return struct.unpack_from(f"<{size // 4}I", bank, at) if size >= 4 else (bank[at],)

    # ---- results

    def put(self, o, values, instruction=None):
        """Into a register and those behind it."""
        if o.number == 255:
            return
        file = self.registers if o.kind == "R" else self.uniform
        for q, value in enumerate(values):
            file[o.number + q] = value
            if value is None:
                self.blame[o.kind, o.number + q] = instruction and self.reason(instruction)

    def put_predicate(self, o, value, instruction=None):
        if o.number == 7:
            return
        (self.predicates if o.kind == "P" else self.uniform_predicates)[o.number] = value
        if value is None:
            self.blame[o.kind, o.number] = instruction and self.reason(instruction)

    def reason(self, instruction):
        """Where the first unknown input of an instruction comes from; itself if there is none."""
        for o in instruction.operands:
            for q in range(2):
                if o.kind in ("R", "UR") and o.number != 255 and (o.kind, o.number + q) in self.blame and \
                        (self.registers if o.kind == "R" else self.uniform)[o.number + q] is None:
                    return self.blame[o.kind, o.number + q]
        return f"{instruction.address:04x} {instruction.text}"

    def forget(self, instruction):
        """What it writes is unknown: predicates and a register at the front."""
        if instruction.base in NO_RESULT:
            return
        for o in instruction.operands:
            if o.kind in ("P", "UP"):
                self.put_predicate(o, None, instruction)
                continue
            if o.kind in ("R", "UR"):
                self.put(o, [None] * width(instruction), instruction)
            return
