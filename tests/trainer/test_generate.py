"""Sampling: the cached decoder against the whole model, filters, and codes that can never be sampled."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import ModelConfig, load_config
from trainer.cpu.decoder import CpuDecoder, CpuWeights
from trainer.cpu.generate import NOTES_PER_THREAD
from trainer.errors import ConfigError
from trainer.generate import generate, prepare
from trainer.model import NoteModel
from trainer.sampling import Sampling, filter_logits, sample_codes
from trainer.vocabulary import Vocabulary

LABELS = (("pitch", (40, 41, 42)), ("velocity", (25, 100)))


def tiny(position: str = "frame", codebooks: int = 2, frames: int = 6) -> NoteModel:
    torch.manual_seed(0)
    config = ModelConfig(width=16, depth=2, heads=2, head_width=8, position=position, labels=("pitch", "velocity"))
    model = NoteModel(config, Vocabulary(codebooks, 32, labels=LABELS), frames * codebooks).eval()
    with torch.no_grad():
        for head in model.heads:
            head.weight.mul_(20)  # logits as far apart as a trained model's
    return model


def label_ids(model: NoteModel, notes: int) -> torch.Tensor:
    ids = [model.vocabulary.label_ids({"pitch": 40 + note % 3, "velocity": 25}) for note in range(notes)]
    return torch.tensor(ids, dtype=torch.long)


def random_uniforms(notes: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((notes, length)))


def plain(model: NoteModel, labels: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The whole note through the model again for each token."""
    codes = torch.zeros(uniforms.shape, dtype=torch.long)
    nones = torch.tensor([model.vocabulary.uncond_ids()]).expand_as(labels)
    for position in range(uniforms.shape[1]):
        frame, codebook = divmod(position, model.vocabulary.codebooks)
        with torch.no_grad():
            cond = model.logits(labels, codes)[:, frame, codebook]
            uncond = model.logits(nones, codes)[:, frame, codebook]
        logits = uncond + sampling.guidance * (cond - uncond)
        codes[:, position] = sample_codes(logits, uniforms[:, position], sampling)
    return codes


FEW_AND_MANY = pytest.mark.parametrize("notes", [5, 17])  # products take eight together, and few one by one


@FEW_AND_MANY
@pytest.mark.parametrize("position", ["token", "frame"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0),
        Sampling(temperature=0.7, top_k=5),
        Sampling(top_p=0.8),
        Sampling(min_p=0.1),
        Sampling(guidance=2.0),
        Sampling(guidance=0.0),
    ],
)
def test_the_cache_changes_nothing(position: str, sampling: Sampling, notes: int) -> None:
    model = tiny(position)
    codes, _ = generate(model, label_ids(model, notes), random_uniforms(notes, 12), sampling)
    assert torch.equal(codes, plain(model, label_ids(model, notes), random_uniforms(notes, 12), sampling))


@FEW_AND_MANY
@pytest.mark.parametrize("preset", ["tutorial", "small", "base"])
def test_logits_of_each_preset_equal_the_full_forward_pass(preset: str, notes: int) -> None:
    torch.manual_seed(0)
    config = load_config(preset).model
    labels = LABELS if config.labels else ()
    model = NoteModel(config, Vocabulary(2, 1024, config.shared_vocabulary, labels), 40).eval()
    ids = label_ids(model, notes)
    codes = torch.randint(1024, (notes, 40))
    inputs = model.inputs(ids, codes[:, : 40 - model.group])
    decoder = CpuDecoder(CpuWeights(model), notes)
    with torch.inference_mode():
        whole = model.net(inputs)
        steps = torch.stack([decoder.feed(inputs[:, index : index + 1]) for index in range(inputs.shape[1])], dim=1)
        assert torch.allclose(model.heads[0](steps), model.heads[0](whole), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 24),
    depth=st.integers(1, 2),
    heads=st.integers(1, 3),
    head_width=st.one_of(st.integers(1, 40), st.none()),
    flash=st.booleans(),
    position=st.sampled_from(["token", "frame"]),
    shared=st.booleans(),
    codebooks=st.integers(1, 3),
    notes=st.sampled_from([1, 9]),
)
def test_likelihoods_of_every_shape_that_the_settings_allow_are_those_of_the_full_forward_pass(
    width: int,
    depth: int,
    heads: int,
    head_width: int | None,
    flash: bool,
    position: str,
    shared: bool,
    codebooks: int,
    notes: int,
) -> None:
    torch.manual_seed(0)
    shape = {"width": width, "depth": depth, "heads": heads, "head_width": head_width or width, "flash": flash}
    try:
        config = ModelConfig(**shape, position=position, shared_vocabulary=shared)  # type: ignore[arg-type]
    except ConfigError:
        return
    model = NoteModel(config, Vocabulary(codebooks, 8, shared), 4 * codebooks).eval()
    labels = torch.zeros(notes, 0, dtype=torch.long)
    with torch.no_grad():
        for head in model.heads:
            head.weight.mul_(5)
        codes, likelihoods = generate(model, labels, random_uniforms(notes, 4 * codebooks), Sampling())
        logits = model.logits(labels, codes).flatten(1, 2)  # (note, token, code)
    assert torch.allclose(likelihoods, logits.log_softmax(-1).gather(2, codes[:, :, None])[:, :, 0], atol=1e-4)


@pytest.mark.parametrize("position", ["token", "frame"])
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_a_prompt_is_continued_as_if_it_had_been_sampled(position: str, frames: int) -> None:
    model = tiny(position)
    whole, likelihoods = generate(model, label_ids(model, 3), random_uniforms(3, 12), Sampling())
    prompts = whole[:, : 2 * frames]
    continued, rest = generate(model, label_ids(model, 3), random_uniforms(3, 12), Sampling(), prompts)
    assert torch.equal(continued, whole)
    assert torch.allclose(rest[:, 2 * frames :], likelihoods[:, 2 * frames :], atol=1e-4)


def test_a_sample_is_the_same_in_any_batch() -> None:
    model = tiny()
    together, _ = generate(model, label_ids(model, 7), random_uniforms(7, 12), Sampling())
    for note in range(7):
        alone, _ = generate(
            model, label_ids(model, 7)[note : note + 1], random_uniforms(7, 12)[note : note + 1], Sampling()
        )
        assert torch.equal(alone[0], together[note])


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("frames", [0, 3])
def test_threads_share_the_notes_and_change_nothing(frames: int) -> None:
    model, notes = tiny(), 2 * NOTES_PER_THREAD + 1
    prompts = torch.randint(32, (notes, 2 * frames)) if frames else None
    counted: list[int] = []
    shared = generate(model, label_ids(model, notes), random_uniforms(notes, 12), Sampling(), prompts, counted.append)
    assert torch.get_num_threads() == 2
    assert sum(counted) == notes * (12 - 2 * frames)
    torch.set_num_threads(1)
    alone = generate(model, label_ids(model, notes), random_uniforms(notes, 12), Sampling(), prompts)
    assert torch.equal(shared[0], alone[0])
    assert torch.allclose(shared[1], alone[1], atol=1e-4)


@pytest.mark.usefixtures("two_threads")
def test_what_stops_one_thread_stops_all() -> None:
    model, notes = tiny(frames=500), 2 * NOTES_PER_THREAD
    counted: list[int] = []

    def interrupt(tokens: int) -> None:
        counted.append(tokens)
        if len(counted) == 20:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate(model, label_ids(model, notes), random_uniforms(notes, 1000), Sampling(), progress=interrupt)
    assert len(counted) < 250  # of 1,000
    assert torch.get_num_threads() == 2


def test_guidance_of_one_is_no_guidance() -> None:
    model = tiny()
    nearly = Sampling(guidance=1 + 1e-9)  # computes both, with and without labels
    assert torch.equal(
        generate(model, label_ids(model, 4), random_uniforms(4, 12), nearly)[0],
        generate(model, label_ids(model, 4), random_uniforms(4, 12), Sampling())[0],
    )


def test_guidance_needs_labels() -> None:
    torch.manual_seed(0)
    config = ModelConfig(width=16, depth=1, heads=2, head_width=8)
    model = NoteModel(config, Vocabulary(2, 32), 12).eval()
    no_labels = torch.empty((3, 0), dtype=torch.long)
    plain_codes, _ = generate(model, no_labels, random_uniforms(3, 12), Sampling())
    assert torch.equal(generate(model, no_labels, random_uniforms(3, 12), Sampling(guidance=3.0))[0], plain_codes)


def test_likelihoods_are_those_of_the_model() -> None:
    model = tiny()
    codes, likelihoods = generate(
        model, label_ids(model, 3), random_uniforms(3, 12), Sampling(temperature=0.5, top_k=3)
    )
    with torch.no_grad():
        losses, _ = model(label_ids(model, 3), codes, torch.full((3,), 12))
    assert torch.allclose(likelihoods, -losses.flatten(1), atol=1e-4)


@FEW_AND_MANY
@pytest.mark.parametrize("at_once", [1, 4])
def test_bfloat16_is_float32_but_for_rounding(notes: int, at_once: int) -> None:
    """On a CPU; a few positions at once, or all one by one."""
    model = tiny()
    ids = model.inputs(label_ids(model, notes), torch.randint(32, (notes, 8)))  # five positions
    exact = CpuDecoder(CpuWeights(model), notes).feed(ids)
    prepare(model, torch.bfloat16)
    half = CpuDecoder(CpuWeights(model), notes)
    hidden = [half.feed(part) for part in ids.split_with_sizes([at_once] * (4 // at_once) + [1], 1)][-1]
    assert (half.keys.dtype, half.values.dtype, hidden.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert not torch.equal(hidden, exact) and torch.allclose(hidden, exact, atol=0.05)
    prepare(model, torch.float32)  # the same rounded weights
    assert torch.allclose(hidden, CpuDecoder(CpuWeights(model), notes).feed(ids), atol=0.02)


@pytest.mark.parametrize("position", ["token", "frame"])
def test_a_sample_is_the_same_in_any_batch_in_bfloat16(position: str) -> None:
    model = tiny(position)
    prepare(model, torch.bfloat16)
    together, likelihoods = generate(model, label_ids(model, 7), random_uniforms(7, 12), Sampling())
    assert likelihoods.dtype == torch.float32
    for note in range(7):
        alone, _ = generate(
            model, label_ids(model, 7)[note : note + 1], random_uniforms(7, 12)[note : note + 1], Sampling()
        )
        assert torch.equal(alone[0], together[note])


def test_progress_counts_every_token() -> None:
    model = tiny()
    counted: list[int] = []
    generate(model, label_ids(model, 3), random_uniforms(3, 12), Sampling(), progress=counted.append)
    assert sum(counted) == 36


@pytest.mark.parametrize("position", ["token", "frame"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_k=3, top_p=0.5, min_p=0.2), Sampling(guidance=3.0)])
def test_nothing_but_codes_can_be_sampled_whatever_the_logits(position: str, sampling: Sampling) -> None:
    model = tiny(position)
    worst = torch.tensor([torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 0.0])
    with torch.no_grad():
        for head in model.heads:
            head.weight.copy_(worst[torch.randint(len(worst), head.weight.shape)])
    codes, _ = generate(model, label_ids(model, 20), random_uniforms(20, 12), sampling)
    assert codes.min() >= 0 and codes.max() < 32


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.floats(0.01, 1), st.floats(0, 1))
def test_filters_keep_the_likeliest(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(seed))
    result = filter_logits(logits, Sampling(top_k=top_k, top_p=top_p, min_p=min_p))
    assert torch.equal(result.argmax(-1), logits.argmax(-1))
    assert ((result == logits) | (result == -torch.inf)).all()


def test_each_filter_leaves_its_codes() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert filter_logits(logits, Sampling(top_k=2)).isfinite().tolist() == [[True, True, False, False]]
    assert filter_logits(logits, Sampling(top_p=0.7)).isfinite().tolist() == [[True, True, False, False]]
    assert filter_logits(logits, Sampling(top_p=0.85)).isfinite().tolist() == [[True, True, True, False]]
    assert filter_logits(logits, Sampling(min_p=0.2)).isfinite().tolist() == [[True, True, True, False]]


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        ({"temperature": -1.0}, "--temperature -1"),
        *(({"temperature": value}, "--temperature") for value in (math.nan, math.inf, 1e-40, 1e30)),
        *(({"guidance": value}, "--guidance") for value in (math.nan, math.inf, -math.inf, 1e30)),
        *(({"top_p": value}, "--top-p") for value in (math.nan, math.inf)),
        *(({"min_p": value}, "--min-p") for value in (math.nan, math.inf)),
        ({"top_k": 10**23}, "--top-k"),
        ({"top_k": -1}, "--top-k -1"),
        ({"top_p": 0.0}, "--top-p 0"),
        ({"min_p": 2.0}, "--min-p 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(refused: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Sampling(**refused)
