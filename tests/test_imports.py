"""Imports run one way, pipeline -> shards <- trainer, and `--help` waits for nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"pipeline", "shards", "trainer"}
AUDIO = {"encodec", "librosa", "soundfile", "soxr", "torchaudio"}
HEAVY = {
    "aiohttp",
    "datasets",
    "datatrove",
    "fsspec",
    "ray",
    "upath",
    "librosa",
    "matplotlib",
    "scipy",
    "soundfile",
    "torch",
    "webdataset",
    "x_transformers",
    "encodec",
}


def imported(package: str) -> set[str]:
    """Top-level names that any file of `package` imports, also inside functions."""
    names: set[str] = set()
    for path in (ROOT / package).glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute, so that this rule can be read off them"
                names.add((node.module or "").partition(".")[0])
    return names


def test_shards_imports_nothing_of_ours_and_no_torch() -> None:
    assert imported("shards") & (OURS | AUDIO | {"torch", "webdataset"}) == {"shards"}


def test_the_trainer_knows_no_pipeline_no_codec_and_no_audio() -> None:
    assert imported("trainer") & (OURS | AUDIO) == {"trainer", "shards"}


def test_the_pipeline_knows_no_trainer() -> None:
    assert imported("pipeline") & OURS == {"pipeline", "shards"}


def test_only_the_codec_files_know_encodec() -> None:
    users = [path.name for path in (ROOT / "pipeline").glob("**/*.py") if "encodec" in imports_of(path)]
    assert users == ["model.py"]


def imports_of(path: Path) -> set[str]:
    modules = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom | ast.Import))
    return {
        name.partition(".")[0]
        for node in modules
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }


@pytest.mark.parametrize("package", sorted(OURS))
def test_help_loads_nothing_heavy(package: str) -> None:
    program = (
        f"import sys; from {package}.__main__ import main; main(['--help'], standalone_mode=False); "
        "print('loaded', *sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    help_text, loaded = said.rsplit("loaded", 1)
    assert "Commands:" in help_text
    assert not HEAVY & set(loaded.split())
