"""Lets the package index's `torch`, which is linked to CUDA, be imported without NVIDIA's 2.7 GB of libraries.

For each library that torch names and nobody provides, writes one next to it in which every function
returns 100, CUDA's "no device". No compiler is needed: the files are laid out here, as ELF says.

usage: stub_cuda.py SITE_PACKAGES
"""

import collections
import pathlib
import struct
import sys

# `mov eax, 100; ret`. The vector of machines is short: the wheels of other machines are not linked to CUDA.
CODE = b"\xb8\x64\x00\x00\x00\xc3"
SYSTEM = ("libc.so", "libm.so", "libdl.", "librt.", "libpthread.", "libgcc_s", "libstdc++", "ld-linux", "libgomp",
          "libutil", "libz.", "libcuda.so")
NVIDIA = ("cu", "nccl", "nv")

SYMBOL = struct.Struct("<IBBHQQ")
PAGE = 0x1000


def text(strings, offset):
    return strings[offset:strings.index(b"\0", offset)].decode()


class Library:
    """What a shared library needs: other libraries, their versions, their symbols."""

    def __init__(self, path):
        data = path.read_bytes()
        table, = struct.unpack_from("<Q", data, 0x28)
        size, count = struct.unpack_from("<HH", data, 0x3A)
        sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
        by_kind = {section[1]: section for section in sections}
        body = lambda section: data[section[4]:section[4] + section[5]]
        dynamic = by_kind[6]
        strings = body(sections[dynamic[6]])
        self.needed = [text(strings, value) for tag, value in struct.iter_unpack("<QQ", body(dynamic)) if tag == 1]
        self.versions = self._versions(by_kind.get(0x6FFFFFFE), sections, body)
        numbers = [n & 0x7FFF for n, in struct.iter_unpack("<H", body(by_kind[0x6FFFFFFF]))]
        symbols = by_kind[11]
        strings = body(sections[symbols[6]])
        self.defined, self.undefined = set(), []
        for number, (name, info, _, section, _, _) in zip(numbers, SYMBOL.iter_unpack(body(symbols))):
            if section:
                self.defined.add(text(strings, name))
            elif name:
                weak = info >> 4 == 2
                self.undefined.append((text(strings, name), self.versions.get(number), weak))

    @staticmethod
    def _versions(section, sections, body):
        """Version number -> (library, version), of `.gnu.version_r`."""
        found = {}
        if section is None:
            return found
        data, strings, at = body(section), body(sections[section[6]]), 0
        for _ in range(section[7]):
            _, count, file, aux, following = struct.unpack_from("<HHIII", data, at)
            entry = at + aux
            for _ in range(count):
                _, _, number, name, further = struct.unpack_from("<IHHII", data, entry)
                found[number] = (text(strings, file), text(strings, name))
                entry += further
            at += following
        return found


def elf_hash(name):
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value


def library(soname, symbols):
    """The bytes of a library with these (name, version or None), all of them the one function."""
    strings, offsets = bytearray(b"\0"), {}

    def string(value):
        if value not in offsets:
            offsets[value] = len(strings)
            strings.extend(value.encode() + b"\0")
        return offsets[value]

    versions = [soname, *sorted({version for _, version in symbols if version})]
    headers = 64 + 4 * 56
    code_at = headers
    symtab = SYMBOL.pack(0, 0, 0, 0, 0, 0)
    versym = struct.pack("<H", 0)
    buckets, chains = [0] * max(1, len(symbols)), [0] * (len(symbols) + 1)
    for index, (name, version) in enumerate(symbols, 1):
        symtab += SYMBOL.pack(string(name), 0x12, 0, 1, code_at, len(CODE))
        versym += struct.pack("<H", versions.index(version) + 1 if version else 1)
        bucket = elf_hash(name) % len(buckets)
        chains[index], buckets[bucket] = buckets[bucket], index
    verdef = b""
    for index, version in enumerate(versions, 1):
        following = 28 if index < len(versions) else 0
        base = int(index == 1)
        verdef += struct.pack("<HHHHIII", 1, base, index, 1, elf_hash(version), 20, following)
        verdef += struct.pack("<II", string(version), 0)
    table = struct.pack(f"<{2 + len(buckets) + len(chains)}I", len(buckets), len(chains), *buckets, *chains)
    soname_at = string(soname)

    image, places = bytearray(headers) + CODE, {}
    for name, part in (("symtab", symtab), ("hash", table), ("verdef", verdef), ("versym", versym), ("strings", strings)):
        image.extend(bytes(-len(image) % 8))
        places[name] = len(image)
        image.extend(part)
    readable = len(image)
    image.extend(bytes(-len(image) % PAGE))
    dynamic_at = len(image)
    tags = [(14, soname_at), (4, places["hash"]), (5, places["strings"]), (6, places["symtab"]), (10, len(strings)),
            (11, SYMBOL.size), (0x6FFFFFF0, places["versym"]), (0x6FFFFFFC, places["verdef"]),
            (0x6FFFFFFD, len(versions)), (0, 0)]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    image.extend(dynamic)

    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 4, 0, 0, 0)
    segment = lambda kind, flags, at, size: struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, PAGE)
    header += segment(1, 5, 0, readable) + segment(1, 6, dynamic_at, len(dynamic))
    # The stack stays as it is: not executable.
    header += segment(2, 6, dynamic_at, len(dynamic)) + segment(0x6474E551, 6, 0, 0)
    image[:headers] = header
    return bytes(image)


def main(site):
    folder = site / "torch" / "lib"
    paths = [*folder.glob("*.so*"), *(site / "torch").glob("_C*.so")]
    libraries = [Library(path) for path in paths]
    present = {path.name for path in [*paths, *(site / "nvidia").glob("**/*.so*")]}
    missing = {name for lib in libraries for name in lib.needed if name not in present and not name.startswith(SYSTEM)}
    if not missing:
        return
    defined = set().union(*(lib.defined for lib in libraries))
    wanted = collections.defaultdict(set)
    # A symbol without a version may come from any library that is loaded: all of them go into one.
    first = min(missing)
    for lib in libraries:
        users = missing.intersection(lib.needed)
        for name, version, weak in lib.undefined:
            if version and version[0] in missing:
                wanted[version[0]].add((name, version[1]))
            elif users and not version and not weak and name.startswith(NVIDIA) and name not in defined:
                wanted[first].add((name, None))
    for soname in sorted(missing):
        symbols = sorted(wanted[soname], key=lambda symbol: (symbol[0], symbol[1] or ""))
        (folder / soname).write_bytes(library(soname, symbols))
    print(f"{len(missing)} libraries with {sum(map(len, wanted.values()))} functions written")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
