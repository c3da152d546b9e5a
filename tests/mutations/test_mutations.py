"""Every format that is read, damaged in thousands of ways: each input is accepted or rejected, none is a crash."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutations.faults import FACTS
from tests.mutations.formats import FORMATS
from tests.mutations.mutators import mutate_bytes, mutate_json, mutate_tar
from tests.mutations.run import COUNT
from tests.support import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and /proc are those of Linux")


def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a process of its own, which can be forked: pytest's has threads."""
    command = [sys.executable, "-m", f"tests.mutations.{module}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.long
@pytest.mark.parametrize("name", FORMATS)
def test_two_thousand_inputs_are_accepted_or_rejected(name: str) -> None:
    result = run("run", name, "--count", str(COUNT))
    assert result.stdout.startswith(f"{name}: {COUNT} inputs, "), result.stderr
    assert result.returncode == 0, result.stdout


def test_every_kind_of_crash_is_found() -> None:
    result = run("faults")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert {content: outcome for content, (outcome, _) in found.items()} == {
        content: outcome for content, (outcome, _) in FACTS.items()
    }
    for content, (_, fact) in FACTS.items():
        assert fact in found[content][1]


def test_the_same_generator_gives_the_same_input(make_set: Callable[..., Path]) -> None:
    folder = make_set(train=[3])
    for mutate, name in (
        (mutate_bytes, "train-00000.tar"),
        (mutate_tar, "train-00000.tar"),
        (mutate_json, "manifest.json"),
    ):
        data = (folder / name).read_bytes()
        inputs = [mutate(data, random.Random(seed)) for seed in range(40)]
        assert inputs == [mutate(data, random.Random(seed)) for seed in range(40)]
        assert len(set(inputs)) > 20
