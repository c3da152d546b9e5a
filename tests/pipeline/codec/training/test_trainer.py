"""pipeline.codec.training learns, resumes exactly, and ends in weights that load."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.audio import PCM_PEAK
from pipeline.codec.distance import FLOOR, magnitudes, mel_distance, pitch_distance, waveform_error
from pipeline.codec.loaded import load_codec
from pipeline.codec.model import untrained_mini, write_weights
from pipeline.codec.spec import HOP, SAMPLE_RATE
from pipeline.codec.training.codebooks import (
    Codebooks,
    commitment_loss,
    fit_codebooks,
    kmeans,
    koleo_loss,
    nearest,
)
from pipeline.codec.training.crops import PEAKS, Notes, crop_batch, random_crop
from pipeline.codec.training.initialization import initialise
from pipeline.codec.training.muon import orthogonalize
from pipeline.codec.training.run import Length, train_codec
from pipeline.codec.training.trainer import CodecTrainer, Recipe
from shards.errors import UserError
from shards.summary import perplexity
from tests.support.notes import tone, write_note

SMALL = Recipe(crops=2, frames=8, fit_frames=100, warmup=5, rate=2e-3, latent_until=0.2, joint_until=0.6)
TOTAL = 10  # steps of a training with all three stages
CPU = torch.device("cpu")


def plucks(count: int = 12, seconds: float = 1.0) -> np.ndarray:
    """Decaying harmonics of different pitches and levels: (note, sample) float32."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = 110 * 2 ** (np.arange(count) / 12)
    harmonics = sum(np.sin(2 * np.pi * pitches[:, None] * k * time) / k for k in range(1, 5))
    levels = 0.3 * 0.8 ** np.arange(count)[:, None]
    return (levels * harmonics * np.exp(-2 * time)).astype(np.float32)


def notes_of(samples: np.ndarray) -> Notes:
    whole = tuple(np.rint(note * PCM_PEAK).astype(np.int16) for note in samples)
    return Notes(whole, np.arange(len(whole)) % 2)


def run(trainer: CodecTrainer, steps: int, total: int = TOTAL) -> list[dict[str, float]]:
    """So many steps of a training of `total`."""
    terms = []
    for _ in range(steps):
        trainer.progress = trainer.step / total
        terms.append(trainer.train_step())
    return terms


@pytest.fixture(scope="module")
def notes() -> Notes:
    return notes_of(plucks())


@pytest.fixture(scope="module")
def trained(notes: Notes) -> CodecTrainer:
    """A short training through all three stages."""
    trainer = CodecTrainer(notes, SMALL, CPU)
    run(trainer, TOTAL)
    return trainer


def test_a_few_steps_lower_the_loss(notes: Notes) -> None:
    trainer = CodecTrainer(notes, SMALL, CPU)
    samples = torch.from_numpy(plucks(4))
    before = float(waveform_error(trainer.round_trip(samples)[0], samples))
    run(trainer, 15, 300)
    assert float(waveform_error(trainer.round_trip(samples)[0], samples)) < 0.9 * before


def test_the_stages_come_in_order_and_the_encoder_is_final_in_the_last(notes: Notes) -> None:
    trainer, stages = CodecTrainer(notes, SMALL, CPU), []
    for _ in range(TOTAL):
        run(trainer, 1)
        stages.append(trainer.stage)
        if trainer.stage == "decoder" and "decoder" not in stages[:-1]:
            final = [weight.clone() for weight in trainer.ema_model.encoder.parameters()]
    assert sorted(set(stages), key=stages.index) == ["latent", "joint", "decoder"]
    for weight, final_weight in zip(trainer.ema_model.encoder.parameters(), final, strict=True):
        assert torch.equal(weight, final_weight)


def test_the_same_seed_takes_the_same_steps_and_another_does_not(notes: Notes) -> None:
    first, again = (run(CodecTrainer(notes, SMALL, CPU), 4) for _ in range(2))
    assert first == again
    assert run(CodecTrainer(notes, replace(SMALL, seed=1), CPU), 1) != first[:1]


@pytest.mark.parametrize("stop", [1, 4, 7])  # one in each stage
def test_a_resumed_training_takes_the_steps_that_an_uninterrupted_one_takes(
    notes: Notes, stop: int, tmp_path: Path
) -> None:
    whole = CodecTrainer(notes, SMALL, CPU)
    run(whole, stop)
    torch.save(whole.state(), tmp_path / "checkpoint.pt")
    resumed = CodecTrainer(notes, SMALL, CPU)
    resumed.restore(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert run(resumed, 2) == run(whole, 2)


def test_a_checkpoint_has_the_names_of_earlier_ones_so_that_those_resume(trained: CodecTrainer) -> None:
    state = trained.state()
    assert set(state) == {"step", "progress", "stage", "model", "average", "books", "optimizer", "generator"}
    assert set(state["books"]) == {"entries", "uses", "sums"}
    assert {"lr", "share", "half"} < set(state["optimizer"]["param_groups"][0])
    assert set(asdict(SMALL)) == {
        "seed", "crops", "frames", "mel_windows", "latent_until", "joint_until", "rate", "further_rate", "warmup",
        "least", "again", "encoder_share", "averaging", "fit_frames",
    }  # fmt: skip


def test_what_is_written_is_what_was_trained(trained: CodecTrainer, tmp_path: Path) -> None:
    assert trained.codebooks is not None
    write_weights(tmp_path / "mine.safetensors", trained.ema_model, trained.codebooks.entries)
    assert (tmp_path / "mine.safetensors").stat().st_size < 5e6
    codec = load_codec("encodec_mini", weights=tmp_path / "mine.safetensors")
    samples = torch.from_numpy(plucks(3))
    decoded, codes = trained.round_trip(samples)
    assert codes is not None
    loaded = codec.encode(samples)
    same = (loaded.permute(1, 0, 2).flatten(1) == codes).double().mean()
    assert same > 0.9  # the file is in half precision
    assert (codec.decode(loaded)[:, : samples.shape[1]] - decoded).abs().mean() < 0.01


def test_the_start_passes_sound_on_at_full_strength() -> None:
    model = untrained_mini("none")
    samples = torch.from_numpy(plucks(4))
    initialise(model, samples)
    with torch.no_grad():
        latents = model.encoder(samples[:, None])
        decoded = model.decoder(latents)
    assert float(latents.std()) == pytest.approx(0.7, rel=0.01)
    assert float(decoded.std()) == pytest.approx(0.07, rel=0.01)


def test_going_on_from_a_codec_begins_with_its_sound_and_its_codes(notes: Notes) -> None:
    start = load_codec("encodec_mini")
    samples = torch.from_numpy(plucks(2))
    trainer = CodecTrainer(notes, SMALL, CPU, start)
    assert trainer.stage == "joint"
    decoded, codes = trainer.round_trip(samples)
    assert codes is not None
    assert torch.equal(codes, start.encode(samples).permute(1, 0, 2).flatten(1))
    assert torch.allclose(decoded, start.decode(start.encode(samples))[:, : samples.shape[1]], atol=1e-5)
    before = [weight.clone() for weight in start.model.parameters()]
    run(trainer, 2)
    for weight, weight_before in zip(start.model.parameters(), before, strict=True):
        assert torch.equal(weight, weight_before)


# Codebooks


def test_nearest_is_the_entry_of_least_distance() -> None:
    points, entries = torch.randn(50, 6), torch.randn(9, 6)
    assert torch.equal(nearest(points, entries), torch.cdist(points, entries).argmin(1))


def test_k_means_finds_what_is_there_and_wastes_no_centre() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(16, 4, generator=generator)
    points = centres.repeat_interleave(torch.tensor([200] + 15 * [5]), 0)  # most are alike, as silence is
    points = points + 0.01 * torch.randn(points.shape, generator=generator)
    fitted = kmeans(points, 16, generator)
    assert torch.cdist(centres, fitted).amin(1).max() < 0.1


def test_the_second_codebook_quantizes_what_the_first_leaves() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2_000, 4, generator=generator)
    books = fit_codebooks(latents, 2, 32, 100, generator)
    quantized, codes = books.quantize(latents)
    first = books.entries[0][codes[0]]
    assert torch.allclose(quantized, first + books.entries[1][codes[1]], atol=1e-5)
    assert (latents - quantized).square().mean() < 0.5 * (latents - first).square().mean()


def test_entries_follow_latents_that_move_and_dead_ones_come_back() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4_000, 4, generator=generator)
    books = fit_codebooks(latents, 2, 32, 200, generator)
    books.entries[0, 0] = books.sums[0, 0] = 1_000.0  # nothing will ever choose it
    books.uses[0, 0] = 1.0
    for _ in range(700):
        batch = latents[torch.randint(len(latents), (200,), generator=generator)] + 2
        books.update(batch, generator)
    quantized, codes = books.quantize(latents + 2)
    assert (latents + 2 - quantized).square().mean() < 0.15
    assert perplexity(torch.bincount(codes[0], minlength=32).numpy()) > 24
    assert books.entries[0, 0].abs().max() < 10


def test_koleo_loss_is_lower_for_latents_that_are_spread_and_only_of_frames_that_sound() -> None:
    generator = torch.Generator().manual_seed(0)
    books = Codebooks(torch.randn(2, 8, 4), torch.ones(2, 8), torch.zeros(2, 8, 4))
    evenly = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    in_two_heaps = evenly.sign()[:, :1] + 0.01 * torch.randn(16, 4, generator=generator)
    every = torch.ones(16, dtype=torch.bool)
    assert koleo_loss(evenly, books, every) < koleo_loss(in_two_heaps, books, every)
    with_silence = torch.cat([evenly, torch.zeros(9, 4)])
    assert koleo_loss(with_silence, books, torch.arange(25) < 16) == koleo_loss(evenly, books, every)
    assert koleo_loss(evenly, books, ~every) == 0
    alike = torch.zeros(16, 4, requires_grad=True)
    koleo_loss(alike, books, every).backward()  # type: ignore[no-untyped-call]
    assert alike.grad is not None and alike.grad.isfinite().all()
    assert commitment_loss(torch.zeros(10, 4), books).isfinite()


# The loss


def test_equal_notes_have_no_distance_and_silence_has_the_notes_own() -> None:
    samples = torch.from_numpy(plucks(2))
    for distance in (mel_distance, pitch_distance, waveform_error):
        assert float(distance(samples, samples)) == 0
        assert float(distance(0.5 * samples, samples)) < float(distance(torch.zeros_like(samples), samples))


def test_what_is_below_the_floor_is_silence() -> None:
    quiet = 1e-5 * torch.from_numpy(plucks(1))
    assert float(mel_distance(torch.zeros_like(quiet), quiet)) < FLOOR


def test_the_pitch_distance_hears_a_quarter_tone_that_mel_bands_hardly_do() -> None:
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    note, sharp = (0.3 * torch.sin(2 * torch.pi * pitch * time)[None] for pitch in (110.0, 110.0 * 2 ** (1 / 24)))
    assert float(pitch_distance(sharp, note)) > 0.01
    noise = 0.1 * torch.randn(1, SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    levels = [float(magnitudes(noise, window, 4).square().mean().sqrt()) for window in (64, 2048)]
    assert levels[0] == pytest.approx(levels[1], rel=0.1)


# Crops


def test_a_batch_is_a_function_of_seed_and_step(notes: Notes) -> None:
    first = crop_batch(notes, 3, 2_000, seed=0, step=5)
    assert first.shape == (3, 2_000) and first.dtype == np.float32
    assert np.array_equal(first, crop_batch(notes, 3, 2_000, seed=0, step=5))
    assert not np.array_equal(first, crop_batch(notes, 3, 2_000, seed=0, step=6))
    assert not np.array_equal(first, crop_batch(notes, 3, 2_000, seed=1, step=5))


def test_crops_have_all_levels_and_none_is_clipped(notes: Notes) -> None:
    random = np.random.default_rng(0)
    peaks = np.array([np.abs(random_crop(notes.choose(random), 4_000, random)).max() for _ in range(200)])
    assert peaks.max() <= PEAKS[1] * 1.01
    assert np.median(peaks) > 0.02 and (peaks < 0.03).any()


def test_a_note_that_is_shorter_than_a_crop_ends_in_silence() -> None:
    short = np.full(500, 10_000, np.int16)
    made = random_crop(short, 4_000, np.random.default_rng(0))
    assert made.shape == (4_000,) and made[:400].all() and not made[600:].any()


# Muon


def test_orthogonal_keeps_directions_and_evens_out_lengths() -> None:
    matrix = torch.randn(8, 20, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.linspace(1, 9, 20))
    for tall in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonalize(tall))
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


# The command


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for split, numbers in (("train", range(6)), ("valid", range(6, 8))):
        for number in numbers:
            samples = tone(seconds=0.6) * (0.5 + 0.05 * number)
            write_note(
                tmp_path / "audio" / f"a-{split}" / f"guitar_acoustic_00{split == 'valid':d}-0{50 + number}-050.wav",
                samples,
            )
    return tmp_path / "audio"


def test_a_training_that_stops_and_goes_on_ends_in_weights_that_load(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs" / "mine.safetensors"
    recipe, length = replace(SMALL, crops=1, fit_frames=50), Length(minutes=1, steps=8)
    monkeypatch.setattr("pipeline.codec.training.run.SAVE_INTERVAL", 0.0)
    train_step = CodecTrainer.train_step

    def stop(self: CodecTrainer) -> dict[str, float]:
        if self.step == 5:
            raise KeyboardInterrupt
        return train_step(self)

    monkeypatch.setattr(CodecTrainer, "train_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train_codec([audio], out, recipe, length, "cpu")
    assert not out.exists()
    monkeypatch.setattr(CodecTrainer, "train_step", train_step)
    trained = train_codec([audio], out, recipe, length, "cpu")
    assert trained.steps == 8
    assert load_codec("encodec_mini", weights=out).spec.hop == HOP
    assert list(out.with_suffix(".training").glob("events*"))
    with pytest.raises(UserError, match="begun with other recipe"):
        train_codec([audio], out, replace(recipe, seed=1), length, "cpu")
    with pytest.raises(UserError, match="begun with other start"):
        train_codec([audio], out, recipe, length, "cpu", "encodec_mini")


@pytest.mark.parametrize(("missing", "words"), [("valid", "ends in -valid"), ("train", "no notes to train on")])
def test_a_split_that_is_missing_is_named(audio: Path, tmp_path: Path, missing: str, words: str) -> None:
    for path in (audio / f"a-{missing}").iterdir():
        path.unlink()
    result = CliRunner().invoke(main, ["train-codec", str(audio), "--out", str(tmp_path / "mine.safetensors")])
    assert result.exit_code == 2 and words in result.output
    assert not (tmp_path / "mine.training").exists()


def test_weights_have_one_ending(audio: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["train-codec", str(audio), "--out", str(tmp_path / "mine.pt")])
    assert result.exit_code == 2 and ".safetensors" in result.output


def test_a_loss_that_is_not_finite_ends_the_training_before_the_step(notes: Notes) -> None:
    trainer = CodecTrainer(notes, SMALL, CPU)
    run(trainer, 3)
    with torch.no_grad():
        next(iter(trainer.model.encoder.parameters())).mul_(torch.inf)
    before = [parameter.clone() for parameter in trainer.model.decoder.parameters()]
    with pytest.raises(UserError, match=r"the loss of step 4 is nan; start from other weights"):
        run(trainer, 1)
    assert trainer.step == 3
    assert all(map(torch.equal, before, trainer.model.decoder.parameters()))
