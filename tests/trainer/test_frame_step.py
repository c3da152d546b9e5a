"""Sampling by frames, as on a GPU: the same as position by position, also when graphs of a frame are replayed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.cuda_graphs import Graph, NoHostSync, with_cuda_graphs
from trainer import cached_decoder as cached_decoder_module
from trainer import frame_step as frame_step_module
from trainer import generate as generate_module
from trainer.config import ModelConfig
from trainer.frame_step import WARM_UPS, CudaGraphs, FrameStep
from trainer.generate import Request, generate, generate_by_frames, overlap, prepare
from trainer.model import NoteModel
from trainer.sampling import Sampling
from trainer.vocabulary import Vocabulary

CODES, FRAMES, NOTES = 32, 12, 9
SETTINGS = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(temperature=0.7, top_k=5),
    Sampling(top_p=0.8, min_p=0.02),
    Sampling(guidance=2.0, top_k=8),
    Sampling(guidance=0.0),
]
POSITIONS = pytest.mark.parametrize("position", ["token", "frame"])


@dataclass(frozen=True)
class Case:
    """A model and what it is given."""

    model: NoteModel
    labels: torch.Tensor
    uniforms: torch.Tensor

    def plainly(
        self, sampling: Sampling, prompts: Any = None, can_end: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return generate(self.model, self.labels, self.uniforms, sampling, prompts, can_end=can_end)

    def by_frames(
        self,
        sampling: Sampling,
        prompts: Any = None,
        can_end: bool = True,
        runner: Callable[[FrameStep], Callable[[int], object]] = CudaGraphs,
        progress: Callable[[int], object] = lambda tokens: None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        request = Request(self.labels, self.uniforms, sampling, prompts, can_end)
        return generate_by_frames(self.model, request, progress, runner)


def make_case(position: str, has_end: bool = False, codebooks: int = 2, windows: int = 1, shared: bool = False) -> Case:
    """A small random model with labels, whose notes end if `has_end`, and random numbers for `windows` windows."""
    torch.manual_seed(0)
    labels = () if shared else (("pitch", (40, 41, 42)), ("seconds", (0.4, 0.8)))
    ends = (5, FRAMES) if has_end else (0, 0)
    vocabulary = Vocabulary(codebooks, CODES, shared, labels, (("seconds", (0.6,)),) if labels else (), *ends)
    names = tuple(name for name, _ in labels)
    config = ModelConfig(
        width=16, depth=2, heads=2, head_width=8, position=position, labels=names, shared_vocabulary=shared
    )
    model = NoteModel(config, vocabulary, FRAMES * codebooks).eval()
    with torch.no_grad():
        for head in model.heads:
            head.weight.mul_(8)  # logits as far apart as a trained model's
        if has_end:
            model.heads[0].weight[CODES] = 2.5 * torch.randn(16, generator=torch.Generator().manual_seed(5))
    ids = [vocabulary.label_ids({"pitch": 40 + note % 3, "seconds": 0.8}) for note in range(NOTES)]
    uniforms = np.random.default_rng(1).random((NOTES, windows * FRAMES * codebooks))
    return Case(model, torch.tensor(ids, dtype=torch.long).view(NOTES, -1), torch.from_numpy(uniforms))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Graph]]:
    """Graphs on a CPU, for spans so short that a note has several, in memory that has been used before."""
    monkeypatch.setattr(frame_step_module, "SPAN", 8)
    monkeypatch.setattr(frame_step_module, "TOGETHER", 4)
    make = cached_decoder_module.empty
    monkeypatch.setattr(cached_decoder_module, "empty", lambda *arguments: make(*arguments).fill_(torch.nan))
    return with_cuda_graphs(monkeypatch)


def assert_same(ours: tuple[torch.Tensor, torch.Tensor], plain: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert torch.equal(ours[0], plain[0])
    assert torch.allclose(ours[1], plain[1], atol=1e-4)


@POSITIONS
@pytest.mark.parametrize(("sampling", "has_end"), [*((sampling, True) for sampling in SETTINGS), (Sampling(), False)])
def test_replayed_frames_are_the_positions_of_the_plain_way(
    graphs: type[Graph], position: str, sampling: Sampling, has_end: bool
) -> None:
    case = make_case(position, has_end)
    assert_same(case.by_frames(sampling), case.plainly(sampling))
    spans = 3 if position == "token" else 2  # of 24 and 12 positions
    assert (graphs.captures, graphs.replays) == (spans, FRAMES - WARM_UPS * spans)


@POSITIONS
def test_a_model_of_other_codebooks_and_one_without_labels(graphs: type[Graph], position: str) -> None:
    case = make_case(position, codebooks=3)
    assert_same(case.by_frames(Sampling()), case.plainly(Sampling()))
    case = make_case("token", shared=True)
    assert_same(case.by_frames(Sampling(guidance=3.0)), case.plainly(Sampling(guidance=3.0)))


@pytest.mark.usefixtures("graphs")
@POSITIONS
@pytest.mark.parametrize(("has_end", "guidance"), [(False, 1.0), (True, 1.5)])
def test_a_prompt_is_continued_and_the_window_slides(position: str, has_end: bool, guidance: float) -> None:
    case, sampling = make_case(position, has_end, windows=3), Sampling(guidance=guidance)
    prompts = torch.randint(CODES, (NOTES, 6), generator=torch.Generator().manual_seed(3))
    ours, plain = case.by_frames(sampling, prompts, can_end=False), case.plainly(sampling, prompts, can_end=False)
    assert torch.equal(ours[0], plain[0]) and torch.equal(ours[0][:, :6], prompts)
    assert torch.allclose(ours[1], plain[1], atol=1e-4)
    assert overlap(case.model) == FRAMES  # the window slid four times


@pytest.mark.usefixtures("graphs")
@POSITIONS
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_notes_that_ended_leave_the_batch(monkeypatch: pytest.MonkeyPatch, position: str, guidance: float) -> None:
    case, sampling = make_case(position, has_end=True, windows=2), Sampling(guidance=guidance)
    plain = case.plainly(sampling)
    lengths = (plain[0] >= 0).sum(1)
    assert len({*lengths.tolist()}) > 3
    for few in (0, NOTES):  # at most so many notes stay together whether they have ended or not
        monkeypatch.setattr(generate_module, "FEW_ON_GPU", few)
        monkeypatch.setattr(generate_module, "CHECK_EVERY", 2)
        batches: list[int] = []
        counted: list[int] = []

        def runner(step: FrameStep, batches: list[int] = batches) -> Callable[[int], object]:
            batches.append(len(step.codes))
            return CudaGraphs(step)

        assert_same(case.by_frames(sampling, runner=runner, progress=counted.append), plain)
        assert batches[0] == NOTES and (len(batches) > 1) == (few == 0)
        assert sum(counted) == case.uniforms.numel() and min(counted) >= 0


@pytest.mark.usefixtures("graphs")
def test_all_notes_that_end_early_end_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case("frame", has_end=True)
    with torch.no_grad():
        case.model.heads[0].weight[CODES] = 8 * torch.randn(16, generator=torch.Generator().manual_seed(4))
    plain = case.plainly(Sampling())
    assert int((plain[0] >= 0).sum(1).max()) < FRAMES
    monkeypatch.setattr(generate_module, "CHECK_EVERY", 2)
    frames: list[int] = []
    assert_same(case.by_frames(Sampling(), runner=lambda step: lambda span: (step(span), frames.append(span))), plain)
    assert len(frames) < FRAMES


def test_without_a_capture_sampling_goes_on(
    graphs: type[Graph], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = make_case("frame")

    def refuse(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nMore lines")

    monkeypatch.setattr("torch.cuda.graph", refuse)
    assert_same(case.by_frames(Sampling()), case.plainly(Sampling()))
    (record,) = caplog.records
    assert "operation not permitted when stream is capturing): sampling goes on" in record.getMessage()
    assert graphs.replays == 0


@POSITIONS
def test_a_frame_never_waits_for_the_device(position: str) -> None:
    case, sampling = make_case(position, has_end=True), Sampling(0.9, top_k=9, top_p=0.9, min_p=0.01, guidance=2.0)

    def watched(step: FrameStep) -> Callable[[int], object]:
        def run(span: int) -> None:
            with NoHostSync():
                step(span)

        return run

    assert_same(case.by_frames(sampling, runner=watched), case.plainly(sampling))


def test_what_waits_for_the_device_is_found() -> None:
    numbers = torch.arange(4)
    waits: list[Callable[[], object]] = [
        lambda: int(numbers.sum()),
        lambda: bool((numbers > 1).any()),
        lambda: numbers[numbers > 1],
        lambda: numbers.nonzero(),
        lambda: torch.tensor([1, 2]),
    ]
    for wait in waits:
        with NoHostSync(), pytest.raises(RuntimeError, match="the host waits"):
            wait()


@pytest.mark.usefixtures("graphs")
def test_in_bfloat16_a_frame_s_cache_is_rounded_as_the_plain_one() -> None:
    case = make_case("frame")
    prepare(case.model, torch.bfloat16)
    ours, plain = case.by_frames(Sampling()), case.plainly(Sampling())
    same = (ours[0] == plain[0]).float().mean()
    assert same > 0.7  # a last digit of the cache may make another code
