"""docs/shard-format.md: its shell reads a shard as `shards.reader` does, and its fields are those that are written."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np

from shards.note import unflatten
from shards.reader import read_shard
from tests.support import ROOT
from tests.support.shard_sets import CODEC, random_note, write_set

SPECIFICATION = (ROOT / "docs" / "shard-format.md").read_text()


def test_a_plain_shell_reads_the_codes(tmp_path: Path) -> None:
    keys = ["short", "long-" + "é" * 95, "guitar_acoustic_000-040-100"]  # the second has its name in a PAX header
    write_set(tmp_path / "set", {"train": [[random_note(key, 3 + len(key) % 4) for key in keys]]})
    shard = tmp_path / "set" / "train-00000.tar"
    (script,) = re.findall(r"```sh\n(.*?)```", SPECIFICATION, re.DOTALL)
    (tmp_path / "out").mkdir()
    variables = {"SHARD": str(shard), "FOLDER": str(tmp_path / "out"), "CODEBOOKS": str(CODEC.codebooks)}
    output = subprocess.run(
        ["sh", "-euc", script], env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **variables}, capture_output=True
    )
    assert output.returncode == 0, output.stderr
    key, read = "", dict[str, list[list[int]]]()
    for line in output.stdout.decode().splitlines():
        if line.startswith(" "):
            read[key].append([int(code) for code in line.split()])
        else:
            key = line
            read[key] = []
    assert read.keys() == {*keys}
    for note in read_shard(shard):
        assert np.array_equal(read[note.key], unflatten(note.tokens, CODEC.codebooks).T)


def test_the_fields_of_the_manifest_are_those_of_the_specification(tmp_path: Path) -> None:
    write_set(tmp_path / "set", {"train": [[random_note("a")]]})
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    table = SPECIFICATION.split("## The manifest")[1].split("##")[0]
    rows = dict(re.findall(r"^\| (`.*?) \| (.*) \|$", table, re.MULTILINE))
    names = {cell: re.findall(r"`([a-z_0-9]+)`", cell) for cell in (*rows, *rows.values())}
    assert {name for cell in rows for name in names[cell]} == manifest.keys()
    assert set(names[rows["`codec`"]]) == manifest["codec"].keys()
    (shard,) = manifest["splits"]["train"]
    assert set(names[rows["`splits`"]]) == shard.keys()
    assert set(names[rows["`ledger`"]]) == manifest["ledger"].keys()
