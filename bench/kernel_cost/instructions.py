"""What each instruction does to a thread's registers: of thread.py, which says what is exact and what is not."""
import math
import operator
import struct

import disassembly
from disassembly import Operand, width

MASK = 0xffffffff
REGION_BITS = 36  # as in arguments.cpp


class Stuck(Exception):
    """What cannot be counted, and why."""


def f32(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def bits32(x):
    try:
        return struct.unpack("<I", struct.pack("<f", x))[0]
    except OverflowError:
        return 0x7f800000 if x > 0 else 0xff800000


def f64(low, high):
    return struct.unpack("<d", struct.pack("<II", low, high))[0]


def bits64(x):
    return list(struct.unpack("<II", struct.pack("<d", x)))


def signed(x, bits=32):
    return x - (1 << bits) if x >> (bits - 1) else x


def lookup(table, a, b, c):
    """Three inputs through a table of eight bits."""
    return sum(((table >> q) & 1) and term(a, b, c) for q, term in enumerate(MINTERMS)) & MASK


MINTERMS = [lambda a, b, c, q=q: (a if q & 4 else ~a & MASK) & (b if q & 2 else ~b & MASK) & (c if q & 1 else ~c & MASK)
            for q in range(8)]
COMPARE = {"LT": operator.lt, "LE": operator.le, "GT": operator.gt, "GE": operator.ge, "EQ": operator.eq, "NE": operator.ne}
JOIN = {"AND": lambda a, b: a and b, "OR": lambda a, b: a or b, "XOR": lambda a, b: a != b}


def compared(modifiers, a, b):
    """Of floating-point numbers: a U behind the name means true where one of them is no number."""
    name = modifiers[0]
    if name in ("MAX", "MIN"):
        return a > b if name == "MAX" else a < b
    unordered = a != a or b != b
    if name == "NUM" or name == "NAN":
        return unordered == (name == "NAN")
    if name in COMPARE:
        return not unordered and COMPARE[name](a, b)
    return unordered or COMPARE[name[:-1]](a, b)


HANDLERS = {}


def handles(*names):
    def keep(function):
        for name in names:
            HANDLERS[name] = function
        return function
    return keep


def dest_and_rest(operands):
    """Register written, predicates written with it, and what is read."""
    at = 1
    while at < len(operands) and operands[at].kind in ("P", "UP"):
        at += 1
    return operands[0], operands[1:at], operands[at:]


# ---- integers


@handles("MOV", "R2UR")
def move(t, i, m, o):
    register = next(q for q, one in enumerate(o) if one.kind in ("R", "UR"))
    t.put(o[register], [t.integer(o[register + 1])], i)


@handles("S2R", "S2UR")
def special(t, i, m, o):
    t.put(o[0], [t.special.get(o[1].text)], i)


@handles("CS2R")
def clear(t, i, m, o):
    value = 0 if o[1].text == "SRZ" else None
    t.put(o[0], [value] * width(i), i)


def addend(t, o):
    """So that a carry comes out: the negative is the inverted number and one more."""
    value = t.word(o)
    if value is None:
        return None
    return (~value & MASK) + 1 if o.negative else ~value & MASK if o.inverted else value


@handles("IADD3", "VIADD", "IADD")
def add(t, i, m, o):
    to, carries, rest = dest_and_rest(o)
    values = [addend(t, one) if one.kind not in ("P", "UP") else t.predicate(one) for one in rest]
    total = None if None in values else sum(values)
    t.put(to, [None if total is None else total & MASK], i)
    for q, carry in enumerate(carries):
        t.put_predicate(carry, None if total is None else total >> 32 > q, i)


@handles("IMAD")
def multiply_add(t, i, m, o):
    to, carries, rest = dest_and_rest(o)
    a, b, c = (t.integer(one) for one in rest[:3])
    carry_in = t.predicate(rest[3]) if "X" in m and len(rest) > 3 else False
    wide, high = "WIDE" in m, "HI" in m
    upper = t.word(rest[2], 1) if wide or high else 0
    if None in (a, b, c, carry_in, upper):
        t.put(to, [None] * (1 + wide), i)
        for carry in carries:
            t.put_predicate(carry, None, i)
        return
    if (wide or high) and "U32" not in m:
        a, b = signed(a), signed(b)
    if rest[2].kind == "int" and (wide or high):
        upper = MASK if "U32" not in m and c >> 31 else 0
    total = a * b + c + (upper << 32) + carry_in
    t.put(to, [total & MASK, total >> 32 & MASK] if wide else [total >> 32 & MASK] if high else [total & MASK], i)
    for carry in carries:
        t.put_predicate(carry, total >> (64 if wide else 32) > 0, i)


@handles("LEA")
def shifted_add(t, i, m, o):
    to, carries, rest = dest_and_rest(o)
    carry_in = False
    if "X" in m:
        carry_in = t.predicate(rest.pop())
    a, b, shift = t.integer(rest[0]), addend(t, rest[1]), rest[-1].value
    upper = t.integer(rest[2]) if "HI" in m and "SX32" not in m else 0
    if None in (a, b, carry_in, upper):
        t.put(to, [None], i)
        for carry in carries:
            t.put_predicate(carry, None, i)
        return
    if "HI" in m:
        whole = signed(a) if "SX32" in m else upper << 32 | a
        total = (whole >> (32 - shift) & MASK) + b + carry_in
    else:
        total = (a << shift & MASK) + b + carry_in
    t.put(to, [total & MASK], i)
    for carry in carries:
        t.put_predicate(carry, total >> 32 > 0, i)


@handles("SHF")
def shift(t, i, m, o):
    """Of two registers side by side, to the left or right; HI: of what comes out, the upper half."""
    low, count, high = (t.integer(one) for one in o[1:4])
    if None in (low, count, high):
        return t.put(o[0], [None], i)
    kind = next(one for one in m if one[0] in "US")
    size = int(kind[1:])
    count = count & (size - 1) if "W" in m else min(count, size)
    whole = high << 32 | low
    if kind[0] == "S":
        whole = signed(whole, 64)
    if m[0] == "L":
        result = whole << count >> (32 if "HI" in m else 0)
    else:
        result = whole >> count >> (32 if "HI" in m else 0)
    t.put(o[0], [result & MASK], i)


@handles("LOP3")
def logic(t, i, m, o):
    first = [one for one in o[:1] if one.kind in ("P", "UP")]  # the predicate stands before the register, if there is one
    to, more, rest = dest_and_rest(o[len(first):])
    values = [t.integer(one) for one in rest[:3]]
    result = None if None in values else lookup(rest[3].value, *values)
    t.put(to, [result], i)
    for one in first + more:
        t.put_predicate(one, None if result is None else result != 0, i)


@handles("PLOP3")
def predicate_logic(t, i, m, o):
    values = [t.predicate(one) for one in o[2:5]]
    for to, table in zip(o[:2], o[5:7]):
        if None in values:
            # A table that does not look at an input does not care that it is unknown.
            settings = [[v] if v is not None else [False, True] for v in values]
            results = {bool(table.value >> (4 * a + 2 * b + c) & 1)
                       for a in settings[0] for b in settings[1] for c in settings[2]}
            t.put_predicate(to, results.pop() if len(results) == 1 else None, i)
        else:
            t.put_predicate(to, bool(table.value >> (4 * values[0] + 2 * values[1] + values[2]) & 1), i)


@handles("SEL", "FSEL")
def select(t, i, m, o):
    which = t.predicate(o[3])
    read = t.integer if i.does == "SEL" else lambda one: None if t.single(one) is None else bits32(t.single(one))
    t.put(o[0], [None if which is None else read(o[1] if which else o[2])], i)


@handles("ISETP")
def compare(t, i, m, o):
    a, b = t.integer(o[2]), t.integer(o[3])
    joined = t.predicate(o[4])
    extended = "EX" in m
    lower = t.predicate(o[5]) if extended else False
    if None in (a, b, joined, lower):
        result = None
        if joined is False and "AND" in m:
            result = False  # whatever is compared
        elif joined is True and "OR" in m:
            result = True
        t.put_predicate(o[0], result, i)
        t.put_predicate(o[1], None, i)
        return
    if "U32" not in m:
        a, b = signed(a), signed(b)
    test = COMPARE[m[0]](a, b)
    if extended:
        if m[0] == "EQ":
            test = a == b and lower
        elif m[0] == "NE":
            test = a != b or lower
        else:
            test = lower if a == b else test
    join = JOIN[next(one for one in m if one in JOIN)]
    t.put_predicate(o[0], join(test, joined), i)
    t.put_predicate(o[1], join(not test, joined), i)


@handles("VIMNMX", "IMNMX")
def integer_extreme(t, i, m, o):
    a, b, least = t.integer(o[1]), t.integer(o[2]), t.predicate(o[3])
    if None in (a, b, least):
        return t.put(o[0], [None], i)
    key = (lambda x: x) if "U32" in m else signed
    t.put(o[0], [min(a, b, key=key) if least else max(a, b, key=key)], i)


@handles("PRMT")
def permute(t, i, m, o):
    a, selector, b = (t.integer(one) for one in o[1:4])
    if None in (a, selector, b) or m:
        return t.put(o[0], [None], i)
    data = struct.pack("<II", a, b)
    result = 0
    for q in range(4):
        one = selector >> 4 * q & 15
        byte = data[one & 7]
        result |= (byte if one < 8 else (255 if byte >> 7 else 0)) << 8 * q
    t.put(o[0], [result], i)


@handles("IABS")
def absolute(t, i, m, o):
    a = t.integer(o[1])
    t.put(o[0], [None if a is None else abs(signed(a)) & MASK], i)


@handles("P2R")
def pack_predicates(t, i, m, o):
    mask, kept = t.integer(o[3]), t.integer(o[2])
    if m or None in t.predicates or None in (mask, kept):
        return t.put(o[0], [None], i)
    bits = sum(bool(p) << q for q, p in enumerate(t.predicates[:7]))
    t.put(o[0], [kept & ~mask & MASK | bits & mask], i)


@handles("R2P")
def unpack_predicates(t, i, m, o):
    value, mask = t.integer(o[1]), t.integer(o[2])
    for q in range(7):
        if mask >> q & 1:
            t.put_predicate(Operand(f"P{q}"), None if value is None or m else bool(value >> q & 1), i)


# ---- floating point


def floats(t, o, function, double=False):
    """Bits of a function of operands."""
    read = t.double if double else t.single
    values = [read(one) for one in o]
    if None in values:
        return [None, None] if double else [None]
    try:
        result = function(*values)
    except (OverflowError, ZeroDivisionError, ValueError):
        result = math.nan
    return bits64(result) if double else [bits32(result)]


def fused(a, b, c):
    return a * b + c


ARITHMETIC = {"ADD": (operator.add, 2), "MUL": (operator.mul, 2), "FMA": (fused, 3)}


@handles("FADD", "FMUL", "FFMA", "DADD", "DMUL", "DFMA")
def arithmetic(t, i, m, o):
    function, count = ARITHMETIC[i.does[1:]]
    if "SAT" in m:
        t.put(o[0], floats(t, o[1:1 + count], lambda *v: min(max(function(*v), 0.0), 1.0)), i)
    else:
        t.put(o[0], floats(t, o[1:1 + count], function, i.does[0] == "D"), i)


@handles("FMNMX")
def extreme(t, i, m, o):
    least = t.predicate(o[3])
    t.put(o[0], [None] if least is None else floats(t, o[1:3], min if least else max), i)


@handles("FSETP", "DSETP")
def float_compare(t, i, m, o):
    read = t.single if i.does == "FSETP" else t.double
    a, b, joined = read(o[2]), read(o[3]), t.predicate(o[4])
    test = None if a is None or b is None else compared(m, a, b)
    join = JOIN[next(one for one in m if one in JOIN)]
    for to, value in ((o[0], test), (o[1], None if test is None else not test)):
        result = None if value is None or joined is None else join(value, joined)
        if result is None and joined is False and "AND" in m:
            result = False
        t.put_predicate(to, result, i)


@handles("FCHK")
def check(t, i, m, o):
    t.put_predicate(o[0], False, i)  # a quotient of ordinary numbers


@handles("MUFU")
def special_function(t, i, m, o):
    functions = {"RCP": lambda x: 1 / x, "RSQ": lambda x: 1 / math.sqrt(x), "SQRT": math.sqrt, "EX2": lambda x: 2.0**x,
                 "LG2": math.log2, "SIN": math.sin, "COS": math.cos}
    if m[0] in ("RCP64H", "RSQ64H"):  # of the upper half of a double
        high = t.integer(o[1])
        result = [None]
        if high is not None:
            x = f64(0, high)
            result = [bits64(functions[m[0][:3]](x))[1] if x > 0 or (x < 0 and m[0] == "RCP64H") else 0x7ff00000]
        return t.put(o[0], result, i)
    t.put(o[0], floats(t, o[1:2], functions[m[0]]) if m[0] in functions else [None], i)


@handles("F2F")
def convert(t, i, m, o):
    formats = m[:2]
    if formats == ["F64", "F32"]:
        value = t.single(o[1])
        return t.put(o[0], [None, None] if value is None else bits64(value), i)
    if formats == ["F32", "F64"]:
        value = t.double(o[1])
        return t.put(o[0], [None if value is None else bits32(value)], i)
    t.forget(i)


@handles("F2FP")
def pack_halves(t, i, m, o):
    """Two floats as numbers of 16 bits, the first one above."""
    high, low = t.single(o[1]), t.single(o[2])
    if high is None or low is None or m[:2] not in (["BF16", "F32"], ["F16", "F32"]):
        return t.forget(i)
    if m[0] == "F16" and max(abs(high), abs(low)) > 65504:
        return t.forget(i)
    halves = [bits32(v) >> 16 if m[0] == "BF16" else struct.unpack("<H", struct.pack("<e", v))[0] for v in (low, high)]
    t.put(o[0], [halves[0] | halves[1] << 16], i)


@handles("I2F", "I2FP")
def from_integer(t, i, m, o):
    wide = any("64" in one and one[0] in "US" for one in m)
    value, upper = t.integer(o[1]), t.word(o[1], 1) if wide else 0
    if value is None or upper is None:
        return t.forget(i)
    value |= upper << 32
    if not any(one in ("U32", "U64") for one in m):
        value = signed(value, 64 if wide else 32)
    t.put(o[0], bits64(float(value)) if "F64" in m else [bits32(float(value))], i)


@handles("F2I")
def to_integer(t, i, m, o):
    value = t.double(o[1]) if "F64" in m else t.single(o[1])
    wide = "U64" in m or "S64" in m
    if value is None or not math.isfinite(value):
        return t.forget(i)
    result = int(value) & ((1 << 64) - 1)
    t.put(o[0], [result & MASK, result >> 32] if wide else [result & MASK], i)


@handles("HFMA2", "HADD2")
def halves(t, i, m, o):
    # As the compiler uses it for a constant: 0 * 0 and two numbers of 16 bits, the upper one first.
    if i.does == "HFMA2" and o[1].number == o[2].number == 255 and o[3].kind == "float":
        return t.put(o[0], [struct.unpack("<I", struct.pack("<ee", o[4].value, o[3].value))[0]], i)
    if "F32" in m and o[1].kind == "R" and o[1].number == 255:  # to a float
        value = t.word(o[2])
        if value is not None:
            half = struct.pack("<H", value >> (16 if o[2].half == ".H1_H1" else 0) & 0xffff)
            return t.put(o[0], [bits32(struct.unpack("<e", half)[0])], i)
    t.forget(i)


@handles("HMMA")
def tensor_product(t, i, m, o):
    operands = [t.word(o[1], q) for q in range(4)] + [t.word(o[2], q) for q in range(2)]
    zero = all(value is not None and value & 0x7fffffff == 0 for value in operands[:4]) or \
        all(value is not None and value & 0x7fffffff == 0 for value in operands[4:])
    t.put(o[0], [t.word(o[3], q) for q in range(4)] if zero else [None] * 4, i)


# ---- memory and other threads


@handles("LDC")
def load_constant(t, i, m, o):
    words = t.constant(o[1], 8 if "64" in m else 1 if "U8" in m else 4) if o[1].kind == "const" else None
    t.put(o[0], [None] * width(i) if words is None else list(words), i)


def narrowed(m, data):
    """What a load of few bytes leaves in a register."""
    if "U8" in m:
        return [data[0]]
    if "U16" in m:
        return [data[0] | data[1] << 8]
    return None


@handles("LDG", "LD")
def load_global(t, i, m, o):
    operand = next(one for one in o if one.kind == "address")
    to = next(one for one in o if one.kind in ("R", "UR"))
    address = t.address(operand.terms)
    if address is None:
        return t.put(to, [None] * width(i), i)
    region = address >> REGION_BITS
    if region == 0:  # a pointer that another thread has put into shared memory, where this one has seen 0
        return t.put(to, [None] * width(i), i)
    if not 1 <= region <= len(t.regions):
        raise Stuck(f"a load from nowhere ({address:#x}) at {i.address:04x}: {i.text}")
    element, offset = t.regions[region - 1], address & ((1 << REGION_BITS) - 1)
    data = bytes(element[(offset + q) % len(element)] for q in range(4 * width(i)))
    t.put(to, narrowed(m, data) or list(struct.unpack(f"<{width(i)}I", data)), i)


@handles("LDS")
def load_shared(t, i, m, o):
    address = t.address(o[1].terms)
    if address is None:
        return t.put(o[0], [None] * width(i), i)
    words = [t.shared.get(address // 4 + q, 0) for q in range(width(i))]  # 0: what other threads have put there
    if words[0] is not None:
        words = narrowed(m, struct.pack("<I", words[0])[address % 4:]) or words
    t.put(o[0], words, i)


@handles("STS")
def store_shared(t, i, m, o):
    address = t.address(o[0].terms)
    if address is None:
        return
    size = 1 if "U8" in m else 2 if "U16" in m else 4
    if size == 4:
        for q in range(width(i)):
            t.shared[address // 4 + q] = t.word(o[1], q)
        return
    word, value = t.shared.get(address // 4, 0), t.word(o[1])
    shift, ones = 8 * (address % 4), (1 << 8 * size) - 1
    known = word is not None and value is not None
    t.shared[address // 4] = word & ~(ones << shift) & MASK | (value & ones) << shift if known else None


@handles("SHFL")
def shuffle(t, i, m, o):
    t.put_predicate(o[0], True)
    t.put(o[1], [t.word(o[2])], i)  # every lane has what this one has


@handles("VOTE")
def vote(t, i, m, o):
    value = t.predicate(o[-1])
    for one in o[:-1]:
        if one.kind in ("P", "UP"):
            t.put_predicate(one, value, i)
        else:
            t.put(one, [None if value is None else MASK if value else 0], i)


for name in disassembly.NO_RESULT:
    HANDLERS.setdefault(name, lambda t, i, m, o: None)
