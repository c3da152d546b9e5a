"""Devices of a process: one name rule, with the GPUs that torch sees, and a GPU of its own for each rank."""

import pytest
import torch

from shards.errors import UserError
from trainer.runtime import resolve_device, resolve_dtype


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_a_device_is_the_one_of_its_name(name: str) -> None:
    assert resolve_device(name) == torch.device(name)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["cuda:2", "cuda:x", "cpu:0", "abacus"])
def test_a_device_that_torch_does_not_see_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}: not on this machine"):
        resolve_device(name)


@pytest.mark.usefixtures("two_gpus")
def test_under_torchrun_each_rank_has_a_gpu_and_an_index_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:1")
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="--device cuda:1: torchrun"):
        resolve_device("cuda:1")


def test_without_a_gpu_auto_is_a_device_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("has_units", [True, False])
def test_auto_is_bfloat16_where_the_cpu_has_units_for_it(monkeypatch: pytest.MonkeyPatch, has_units: bool) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: has_units)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    assert resolve_dtype("auto", torch.device("cpu")) == (torch.bfloat16 if has_units else torch.float32)
    assert resolve_dtype("float32", torch.device("cpu")) == torch.float32
    assert resolve_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
