"""Sets of version 1 of the format, whose codec blocks have a frame rate and no hop: they go on as they are."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.codec.spec import codec_spec
from pipeline.encode.plan import fingerprint
from pipeline.encode.ranks import Rank
from pipeline.encode.run import EncodeOutcome, EncodeRequest, encode_folder
from pipeline.encode.settings import Settings
from shards.manifest import MANIFEST, read_manifest
from shards.storage import list_files
from shards.verify import find_faults
from tests.support.notes import Silent, files_of, nsynth_folder, options

pytestmark = pytest.mark.usefixtures("without_workers")

BLOCK_OF_1 = {
    "name": "encodec_mini", "weights_sha256": "a90fd5333d59e3164ace3302e5bc20e4a5c1dad0c2559a34a1aed3c9fd6d42f9",
    "sample_rate": 24_000, "bandwidth": 1.5, "codebooks": 2, "codebook_size": 1024, "frame_rate": 75,
}  # fmt: skip
FINGERPRINT = "296e68b8cb380117f2d66bee43d33eb84ce067716fa8c5342e7a8a6dcb4f4906"  # with the default settings


def encode(audio: Path, out: Path, extend: bool = False, seed: int = 0) -> EncodeOutcome:
    return encode_folder(EncodeRequest(audio, out, options(seed=seed), 2, extend, rank=Rank()), Silent())


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    return nsynth_folder(tmp_path / "audio", train=5, valid=1)


@pytest.fixture
def old(audio: Path, tmp_path: Path) -> Path:
    """A finished set as version 1 wrote it."""
    out = tmp_path / "old"
    encode(audio, out)
    for name in list_files(out):
        if name.endswith(".json"):
            value = json.loads((out / name).read_text())
            blocks = value if name == MANIFEST else value["settings"]
            assert blocks["codec"]["hop"] == 320
            blocks["codec"] = BLOCK_OF_1
            value.update({"version": 1} if name == MANIFEST else {})
            (out / name).write_text(json.dumps(value))
    return out


def test_digests_are_those_that_version_1_wrote() -> None:
    """The constant was printed by the last commit before version 2."""
    settings = Settings(codec_spec("encodec_mini"))
    assert fingerprint(settings, "0" * 64) == FINGERPRINT


def test_a_finished_set_is_recognised_and_stays_as_it_is(audio: Path, old: Path) -> None:
    before = files_of(old)
    assert encode(audio, old).tasks_run == 0
    assert files_of(old) == before and list(find_faults(old)) == []


def test_an_unfinished_set_is_finished_with_the_same_notes(audio: Path, old: Path, tmp_path: Path) -> None:
    encode(audio, tmp_path / "new")
    (old / MANIFEST).unlink()
    (old / "train-00001.json").unlink()
    assert encode(audio, old).tasks_run == 1
    assert files_of(old)[MANIFEST] == files_of(tmp_path / "new")[MANIFEST]
    assert list(find_faults(old)) == []


def test_a_set_is_extended_and_its_shards_stay(audio: Path, old: Path) -> None:
    before = files_of(old)
    shutil.copytree(nsynth_folder(audio.parent / "more", train=7, valid=1), audio, dirs_exist_ok=True)
    assert encode(audio, old, extend=True).tasks_run == 1
    after = files_of(old)
    assert {name for name in before if after[name] != before[name]} == {MANIFEST}
    assert read_manifest(old).ledger.encoded == 8 and list(find_faults(old)) == []


def test_other_settings_are_refused(audio: Path, old: Path) -> None:
    (old / MANIFEST).unlink()
    with pytest.raises(Exception, match="seed 0, and this is 1"):
        encode(audio, old, seed=1)
