"""`listen`: the files of decode, score and page, in one process that loads and reads everything once."""

import os
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from shards.manifest import read_manifest
from shards.note import Note, write_token_file
from shards.reader import read_shard
from shards.sample_info import SampleInfo
from shards.sample_list import SampleList
from tests.support import listening


@pytest.fixture(scope="module")
def real_set(tmp_path_factory):
    return listening.make_listening_set(tmp_path_factory.mktemp("real"), train=5, valid=4)


@pytest.fixture
def samples(tmp_path, real_set):
    """Three token files without WAVs."""
    manifest = read_manifest(real_set)
    notes = list(read_shard(real_set / manifest.splits["train"][0].name))[:3]
    for index, note in enumerate(notes):
        info = SampleInfo(run="runs/none", shards=str(real_set), step=7, seed=0, index=index)
        sample = Note(f"sample_{index:04d}", note.tokens, note.labels)
        write_token_file(tmp_path / "samples" / "tokens", sample, manifest.codec, info)
    return tmp_path / "samples"


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_listen_writes_the_files_of_decode_score_and_page_byte_for_byte(samples):
    tokens = contents(samples)
    run("decode", samples / "tokens", "--out", samples)
    run("score", samples)
    run("page", samples, "--real", 2)
    expected = contents(samples)
    for path in expected.keys() - tokens.keys():
        (samples / path).unlink()
    result = run("listen", samples, "--real", 2)
    assert contents(samples) == expected
    assert {Path("scores.json"), Path("index.html"), Path("sample_0002.wav")} <= expected.keys()
    assert "3 WAV files" in result.stdout and "unseen real notes" in result.stdout
    assert result.stdout.count("Next: ") == 1
    assert result.stdout.splitlines()[-1].startswith(f"{samples / 'index.html'}: 3 samples. Next: open it")


def test_listen_loads_one_codec_and_reads_each_file_once(samples, monkeypatch):
    import soundfile

    from pipeline.codec import model
    from pipeline.decode import source

    opened: Counter[str] = Counter()

    class CountedFile(soundfile.SoundFile):
        def __init__(self, file, *arguments, **options):
            if isinstance(file, bytes) and Path(os.fsdecode(file)).exists():
                opened[os.fsdecode(file)] += 1
            super().__init__(file, *arguments, **options)

    loads, decoded, read_bytes = [], [], Path.read_bytes
    load_codec, decode = source.load_codec, model.EnCodec.decode

    def count_read(path):
        opened[str(path)] += 1
        return read_bytes(path)

    monkeypatch.setattr(soundfile, "SoundFile", CountedFile)
    monkeypatch.setattr(Path, "read_bytes", count_read)
    monkeypatch.setattr(source, "load_codec", lambda *arguments: loads.append(arguments) or load_codec(*arguments))
    monkeypatch.setattr(
        model.EnCodec, "decode", lambda codec, codes: decoded.extend(map(bytes, codes.numpy())) or decode(codec, codes)
    )
    run("listen", samples, "--real", 2)
    assert len(loads) == 1
    token_files = [path for path in opened if Path(path).parent.name == "tokens"]
    recordings = [path for path in opened if path.endswith(".wav")]
    assert len(token_files) == 2 * 3 and all(opened[path] == 1 for path in token_files)
    assert len(recordings) >= 4 and all(opened[path] == 1 for path in recordings)
    assert not [path for path in recordings if Path(path).parent == samples]  # waveforms stay in memory
    assert len(decoded) >= 3 + 4 + 3  # samples, unseen notes, train notes
    assert len(set(decoded[3:])) == len(decoded[3:])  # a real note is decoded once for scores and page


def test_a_second_listen_decodes_nothing_and_writes_the_same_files(samples):
    run("listen", samples, "--real", 1)
    first = contents(samples)
    result = run("listen", samples, "--real", 1)
    assert contents(samples) == first and "(3 from an earlier run)" in result.stdout


def test_a_damaged_token_file_is_an_error_of_one_line(samples):
    path = samples / "tokens" / "sample_0001.npy"
    path.write_bytes(path.read_bytes()[:100])
    result = CliRunner().invoke(main, ["listen", str(samples)])
    assert result.exit_code == 2 and "sample_0001.npy" in result.output and not (samples / "index.html").exists()


def test_samples_of_an_earlier_call_are_named_once_and_not_on_the_page(samples):
    run("listen", samples, "--real", 1)
    SampleList(2, ("sample_0000", "sample_0001")).write(samples / "tokens")
    for command in ("listen", "page"):
        result = run(command, samples, "--real", 1)
        assert result.output.count("left out: 1 sample of other calls (sample_0002)") == 1
        assert "2 samples. Next: open it" in result.stdout
        assert "sample_0002" not in (samples / "index.html").read_text()


@pytest.fixture
def run_folder(tmp_path):
    """A run with one train loss."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 5.0}\n')
    return folder


@pytest.mark.parametrize("command", ["listen", "page"])
def test_a_run_and_a_set_that_have_moved_are_named_and_the_page_is_written(
    samples, real_set, run_folder, tmp_path, command
):
    moved = tmp_path / "moved"
    real_set.rename(moved)
    try:
        if command == "page":
            run("decode", samples / "tokens", "--out", samples)
        result = run(command, samples)
        page = (samples / "index.html").read_text()
        for text in (result.stdout, page):
            assert "No training curve: runs/none/metrics.jsonl is not there; --run FOLDER names the run." in text
            assert f"No real notes to compare with: {real_set}: no such shard set" in text
            assert "if the set has moved, --shards FOLDER names it" in text
        assert result.stdout.count("is not there;") == 1 and result.stdout.count("no such shard set") == 1
        assert ("No new scores" in result.stdout) == (command == "listen") and not (samples / "scores.json").exists()
        result = run(command, samples, "--shards", moved, "--run", run_folder)
        page = (samples / "index.html").read_text()
        assert not any("No training curve" in text or "No real notes" in text for text in (result.stdout, page))
        assert (samples / "scores.json").exists() == (command == "listen")
    finally:
        moved.rename(real_set)


def test_a_score_of_a_set_that_has_moved_names_the_option(samples, real_set, tmp_path):
    run("decode", samples / "tokens", "--out", samples)
    real_set.rename(tmp_path / "moved")
    try:
        result = CliRunner().invoke(main, ["score", str(samples)])
        assert result.exit_code == 2 and "if the set has moved, --shards FOLDER names it" in result.output
    finally:
        (tmp_path / "moved").rename(real_set)
