"""Training of a small EnCodec: steps, stages, losses, and the state of a checkpoint.

Stages, by fraction of the training:
1. `latent`: encoder and decoder without codebooks, mostly on the waveform.
2. `joint`: codebooks from k-means, then all three together, with straight-through gradients. The encoder learns more
   slowly than the decoder, so that codebooks and decoder can adapt to it.
3. `decoder`: encoder and codebooks are frozen, and the decoder learns alone, at two thirds of the cost of a step.

A training that starts from a codec begins with the second stage. The result is an exponential moving average (EMA) of
the weights: at batches this small it is far better than the weights themselves. Knows nothing of files and clocks:
`run.py` does.

EnCodec's own losses (section 3.4 of https://arxiv.org/abs/2210.13438) are mel and waveform distances, commitment, and
an adversarial one, which is left out: it would cost more than all the others.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.codec.distance import MEL_WINDOWS, is_sounding, mel_distance, pitch_distance, waveform_error
from pipeline.codec.model import MINI_CODEBOOKS, EnCodec, untrained_mini
from pipeline.codec.spec import CODEBOOK_SIZE, HOP
from pipeline.codec.training.codebooks import Codebooks, commitment_loss, count_uses, fit_codebooks, koleo_loss
from pipeline.codec.training.crops import Notes, crop_batch
from pipeline.codec.training.initialization import initialise
from pipeline.codec.training.muon import Muon
from shards.errors import UserError

LOSS_WEIGHTS = {
    "latent": {"mel": 0.4, "pitch": 0.1, "waveform": 1.0},
    "joint": {"mel": 1.0, "pitch": 0.3, "waveform": 0.04, "commitment": 0.3, "koleo": 0.03},
    "decoder": {"mel": 1.0, "pitch": 0.3, "waveform": 0.02},
}
OVERLAP = 2  # windows over each sample: half of scoring's, at half the cost, because crops start anywhere
MAX_GRADIENT_NORM = 3.0
FIT_OFFSET = 1_000_000  # added to the step for the crops that codebooks are fitted to, so that none is trained on


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training, but for its notes and its length."""

    seed: int = 0
    crops: int = 4  # a step
    frames: int = 38  # a crop: half a second
    mel_windows: int = 3  # of `MEL_WINDOWS`, chosen at random each step
    latent_until: float = 0.12  # fraction of the training
    joint_until: float = 0.75
    rate: float = 2.5e-3  # peak learning rate; cosine decay to `least` of it, in the last stage from `again` to zero
    further_rate: float = 4e-4  # peak learning rate from a trained codec
    warmup: int = 200  # steps
    least: float = 0.15
    again: float = 0.6
    encoder_share: float = 0.25  # factor of the encoder's learning rate in the joint stage
    averaging: float = 0.999  # EMA decay, a step
    fit_frames: int = 15_000  # latents that codebooks are fitted to, or counted on


class CodecTrainer:
    """A model in training. The caller sets `progress`, from 0 to 1, before each step."""

    def __init__(self, notes: Notes, recipe: Recipe, device: torch.device, start: EnCodec | None = None) -> None:
        """`start`: a small codec whose weights are the first ones, in the joint stage."""
        self.notes, self.recipe, self.device = notes, recipe, device
        self.peak_rate = recipe.rate if start is None else recipe.further_rate
        torch.manual_seed(recipe.seed)
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.model = untrained_mini("none").to(device)
        self.codebooks: Codebooks | None = None
        self.stage = "latent"
        self.step = 0
        self.progress = 0.0
        if start is None:
            initialise(self.model, self._crops(0))
        else:
            self.model.load_state_dict(start.model.state_dict())
            self.stage = "joint"
            self.codebooks = count_uses(start.entries().to(device), self._fit_latents(), self._frames_a_step())
        self.ema_model = deepcopy(self.model).requires_grad_(False)
        self.optimizer = self._make_optimizer()

    def train_step(self) -> dict[str, float]:
        """Take one step; return its loss and the terms of it.

        Raises:
            UserError: the loss is not finite; nothing was changed.
        """
        self._update_stage()
        original = self._crops(self.step + 1)  # (crop, sample)
        latents, quantized = self._encode(original)
        decoded = self.model.decoder(quantized)[:, 0]
        terms = self._loss_terms(original, decoded, latents)
        loss = torch.stack([weight * terms[term] for term, weight in LOSS_WEIGHTS[self.stage].items()]).sum()
        if not torch.isfinite(loss):
            raise UserError(f"the loss of step {self.step + 1} is {float(loss.detach()):g}; start from other weights")
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        if self.stage == "joint":
            assert self.codebooks is not None
            self.codebooks.update(latents.detach(), self.generator)
        self._update_ema()
        self.step += 1
        return {term: float(value.detach()) for term, value in {"loss": loss, **terms}.items()}

    def learning_rate(self) -> float:
        recipe = self.recipe
        if self.stage == "decoder":
            stage_progress = (self.progress - recipe.joint_until) / (1 - recipe.joint_until)
            return self.peak_rate * recipe.again * _cosine(stage_progress)
        warmup = min(1.0, (self.step + 1) / recipe.warmup)
        decay = recipe.least + (1 - recipe.least) * _cosine(self.progress / recipe.joint_until)
        return self.peak_rate * warmup * decay

    @torch.inference_mode()
    def round_trip(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode and decode (note, sample) by the EMA -> (note, sample), and codes, (codebook, frame of all notes)."""
        latents = self.ema_model.encoder(samples.to(self.device)[:, None])  # (note, channel, frame)
        codes = None
        if self.codebooks is not None:
            quantized, codes = self.codebooks.quantize(_flatten(latents))
            latents = _unflatten(quantized, len(samples))
        return self.ema_model.decoder(latents)[:, 0, : samples.shape[1]].to(samples.device), codes

    def state(self) -> dict[str, Any]:
        """Return the state from which `restore` continues exactly."""
        return {
            "step": self.step,
            "progress": self.progress,
            "stage": self.stage,
            "model": self.model.state_dict(),
            "average": self.ema_model.state_dict(),
            "books": self.codebooks and vars(self.codebooks),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.step, self.progress, self.stage = state["step"], state["progress"], state["stage"]
        self.model.load_state_dict(state["model"])
        self.ema_model.load_state_dict(state["average"])
        books = state["books"]
        if books is not None:
            books = Codebooks(**{name: tensor.to(self.device) for name, tensor in books.items()})
        self.codebooks = books
        self.optimizer = self._make_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())

    def _encode(self, original: Tensor) -> tuple[Tensor, Tensor]:
        """(crop, sample) -> latents, (frame of all crops, channel), and the decoder's input, (crop, channel, frame)."""
        is_frozen = self.stage == "decoder"
        with torch.set_grad_enabled(not is_frozen):
            latents = _flatten((self.ema_model if is_frozen else self.model).encoder(original[:, None]))
        if self.codebooks is None:
            return latents, _unflatten(latents, len(original))
        quantized, _ = self.codebooks.quantize(latents.detach())
        quantized = latents + (quantized - latents).detach()  # straight-through: the gradient of `latents`
        return latents, _unflatten(quantized, len(original))

    def _loss_terms(self, original: Tensor, decoded: Tensor, latents: Tensor) -> dict[str, Tensor]:
        random = np.random.default_rng((self.recipe.seed, self.step, 1))
        windows = sorted(random.choice(MEL_WINDOWS, self.recipe.mel_windows, replace=False).tolist())
        terms = {
            "mel": mel_distance(decoded, original, windows, OVERLAP),
            "pitch": pitch_distance(decoded, original, OVERLAP),
            "waveform": waveform_error(decoded, original),
        }
        if self.stage == "joint":
            assert self.codebooks is not None
            terms["commitment"] = commitment_loss(latents, self.codebooks)
            terms["koleo"] = koleo_loss(latents, self.codebooks, is_sounding(original, HOP).flatten())
        return terms

    def _update_stage(self) -> None:
        recipe = self.recipe
        if self.stage == "latent" and self.progress >= recipe.latent_until:
            self.stage = "joint"
            self.codebooks = fit_codebooks(
                self._fit_latents(), MINI_CODEBOOKS, CODEBOOK_SIZE, self._frames_a_step(), self.generator
            )
        if self.stage == "joint" and self.progress >= recipe.joint_until:
            self.stage = "decoder"
            self.model.load_state_dict(self.ema_model.state_dict())
            self.optimizer = self._make_optimizer()
        for group in self.optimizer.param_groups:
            group["share"] = recipe.encoder_share if group["half"] == "encoder" and self.stage == "joint" else 1.0

    def _fit_latents(self) -> Tensor:
        """Encode `fit_frames` frames of crops: (frame of all crops, channel)."""
        first = FIT_OFFSET + self.step
        steps = range(first, first + math.ceil(self.recipe.fit_frames / self._frames_a_step()))
        with torch.no_grad():
            return torch.cat([_flatten(self.model.encoder(self._crops(step)[:, None])) for step in steps])

    def _frames_a_step(self) -> int:
        return self.recipe.crops * self.recipe.frames

    def _make_optimizer(self) -> Muon:
        halves = ("decoder",) if self.stage == "decoder" else ("encoder", "decoder")
        return Muon([{"params": list(getattr(self.model, half).parameters()), "half": half} for half in halves])

    def _update_ema(self) -> None:
        decay = min(self.recipe.averaging, (self.step + 1) / (self.step + 10))  # forgets the first steps soon
        with torch.no_grad():
            for average, parameter in zip(self.ema_model.parameters(), self.model.parameters(), strict=True):
                average.lerp_(parameter, 1 - decay)

    def _crops(self, step: int) -> Tensor:
        recipe = self.recipe
        crops = crop_batch(self.notes, recipe.crops, recipe.frames * HOP, recipe.seed, step)
        return torch.from_numpy(crops).to(self.device)


def _flatten(latents: Tensor) -> Tensor:
    """(note, channel, frame) -> (frame of all notes, channel)."""
    return latents.transpose(1, 2).flatten(0, 1)


def _unflatten(latents: Tensor, notes: int) -> Tensor:
    """Undo `_flatten`."""
    return latents.reshape(notes, -1, latents.shape[1]).transpose(1, 2)


def _cosine(progress: float) -> float:
    """Half a cosine, from 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
