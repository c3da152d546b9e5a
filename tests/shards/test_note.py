"""shards.note: flatten keeps every code, token files come back equal, and damaged ones are refused by name."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shards.errors import ShardError
from shards.note import (
    Codec,
    Note,
    flatten,
    npy_bytes,
    npy_tokens,
    read_token_file,
    unflatten,
    write_token_file,
)
from tests.support.shard_sets import CODEC, random_note

VERSION_1 = {
    "name": "encodec_mini", "weights_sha256": "0" * 64, "sample_rate": 24_000, "bandwidth": 1.5, "codebooks": 2,
    "codebook_size": 1024, "frame_rate": 75,
}  # fmt: skip
GEOMETRIES = {  # sample rate, hop, codebooks, codebook size, kbps as their authors give them
    "EnCodec 24 kHz": (24_000, 320, 8, 1024, 6.0),
    "EnCodec 32 kHz": (32_000, 640, 4, 2048, 2.2),
    "DAC 44.1 kHz": (44_100, 512, 9, 1024, 7.75),
    "Mimi, first 8 codebooks": (24_000, 1920, 8, 2048, 1.1),
}

codes_of_any_shape = st.tuples(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(0, 40)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(0, 1023))
)


@given(codes_of_any_shape)
def test_unflatten_restores_what_flatten_interleaved(codes: np.ndarray) -> None:
    tokens = flatten(codes)
    assert tokens.dtype == np.int16
    np.testing.assert_array_equal(unflatten(tokens, len(codes)), codes)


def test_flatten_puts_all_codebooks_of_a_frame_side_by_side() -> None:
    assert flatten(np.array([[1, 2, 3], [10, 20, 30]])).tolist() == [1, 10, 2, 20, 3, 30]


@given(frames=st.integers(1, 50), seed=st.integers(0, 1000), codebooks=st.sampled_from([2, 4, 32]))
def test_a_token_file_gives_back_note_and_codec(
    tmp_path_factory: pytest.TempPathFactory, frames, seed, codebooks
) -> None:
    codec = Codec("encodec_24khz", "ab" * 32, 24_000, 320, codebooks, 1024, 0.75 * codebooks)
    note = random_note("sämple-1", frames, codec, seed)
    path = write_token_file(tmp_path_factory.mktemp("tokens"), note, codec)
    read = read_token_file(path)
    assert (read.note.key, read.note.labels, read.codec, read.sampled) == (note.key, note.labels, codec, None)
    np.testing.assert_array_equal(read.note.tokens, note.tokens)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return write_token_file(tmp_path, random_note("note"), CODEC)


def change_json(path: Path, **changes: object) -> None:
    side = path.with_suffix(".json")
    side.write_text(json.dumps({**json.loads(side.read_text()), **changes}))


def test_a_code_out_of_range_is_refused(token_file: Path) -> None:
    token_file.write_bytes(npy_bytes(np.array([0, 1024], np.int16)))
    with pytest.raises(ShardError, match=r"note\.npy: codes from 0 to 1024, but a codebook has 0 to 1023"):
        read_token_file(token_file)


@pytest.mark.parametrize("count", [0, CODEC.most_tokens + 2])
def test_a_note_without_tokens_or_longer_than_any_that_is_encoded_is_refused(token_file: Path, count: int) -> None:
    token_file.write_bytes(npy_bytes(np.zeros(count, np.int16)))
    with pytest.raises(ShardError, match=rf"note\.npy: holds {count} tokens"):
        read_token_file(token_file)


def test_half_a_frame_is_refused(token_file: Path) -> None:
    token_file.write_bytes(npy_bytes(np.zeros(5, np.int16)))
    with pytest.raises(ShardError, match="5 tokens are no multiple of the codec's 2 codebooks"):
        read_token_file(token_file)


@pytest.mark.parametrize("tokens", [np.zeros((2, 3), np.int16), np.zeros(4, np.int32), np.zeros(4, ">i2"), np.zeros(4)])
def test_anything_but_flat_int16_is_refused(token_file: Path, tokens: np.ndarray) -> None:
    token_file.write_bytes(npy_bytes(tokens))
    with pytest.raises(ShardError, match=r"is not a whole \.npy file of flat int16 codes"):
        read_token_file(token_file)


@pytest.mark.parametrize(
    "codec", [None, "encodec", {}, {**CODEC.to_json(), "codebooks": 0}, {**CODEC.to_json(), "name": 3}]
)
def test_a_codec_block_that_is_missing_or_wrong_is_refused(token_file: Path, codec: object) -> None:
    change_json(token_file, codec=codec)
    with pytest.raises(ShardError, match=r"note\.json: .*codec block"):
        read_token_file(token_file)


@pytest.mark.parametrize("missing", ["note.npy", "note.json"])
def test_half_a_pair_is_refused(token_file: Path, missing: str) -> None:
    (token_file.parent / missing).unlink()
    with pytest.raises(ShardError, match=f"{missing}: missing; a token file is a pair"):
        read_token_file(token_file)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('data ran as code')",)


NPY = npy_bytes(np.zeros(9, np.int16))


def with_header(text: bytes, version: bytes = b"\1\0") -> bytes:
    """An .npy file with another header before the same numbers."""
    text = text.ljust(-(-len(text) // 64) * 64 + 53) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + NPY[128:]


def header_of(shape: str, descr: str = "'<i2'", order: str = "False") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()


DAMAGED = {
    "pickle": pickle.dumps(Bomb()),
    "empty": b"",
    "magic alone": b"\x93NUMPY",
    "header alone": NPY[:128],
    "cut short": NPY[:-1],
    "longer": NPY + b"\0",
    "no bracket": NPY.replace(b"}", b" "),
    "a zero byte": NPY.replace(b"(9,)", b"(9,\0"),
    "version 2": with_header(header_of("(9,)"), b"\2\0"),
    "open brackets": with_header(b"{" * 99),
    "open parentheses": with_header(header_of("(" * 5_000)),
    "unary minus": with_header(header_of("(" + "-" * 5_000 + "1,)")),
    "negative": with_header(header_of("(-1,)")),
    "beyond 64 bits": with_header(header_of(f"({2**70},)")),
    "large": with_header(header_of(f"({2**40},)")),
    "empty and huge": with_header(header_of(f"(0, {2**62})")),
    "a bool": with_header(header_of("(True,)")),
    "no tokens": npy_bytes(np.zeros(0, np.int16)),
    "another order": with_header(header_of("(9,)", order="True")),
    "two dimensions": npy_bytes(np.zeros((3, 3), np.int16)),
    "int32": npy_bytes(np.zeros(9, np.int32)),
    "big-endian": npy_bytes(np.zeros(9, ">i2")),
    "a record": with_header(header_of("(9,)", "[('a', '<i2')]")),
    "a digit of another script": with_header("{'descr': '<i2', 'fortran_order': False, 'shape': (\u0669,), }".encode()),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_bytes_that_are_no_array_of_codes_are_refused_and_run_nothing(data: bytes) -> None:
    with pytest.raises(ShardError, match=r"^x: (is not a whole|holds \d+ tokens)") as error:
        npy_tokens(data, "x")
    assert "\n" not in error.value.message


@given(st.integers(1, 2_000))
def test_tokens_of_any_length_come_back(length: int) -> None:
    tokens = np.arange(length, dtype=np.int16)
    np.testing.assert_array_equal(npy_tokens(npy_bytes(tokens), "x"), tokens)


@given(st.integers(0, len(NPY) - 1), st.integers(0, 255))
def test_one_changed_byte_is_another_code_or_is_refused(position: int, byte: int) -> None:
    data = NPY[:position] + bytes([byte]) + NPY[position + 1 :]
    try:
        tokens = npy_tokens(data, "x")
    except ShardError:
        assert position < 128
    else:
        assert len(tokens) == 9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sample_rate", 10**12),
        ("sample_rate", "24000"),
        ("sample_rate", 319),  # less than a frame a second
        ("bandwidth", float("inf")),
        ("bandwidth", True),
        ("codebooks", 10**12),
        ("codebooks", True),
        ("codebooks", "2"),
        ("codebook_size", 10**12),
        ("codebook_size", 32_769),  # more than int16 has
        ("hop", 0),
        ("hop", "320"),
    ],
)
def test_each_number_of_a_codec_has_bounds_and_a_type(token_file: Path, name: str, value: object) -> None:
    change_json(token_file, codec={**CODEC.to_json(), name: value})
    with pytest.raises(ShardError, match=r"note\.json"):
        read_token_file(token_file)


def test_a_token_file_of_version_1_is_read(token_file: Path) -> None:
    expected = read_token_file(token_file)
    change_json(token_file, codec=VERSION_1)
    assert read_token_file(token_file).codec == expected.codec == CODEC


@pytest.mark.parametrize("rate", [0, -75, 70, "75", None, 24_001])
def test_a_frame_rate_of_version_1_is_whole_and_divides_the_sample_rate(token_file: Path, rate: object) -> None:
    change_json(token_file, codec={**VERSION_1, "frame_rate": rate})
    with pytest.raises(ShardError, match=r"note\.json: its codec block is damaged"):
        read_token_file(token_file)


def test_digests_are_made_of_the_block_of_version_1_where_it_can_describe_the_codec() -> None:
    assert CODEC.identity() == VERSION_1
    for codec in (replace(CODEC, bandwidth=None), replace(CODEC, hop=512)):
        assert codec.identity() == codec.to_json() and "frame_rate" not in codec.to_json()


@pytest.mark.parametrize(("rate", "hop", "codebooks", "size", "kbps"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_frame_rate_need_not_be_whole(rate: int, hop: int, codebooks: int, size: int, kbps: float) -> None:
    codec = Codec("a codec", "0" * 64, rate, hop, codebooks, size)
    assert codec.kbps == pytest.approx(kbps, abs=0.01)
    assert codec.seconds(round(10 * codec.frame_rate) * codebooks) == pytest.approx(10, abs=hop / rate)


def test_an_array_of_pickled_objects_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ShardError, match="x: is not a whole"):
        npy_tokens((tmp_path / "bomb.npy").read_bytes(), "x")


def test_a_note_that_cannot_be_decoded_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no multiple"):
        write_token_file(tmp_path, Note("odd", np.zeros(3, np.int16)), CODEC)
    assert list(tmp_path.iterdir()) == []
