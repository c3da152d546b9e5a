"""Mutators: bytes of a file -> bytes of a hostile or damaged one.

Each takes the bytes and a random generator; the same generator gives the same bytes. Knows nothing of commands.
"""

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]

DEEP = 100_000  # levels of nesting
BLOCK = 512  # bytes of a tar's header
RAW = "\ue000raw\ue000"  # stands for a text that json.dumps would not write
NUMBERS = (
    *("NaN", "Infinity", "-Infinity", "9" * 400, "-" + "9" * 400, "9" * 5_000, "1e400", "1e308", "1e-320", "-0.0"),
    *("0", "-1", "1", "2", "3", "0.5", "1.5", "1000000000000", "1e12", "2147483648", "4294967296"),
    *(str(2**63 - 1), str(2**63), str(2**64), str(-(2**63) - 1)),
)
TEXTS = (
    *('""', '"text"', '"12"', '"nan"', '"../nothing"', '"/dev/null"', '"a\\nb"', '"\\u0000"', '"\\u001b[2J"'),
    *('"\\ud800"', '"\\udcff"', '"' + "x" * 100_000 + '"', '"pitch"', '"%s{}"', '"\\u65e5\\u672c"'),
)
OTHERS = (
    *("true", "false", "null", "[]", "{}", "[1]", "[[]]", "[null]", '{"a": 1}', '["a"]', "[1, 2, 3]"),
    *("[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP, "[" * 900 + "]" * 900, "[" * DEEP),
)
VALUES = NUMBERS + TEXTS + OTHERS


# --- any format -------------------------------------------------------------------------------------------------------


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, cut, remove, double, insert or overwrite bytes, anywhere or in the first 512."""
    changed = bytearray(data)
    end = len(changed) if rng.random() < 0.5 else min(len(changed), BLOCK)
    start, stop = sorted((rng.randint(0, end), rng.randint(0, end)))
    match rng.randrange(9):
        case 0:
            for _ in range(rng.randint(1, 30)):
                changed[rng.randrange(end)] = rng.randrange(256)
        case 1:
            for _ in range(rng.randint(1, 3)):
                changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
        case 2:
            del changed[stop:]
        case 3:
            del changed[start:stop]
        case 4:
            changed[start:start] = changed[start:stop]
        case 5:
            changed[start:start] = rng.randbytes(rng.randint(1, 64))
        case 6:
            changed[start : start + 64] = rng.randbytes(64)
        case 7:
            changed[start:stop] = bytes(stop - start)
        case _:
            return rng.choice((b"", b"\0", b"\xff\xfe", bytes(10_000), data[::-1], data * 3, data + b"\xff" * 99))
    return bytes(changed)


# --- JSON and TOML ----------------------------------------------------------------------------------------------------


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove, add or double values of a JSON text, or write it in another encoding."""
    value = json.loads(data)
    texts: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _change_node(value, rng, texts)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    for replacement in texts:
        text = text.replace(json.dumps(RAW), replacement, 1).replace(f'"{RAW}"', replacement, 1)
    match rng.randrange(14):
        case 0:
            return text.encode("utf-16", "surrogatepass")
        case 1:
            return b"\xef\xbb\xbf" + text.encode("utf-8", "surrogatepass")
        case 2:
            encoded = bytearray(text.encode("utf-8", "surrogatepass"))
            position = rng.randrange(len(encoded))
            encoded[position:position] = rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\0"))
            return bytes(encoded)
    return text.encode("utf-8", "surrogatepass")


def mutate_json_lines(data: bytes, rng: random.Random) -> bytes:
    """Change one or two lines of JSON as `mutate_json` does, or their order."""
    lines = data.splitlines()
    for index in rng.sample(range(len(lines)), min(len(lines), rng.randint(1, 2))):
        lines[index] = mutate_json(lines[index], rng)
    if rng.random() < 0.2:
        rng.shuffle(lines)
    return b"\n".join(lines) + b"\n" * rng.randint(0, 2)


def _change_node(value: Any, rng: random.Random, texts: list[str]) -> Any:
    """Change one node below `value`; a text in `texts` replaces the mark that is left for it."""
    parents: list[Any] = []
    _find_parents(value, parents)
    if not parents or rng.random() < 0.05:
        texts.append(rng.choice(VALUES))
        return RAW
    parent = rng.choice(parents)
    key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    match rng.randrange(10):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):  # a field that no reader expects, or under a strange name
            texts.append(rng.choice(VALUES))
            parent[rng.choice(("extra", "", "\ud800", "a.b", "x" * 5_000, "\0", "__class__"))] = RAW
        case 1:
            parent.extend([parent[key]] * rng.choice((1, 1_000)))
        case 2 if isinstance(parent, dict):  # a key twice
            texts.append(f"{json.dumps(parent[key])}, {json.dumps(key)}: {rng.choice(VALUES)}")
            parent[key] = RAW
        case 3:  # a value from elsewhere in the file
            other = rng.choice(parents)
            other_key = rng.choice(list(other) if isinstance(other, dict) else range(len(other)))
            parent[key] = json.loads(json.dumps(other[other_key]))
        case 4 if isinstance(parent[key], int | float):
            parent[key] = parent[key] * rng.choice((2, 10, -1, 10**9)) + rng.choice((0, 1, -1))
        case _:
            texts.append(rng.choice(VALUES))
            parent[key] = RAW
    return value


def _find_parents(value: Any, parents: list[Any]) -> None:
    """Add all lists and objects that have something in them."""
    if isinstance(value, dict | list) and value:
        parents.append(value)
        for child in value.values() if isinstance(value, dict) else value:
            _find_parents(child, parents)


def mutate_toml(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove, double or add lines of a TOML text."""
    lines = [line for line in data.decode().splitlines() if line]
    values = (
        *(text for text in VALUES if text not in ("NaN", "Infinity", "-Infinity", "null")),
        *("nan", "inf", "-inf", "1979-05-27T07:32:00Z", "0xdead_beef", "'''x'''", "[" * DEEP + "]" * DEEP),
        *("{a=" * DEEP + "1" + "}" * DEEP, "{}", '["pitch"]', '"[\\"pitch\\"]"'),
    )
    for _ in range(rng.choice((1, 1, 2))):
        index = rng.randrange(len(lines))
        key = lines[index].partition(" = ")[0]
        match rng.randrange(8):
            case 0:
                del lines[index]
            case 1:
                lines.insert(index, rng.choice(lines))
            case 2:
                new = ("a." * DEEP + "a = 1", "[" + "a." * DEEP + "a]", "[[model]]", "x = 1", "[other]", "a" * DEEP)
                lines.insert(index, rng.choice(new))
            case 3 if key.startswith("["):
                lines[index] = f"{key.strip('[]')} = {rng.choice(values)}"
            case _:
                if not key.startswith("["):
                    lines[index] = f"{key} = {rng.choice(values)}"
    text = "\n".join(lines).encode()
    return text if rng.random() < 0.9 else mutate_bytes(text, rng)


# --- CSV --------------------------------------------------------------------------------------------------------------

CELLS = (
    *("", " ", '"', '""', '"a', 'a"b', "'", ",", ",,", '"a,b"', '"a\nb"', "\r", "\0", "\x1b[2J", "\ufeff", "=1+1", "#"),
    *("nan", "inf", "-0", "1e999", "0x10", "007", "1_000", "9" * 400, "0." + "1" * 400, "true", "null", "[1]", "{}"),
    *("a" * 200_000, "é" * 300, "pitch", "set", "file_name", "KEY", "../../x", "/", "\ud800"),
)


def mutate_csv(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove, double or move cells and lines of a CSV text, or write it in another way."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    for _ in range(rng.choice((1, 1, 2))):
        index = rng.randrange(len(rows))
        row = rows[index]
        column = rng.randrange(len(row)) if row else 0
        match rng.randrange(8):
            case 0:
                rows.insert(index, row[:])
            case 1 if len(rows) > 1:
                del rows[index]
            case 2:
                row.insert(column, rng.choice(CELLS))
            case 3 if row:
                del row[column]
            case 4:
                row[:] = rng.choice(rows) * rng.choice((1, 1, 2_000))
            case _ if row:
                row[column] = rng.choice(CELLS)
    comma, end = rng.choice((",", ",", ",", ";", "\t")), rng.choice(("\n", "\n", "\r\n", "\r"))
    text = end.join(map(comma.join, rows))
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    encoded = text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
    return encoded if rng.random() < 0.9 else mutate_bytes(encoded, rng)


# --- npy --------------------------------------------------------------------------------------------------------------


def mutate_npy(data: bytes, rng: random.Random) -> bytes:
    """Write another header before the numbers of an npy file, or other numbers behind the header."""
    body = data[-rng.choice((len(data) - 128, 0, 1, 2)) :] if rng.random() < 0.3 else data[128:]
    count = len(body) // 2
    shapes = (
        *(f"({number},)" for number in NUMBERS),
        *("()", "(0,)", f"({count}, 1)", f"(1, {count})", f"(0, {2**62})", f"({2**40}, {2**40})", f"({count},) * 9"),
        *(f"[{count}]", f"{count}", "True", "(True,)", "None", f"({count}, )", f"({count}L,)", "(1,) * 1000000000"),
        *("(" * 99, ")" * 99, "(" + "-" * 5_000 + "1,)", "(" * 5_000 + "1" + ")" * 5_000, f"({'1,' * 5_000})"),
        *("(9**9**9,)", f"(0x{count:x},)", f"({count}.0,)", "('1',)", "{}", f"{'[' * 900}{']' * 900}"),
    )
    types = (
        *(
            "'<i2'",
            "'>i2'",
            "'|i1'",
            "'<i8'",
            "'<u2'",
            "'<f4'",
            "'<f8'",
            "'|O'",
            "'<U10'",
            "'|S0'",
            "'|V2'",
            "'<M8[s]'",
        ),
        *("[('a', '<i2')]", "[('a', '<i2', (1000000000000,))]", "'<i2,<i2'", "'i2'", "'=i2'", "''", "'<c16'", "1"),
        *("[('a', " * 200 + "'<i2'" + ")]" * 200, "'(1000000000000,)<i2'", "None", "lambda: 1", "-" * 5_000 + "1"),
    )
    descr, order, shape = "'<i2'", "False", f"({count},)"
    match rng.randrange(6):
        case 0:
            descr = rng.choice(types)
        case 1:
            order = rng.choice(("True", "1", "None", "''", "not " * 5_000 + "True", "0 if 1 else 2"))
        case 2:
            body = rng.choice((b"\xff\x7f", b"\xff\xff", b"\0\x04", b"\x80\x04N.")) * max(1, count)
        case 3:
            body = body[: rng.randrange(len(body) + 1)]
            shape = f"({len(body) // 2},)"
        case _:
            shape = rng.choice(shapes)
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if rng.random() < 0.2:
        new = (
            "{" * 99,
            "}" * 99,
            "-" * 9_999,
            "[" * 9_999,
            "\0",
            "",
            "1",
            "{}",
            "'" * 3,
            "\\",
            "#",
            "\ud800",
            header * 2,
        )
        header = rng.choice((*new, header.replace("shape", "x"), header + "x", header[:-3], "(" + header))
    text = header.encode("latin-1", "replace")
    padding = -(10 + len(text) + 1) % 64 if rng.random() < 0.8 else rng.choice((0, 1, 4_000))
    text += b" " * padding + b"\n"
    version = rng.choice(((1, 0),) * 6 + ((2, 0), (3, 0), (0, 0), (9, 9)))
    stated = len(text) if rng.random() < 0.8 else rng.choice((0, 1, len(text) - 1, 65_535, 2**31, 2**32 - 1))
    length = struct.pack("<H", stated & 0xFFFF) if version < (2, 0) else struct.pack("<I", stated)
    return b"\x93NUMPY" + bytes(version) + length + text + body


# --- tar --------------------------------------------------------------------------------------------------------------


def tar_member(name: bytes, content: bytes, kind: bytes = b"0", size: bytes | None = None, rest: bytes = b"") -> bytes:
    """Write a member by hand, so that every field can lie. `rest`: the header's bytes from 345 on."""
    size = f"{len(content):011o}\0".encode() if size is None else size
    header = name[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size[:12].ljust(12, b"\0")
    header += b"00000000000\0" + b" " * 8 + kind[:1] + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
    header = (header[:345] + rest).ljust(BLOCK, b"\0")[:BLOCK]
    header = header[:148] + f"{sum(header):06o}\0 ".encode() + header[156:]
    return header + content + bytes(-len(content) % BLOCK)


def pax_records(**records: str | bytes) -> bytes:
    """Write the content of a PAX header: `LENGTH KEY=VALUE` a line."""
    lines = b""
    for key, value in records.items():
        name = key.replace("__", ".").encode()
        value = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        line = b" " + name + b"=" + value + b"\n"
        length = len(line) + len(str(len(line) + len(str(len(line)))))
        lines += str(length).encode() + line
    return lines


def read_members(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split a tar of plain files: (name, content) of each."""
    members, position = [], 0
    while any(header := data[position : position + BLOCK]):
        size = int(header[124:135], 8)
        start = position + BLOCK
        members.append((header[:100].rstrip(b"\0"), data[start : start + size]))
        position = start + size + -size % BLOCK
    return members


def write_members(members: list[tuple[bytes, bytes]]) -> bytes:
    """Undo `read_members`."""
    return b"".join(tar_member(name, content) for name, content in members) + bytes(2 * BLOCK)


def mutate_tar(data: bytes, rng: random.Random) -> bytes:
    """Write a tar of the same notes with a member whose header lies, or with strange ones between."""
    members = [tar_member(name, content) for name, content in read_members(data)]
    index = rng.randrange(len(members))
    name, content = read_members(data)[index]
    giants = (8 * 2**30 - 1, 8 * 2**30, 100 * 2**30, 2**40, 2**62, 2**63, 2**64, 2**80, len(content) + BLOCK, 10**9)
    giant = rng.choice(giants)
    base256 = b"\x80" + (giant % 2**88).to_bytes(11, "big")
    octal = f"{giant:011o}".encode()
    plain = tar_member(name, content)
    chained = rng.choice((20, 900, 3_000))
    long_name = tar_member(b"././@LongLink", name + b"\0", b"L")
    sparse = b"".join(f"{number:011o}\0".encode() for number in (0, min(giant, 8 * 2**30 - 1))) * 4
    sparse = bytes(41) + sparse + b"\0" + f"{min(giant, 8 * 2**30 - 1):011o}\0".encode()

    def extended(kind: bytes = b"x", **records: str | bytes) -> bytes:
        return tar_member(b"PaxHeaders/x", pax_records(**records), kind)

    match rng.randrange(23):
        case 0:
            members[index] = tar_member(name, content, size=octal[:12])
        case 1:
            members[index] = tar_member(name, content, size=rng.choice((base256, b"\xff" * 12, b"\x80" + bytes(11))))
        case 2:
            members[index] = extended(rng.choice((b"x", b"g")), size=rng.choice((str(giant), *NUMBERS, ""))) + plain
        case 3:  # GNU's old form
            members[index] = tar_member(name, content, b"S", rest=sparse)
        case 4:
            members[index] = extended(GNU__sparse__size=str(giant), GNU__sparse__map=f"0,{len(content)}") + plain
        case 5:
            members[index] = extended(GNU__sparse__map=rng.choice((f"0,{giant}", "0", "a,b", "0,1," * 9_999))) + plain
        case 6:
            records = {"GNU__sparse__major": "1", "GNU__sparse__minor": "0", "GNU__sparse__realsize": str(giant)}
            block = rng.choice((b"1\n0\n%d\n" % giant, b"999999999999\n", b"1\n", b"9" * 600, b"")).ljust(BLOCK, b"\0")
            sparse_member = tar_member(name, block + content)
            members[index] = extended(GNU__sparse__name=name.decode(), **records) + sparse_member
        case 7:
            members[index] = extended(rng.choice((b"x", b"g")), path=name) * chained + plain
        case 8:
            members[index] = long_name * chained + plain
        case 9:
            members[index] = (long_name + extended(path=name)) * (chained // 2) + plain
        case 10:
            members[index] = tar_member(b"././@LongLink", b"", rng.choice((b"L", b"K")), size=base256) + plain
        case 11:
            paths = (b"a\0b.npy", b"\0", b"", b"\xff.npy", b"../x.npy", b"/x.npy", b"x" * 300 + b".npy", b"a\nb.npy")
            paths += (b".npy", b"a.b.npy", "日本.npy".encode(), "\ud800.npy".encode("utf-8", "surrogatepass"))
            member = (tar_member(path, content) for path in paths)
            pax = (extended(path=path) + plain for path in paths)
            members[index] = rng.choice((*member, *pax))
        case 12:
            records = (
                b"99999999999999999999 path=a\n",
                b"6 =a\n",
                b"path",
                b"0 path=a\n",
                b"-5 path=a\n",
                b"9" * 5_000,
            )
            members[index] = tar_member(b"x", rng.choice((*records, b"14 path=a.npy", b"\xff" * 40)), b"x") + plain
        case 13:
            members[index] = extended(hdrcharset="BINARY", path=b"\xff.npy") + plain
        case 14:
            members[index] = tar_member(name, content, rng.choice((b"1", b"2", b"3", b"5", b"6", b"7", b"Z", b"\xff")))
        case 15:
            members.insert(rng.randrange(len(members)), plain)
        case 16:
            rng.shuffle(members)
        case 17:
            del members[index]
        case 18:
            members[index] = extended(path=name, size=str(len(content)), mtime=rng.choice(NUMBERS)) + plain
        case 19:
            members[index] = extended(b"g", comment="x" * rng.choice((10, 2_000_000))) + plain
        case 20:
            members[index] = (
                plain[:148] + rng.choice((b"0000000\0", b"\xff" * 8, b"-123456\0", b"        ")) + plain[156:]
            )
        case 21:
            members += [bytes(BLOCK), plain, b"\0" * rng.choice((1, BLOCK, 9 * BLOCK)), b"more"]
        case _:
            numbers = (b" 12\0", b"-1\0", b"0x10\0", b"8\0", b"\xb2\0", b"", b"1_0\0", b"\x31\xb2", b"7" * 12)
            members[index] = tar_member(name, content, size=rng.choice(numbers))
    end = (
        bytes(2 * BLOCK) if rng.random() < 0.9 else rng.choice((b"", bytes(BLOCK), bytes(20 * BLOCK), b"\xff" * BLOCK))
    )
    return b"".join(members) + end


def in_tar(ending: bytes, mutate: Mutator) -> Mutator:
    """Return a mutator of one member with this ending; the tar around it is right."""

    def mutate_member(data: bytes, rng: random.Random) -> bytes:
        members = read_members(data)
        index = rng.choice([index for index, (name, _) in enumerate(members) if name.endswith(ending)])
        members[index] = members[index][0], mutate(members[index][1], rng)
        return write_members(members)

    return mutate_member


# --- weights and checkpoints ------------------------------------------------------------------------------------------


def split_safetensors(data: bytes) -> tuple[Any, bytes]:
    """Split a safetensors file into its JSON header and its tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_safetensors(header: bytes, body: bytes) -> bytes:
    """Undo `split_safetensors`, given the header's bytes."""
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + body


def mutate_safetensors_header(data: bytes, rng: random.Random) -> bytes:
    """Change the JSON header, or the length that stands before it."""
    header, body = split_safetensors(data)
    if rng.random() < 0.1:
        return rng.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little") + data[8:]
    return join_safetensors(mutate_json(json.dumps(header).encode(), rng), body)


def mutate_tensors(data: bytes, rng: random.Random) -> bytes:
    """Write a whole file of other tensors, with the right checksum if it has one: renamed, reshaped, left out ..."""
    import torch
    from safetensors.torch import load, save

    metadata = split_safetensors(data)[0].get("__metadata__", {})
    tensors = change_tensors(load(data), rng)
    if "facts" in metadata and rng.random() < 0.6:
        metadata["facts"] = mutate_json(metadata["facts"].encode(), rng).decode("utf-8", "replace")
    if "crc32" in metadata:
        total = 0
        for name in sorted(tensors):
            content = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data
            total = zlib.crc32(content, zlib.crc32(name.encode(), total))
        metadata["crc32"] = str(total) if rng.random() < 0.9 else rng.choice((*NUMBERS, "", "x", str(-total)))
    return save({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, metadata)


def change_tensors(tensors: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Change one tensor of a state, or its name, or none."""
    import torch

    tensors = dict(tensors)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    match rng.randrange(11):
        case 0:
            del tensors[name]
        case 1:
            tensors[rng.choice(("extra", "", "model.x", "optimizer.x", "average.x", "a.b.c", "\u65e5"))] = tensor
        case 2:
            tensors[rng.choice(sorted(tensors))] = tensor
        case 3:
            tensors[name] = tensor.reshape(-1)
        case 4:
            tensors[name] = tensor[:0] if tensor.ndim else tensor.reshape(1)
        case 5:
            tensors[name] = torch.cat([tensor.reshape(-1)] * 2)
        case 6:
            types = (torch.float64, torch.float16, torch.int64, torch.bool, torch.uint8, torch.bfloat16)
            tensors[name] = tensor.to(rng.choice(types))
        case 7 if tensor.is_floating_point():
            tensors[name] = torch.full_like(tensor, rng.choice((float("nan"), float("inf"), 6e4, 0.0)))
        case 8:
            return {} if rng.random() < 0.5 else {name: tensor}
        case 9:
            tensors[f"{name}.{rng.randrange(99)}"] = tensors.pop(name)
    return tensors


def mutate_pickle(data: bytes, rng: random.Random) -> bytes:
    """Write another object by `torch.save`, or change what is in its zip."""
    import torch

    state = torch.load(io.BytesIO(data), weights_only=True)
    if rng.random() < 0.4:
        archive = zipfile.ZipFile(io.BytesIO(data))
        names = archive.namelist()
        changed = rng.choice([name for name in names if not name.endswith("version")][:3] + names[-2:])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as copy:
            for name in names:
                content = archive.read(name)
                if name == changed:
                    deep = b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b"."
                    content = rng.choice((mutate_bytes(content, rng), mutate_bytes(content, rng), b"", deep))
                copy.writestr(name, content)
        return buffer.getvalue()
    tensors = _find_tensors(state)
    others: tuple[Any, ...] = (
        *([], {}, None, 1, "text", [state], {1: 2}, {"a": {}}, {"a": None}, {None: tensors[0]}, tensors[0], (1, 2)),
        *(
            {"\ud800": tensors[0]},
            {"x" * 5_000: tensors[0]},
            {"a": tensors[0].to_sparse()},
            {"a": torch.zeros(1).cfloat()},
        ),
        *(Trap(), {"a": Trap()}, {"a": torch.zeros(1).expand(2**40)}, {"a": torch.zeros(1).expand(2**20, 2**10)}),
    )
    if rng.random() < 0.5 and isinstance(state, dict):
        if all(isinstance(value, torch.Tensor) for value in state.values()):
            changed_state: Any = change_tensors(state, rng)
        else:
            changed_state = _change_object(state, rng, others)
    else:
        changed_state = rng.choice(others)
    buffer = io.BytesIO()
    torch.save(changed_state, buffer, _use_new_zipfile_serialization=rng.random() < 0.8)
    return buffer.getvalue() if rng.random() < 0.9 else mutate_bytes(buffer.getvalue(), rng)


class Trap:
    """An object whose pickle would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch code-was-run",)


def _find_tensors(value: Any) -> list[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for child in children for tensor in _find_tensors(child)]


def _change_object(state: Any, rng: random.Random, others: tuple[Any, ...]) -> Any:
    """Change one value below `state`."""
    parents: list[Any] = []
    _find_parents(state, parents)
    parent = rng.choice(parents)
    key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    match rng.randrange(4):
        case 0:
            del parent[key]
        case 1:
            parent[key] = rng.choice((-1, 0, 1.5, 10**12, 10**30, float("nan"), "x", True))
        case 2 if hasattr(parent[key], "reshape"):
            parent[key] = parent[key].reshape(-1)[: rng.randrange(4)]
        case _:
            parent[key] = rng.choice(others)
    return state


# --- audio ------------------------------------------------------------------------------------------------------------


def mutate_wav_header(data: bytes, rng: random.Random) -> bytes:
    """Change numbers of a WAV header: sizes, channels, rate, bits."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        offset, form = rng.choice(((4, "<I"), (16, "<I"), (20, "<H"), (22, "<H"), (24, "<I"), (28, "<I"), (32, "<H"),
                                   (34, "<H"), (40, "<I")))  # fmt: skip
        top = 2 ** (8 * struct.calcsize(form)) - 1
        number = rng.choice((0, 1, 2, 3, 7, 16, 24, 255, 1_000, 8_000, 192_000, top // 2, top // 2 + 1, top, top - 1))
        struct.pack_into(form, changed, offset, min(number, top))
    return bytes(changed)
