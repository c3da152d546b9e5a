"""shards.note: flatten keeps every code, token files come back equal, and damaged ones are refused by name."""

import json
import pickle
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
    npy_array,
    npy_bytes,
    npy_tokens,
    read_token_file,
    unflatten,
    write_token_file,
)
from tests.support.shard_sets import CODEC, random_note

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


@given(frames=st.integers(0, 50), seed=st.integers(0, 1000), codebooks=st.sampled_from([2, 4, 32]))
def test_a_token_file_gives_back_note_and_codec(
    tmp_path_factory: pytest.TempPathFactory, frames, seed, codebooks
) -> None:
    codec = Codec("encodec_24khz", "ab" * 32, 24_000, 0.75 * codebooks, codebooks, 1024, 75)
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


def test_half_a_frame_is_refused(token_file: Path) -> None:
    token_file.write_bytes(npy_bytes(np.zeros(5, np.int16)))
    with pytest.raises(ShardError, match="5 tokens are no multiple of the codec's 2 codebooks"):
        read_token_file(token_file)


@pytest.mark.parametrize("tokens", [np.zeros((2, 3), np.int16), np.zeros(4, np.int32), np.zeros(4, ">i2"), np.zeros(4)])
def test_anything_but_flat_int16_is_refused(token_file: Path, tokens: np.ndarray) -> None:
    token_file.write_bytes(npy_bytes(tokens))
    with pytest.raises(ShardError, match="not one dimension of int16"):
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
DAMAGED = [pickle.dumps(Bomb()), b"", b"\x93NUMPY", NPY[:-1], NPY.replace(b"}", b" "), NPY.replace(b"(9,)", b"(9,\0")]


@pytest.mark.parametrize("data", DAMAGED)
def test_bytes_that_are_no_plain_array_are_refused_and_run_nothing(data: bytes) -> None:
    with pytest.raises(ShardError, match="x: is not a whole"):
        npy_array(data, "x")
    with pytest.raises(ShardError, match="x: is not a whole"):
        npy_tokens(data, "x")


def test_an_array_of_pickled_objects_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ShardError, match="x: is not a whole"):
        npy_array((tmp_path / "bomb.npy").read_bytes(), "x")


def test_a_note_that_cannot_be_decoded_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no multiple"):
        write_token_file(tmp_path, Note("odd", np.zeros(3, np.int16)), CODEC)
    assert list(tmp_path.iterdir()) == []
