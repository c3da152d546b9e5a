"""shards.device: one rule for the names of devices and precisions."""

import pytest

from shards.device import resolve_device, resolve_precision
from shards.errors import UserError


@pytest.mark.parametrize(
    ("name", "cuda_devices", "has_mps", "device"),
    [
        ("auto", 0, False, "cpu"),
        ("auto", 0, True, "mps"),
        ("auto", 2, True, "cuda"),
        ("cpu", 2, True, "cpu"),
        ("mps", 2, True, "mps"),
        ("cuda", 2, False, "cuda"),
        ("cuda:1", 2, False, "cuda:1"),
    ],
)
def test_a_name_means_a_device_and_keeps_its_index(name: str, cuda_devices: int, has_mps: bool, device: str) -> None:
    assert resolve_device(name, cuda_devices, has_mps) == device


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", "", "cpu:0", ":0"])
def test_a_device_that_the_machine_lacks_is_refused_with_those_that_it_has(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}: not on this machine, which has cpu$"):
        resolve_device(name, 0, False)


@pytest.mark.parametrize("name", ["cuda:2", "cuda:", "cuda:-1", "cuda:x", "cuda:0:1", "mps:0", "cpu:1"])
def test_an_index_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"not on this machine, which has cpu, cuda, mps, cuda:0, cuda:1$"):
        resolve_device(name, 2, True)


def test_torchrun_gives_each_rank_its_own_gpu() -> None:
    assert resolve_device("cuda", 2, False, local_rank=1) == "cuda:1"
    assert resolve_device("auto", 2, False, local_rank=0) == "cuda:0"
    assert resolve_device("auto", 0, False, local_rank=3) == resolve_device("cpu", 2, False, local_rank=3) == "cpu"
    with pytest.raises(UserError, match="--device cuda:0: torchrun gives each rank its own GPU; use --device cuda"):
        resolve_device("cuda:0", 2, False, local_rank=1)
    with pytest.raises(UserError, match="rank 2 has no GPU, this machine has 2; start fewer ranks"):
        resolve_device("cuda", 2, False, local_rank=2)


@pytest.mark.parametrize(
    ("name", "has_bfloat16", "precision"),
    [
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
    ],
)
def test_a_precision_is_kept_and_auto_is_the_fast_one(name: str, has_bfloat16: bool, precision: str) -> None:
    assert resolve_precision(name, has_bfloat16) == precision


def test_another_precision_is_refused() -> None:
    with pytest.raises(UserError, match="precision float16: must be auto, float32 or bfloat16"):
        resolve_precision("float16", True)
