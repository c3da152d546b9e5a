"""JSON and TOML that strangers wrote -> plain values and dataclasses: bounded in size and depth, one kind of error.

Knows no file format: what a field may be is said by the type of its dataclass.
"""

import json
import math
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shards.errors import ShardError, UserError, first_line
from shards.storage import LARGEST_FILE, read_bytes

LARGEST_TOML = 1 << 14  # bytes; reading a key of many parts takes the square of their number
DEEPEST = 64  # lists and objects inside each other; Python itself ends at about 1000, wherever that happens to be
LARGEST_INT = (1 << 64) - 1
FEW = 1 << 20  # lists and objects that any file may hold; each takes up to 200 bytes of memory
BYTES_EACH = 16  # of a file that holds more
DIGITS = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))  # `bytes.translate`: all are 0
LONG_NUMBER = b"0" * 20  # by that table: a whole number that may have more than 64 bits

T = TypeVar("T")


def read_object(path: Path, cure: str, error: type[UserError] = ShardError) -> dict[str, Any]:
    """Read a file, or the file under a URL, that holds a JSON object. `cure` ends the error.

    Raises:
        FileNotFoundError: there is no such file.
        error: as `json_object`.
        UserError: it cannot be fetched, or is larger than any such file.
    """
    return json_object(read_bytes(path), str(path), error, cure=cure)


def json_object(
    data: bytes | str, name: str, error: type[UserError] = ShardError, has_nan: bool = False, cure: str = ""
) -> dict[str, Any]:
    """Parse a JSON object. `name` begins the error, and `cure`, if there is one, ends it.

    has_nan: NaN and Infinity are numbers, as `json` writes them.

    Raises:
        error: no JSON, JSON that is no object, too large, too deep, or with a number that is no 64-bit one.
    """
    try:
        value = _parse_json(data.encode() if isinstance(data, str) else data, has_nan)
    except (ValueError, RecursionError) as fault:
        raise error(f"{name}: is not JSON ({_reason(fault)}){'; ' if cure else ''}{cure}") from fault
    if not isinstance(value, dict):
        raise error(f"{name}: holds JSON that is not an object{'; ' if cure else ''}{cure}")
    return value


def toml_table(data: bytes, name: str, error: type[UserError] = UserError) -> dict[str, Any]:
    """Parse the content of a TOML file. `name` begins the error.

    Raises:
        error: no TOML, too large, too deep, or with a number that is infinite or no 64-bit one.
    """
    try:
        if len(data) > LARGEST_TOML:
            raise ValueError(f"more than {LARGEST_TOML} bytes")
        table = tomllib.loads(data.decode())
        _check_values(table)
    except (ValueError, RecursionError) as fault:
        raise error(f"{name}: is not TOML ({_reason(fault)})") from fault
    return table


def to_dataclass(kind: type[T], value: Any, name: str, cure: str, error: type[UserError] = ShardError) -> T:
    """Convert parsed JSON to a dataclass by the types of its fields; other fields are ignored.

    Raises:
        error: a field that is missing, of another type, or out of its range. `name` begins it, `cure` ends it.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as fault:
        raise error(f"{name} is damaged ({_reason(fault)}); {cure}") from fault


def _parse_json(data: bytes, has_nan: bool) -> Any:
    if len(data) > LARGEST_FILE:
        raise ValueError(f"more than {LARGEST_FILE} bytes")
    brackets = data.count(b"[") + data.count(b"{")
    if brackets > FEW + len(data) // BYTES_EACH:
        raise ValueError(f"{brackets} lists and objects in {len(data)} bytes")
    # msgspec refuses lone surrogates, NaN and numbers beyond float, and has no way to read NaN.
    value = json.loads(data) if has_nan else msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    has_long_number = LONG_NUMBER in data.translate(DIGITS)  # which takes a tenth of the time of a regular expression
    if has_nan or brackets > DEEPEST or has_long_number:  # the labels of a note need no second look
        _check_values(value, has_nan)
    return value


def _check_values(value: Any, has_nan: bool = False) -> None:
    """Raise ValueError if a value is too deep, no 64-bit number, infinite, or text that is no Unicode."""
    level = [value]
    for _ in range(DEEPEST + 1):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item)
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
            elif isinstance(item, str):
                item.encode()
            elif isinstance(item, int) and abs(item) > LARGEST_INT:
                raise ValueError("a whole number of more than 64 bits")
            elif isinstance(item, float) and not has_nan and not math.isfinite(item):
                raise ValueError("a number that is not finite")
        if not deeper:
            return
        level = deeper
    raise ValueError(f"nested more than {DEEPEST} deep")


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return f"nested more than {DEEPEST} deep"
    return first_line(error)
