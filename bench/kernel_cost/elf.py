"""What a cubin, an ELF file, says of each kernel: registers, shared memory, and where its arguments lie."""
import struct


class Cubin:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = data = file.read()
        if data[:4] != b"\x7fELF":
            raise SystemExit(f"{path}: not a cubin (an ELF file)")
        table, entry, count, names = *struct.unpack_from("<Q", data, 0x28), *struct.unpack_from("<HHH", data, 0x3a)
        headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + entry * q) for q in range(count)]
        strings = headers[names][4]
        self.sections = {}
        for name, kind, _, _, offset, size, link, *_ in headers:
            self.sections[self.text(strings + name)] = (kind, offset, size, link)
        _, offset, size, link = self.sections[".symtab"]
        self.symbols = []  # names by index
        self.kernels = {}  # index of the symbol, by name
        for q in range(size // 24):
            name, info, other = struct.unpack_from("<IBB", data, offset + 24 * q)
            self.symbols.append(self.text(headers[link][4] + name))
            if info & 15 == 2 and other & 0x10:  # a function that can be launched
                self.kernels[self.symbols[q]] = q
        self.registers = {self.symbols[symbol]: number for symbol, number in
                          (struct.unpack("<II", value) for value in self.attributes(".nv.info", 0x2f))}

    def text(self, at):
        return self.data[at:self.data.index(b"\0", at)].decode()

    def attributes(self, section, wanted):
        """Values of one kind in a list of: format, kind, size (or the value itself), value."""
        _, at, size, _ = self.sections[section]
        end = at + size
        while at < end:
            form, kind, number = struct.unpack_from("<BBH", self.data, at)
            at += 4
            if form == 4:
                if kind == wanted:
                    yield self.data[at:at + number]
                at += number

    def static_shared(self, kernel):
        return self.sections.get(f".nv.shared.{kernel}", (0, 0, 0))[2]

    def arguments(self, kernel):
        """Offset in constant bank 0, and size."""
        value, = self.attributes(f".nv.info.{kernel}", 0x0a)
        return struct.unpack("<IHH", value)[1:]

    def constants(self, kernel):
        """Banks but 0, whose contents a launch decides."""
        banks = {}
        for bank in range(1, 6):
            for name in (f".nv.constant{bank}", f".nv.constant{bank}.{kernel}"):
                if name in self.sections:
                    _, offset, size, _ = self.sections[name]
                    banks[bank] = self.data[offset:offset + size]
        return banks
