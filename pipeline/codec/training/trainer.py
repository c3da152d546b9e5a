"""One training of a small EnCodec: what a step is, what its stages are, and what it takes to go on with it.

Stages, by share of the training:
1. `latent`: encoder and decoder without codebooks, mostly on the waveform, until latents mean something.
2. `joint`: codebooks from k-means, then all three together, with straight-through gradients. The encoder learns more
   slowly than the decoder, so that codebooks and decoder can follow it.
3. `decoder`: encoder and codes are final, and the decoder alone learns what these codes sound like, at two thirds of
   the cost of a step.

A training that goes on from a codec begins with the second stage.

What is kept is a moving average of the weights: at batches this small it is far better than the weights themselves.
Knows nothing of files and clocks: `codec_run.py` does.

EnCodec's own losses (section 3.4 of https://arxiv.org/abs/2210.13438) are mel and waveform distances, commitment, and
an adversarial one, which is left out here: it would cost more than all the rest.
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
from pipeline.codec.training.codebooks import (
    Codebooks,
    commitment,
    count_uses,
    crowding,
    fit_codebooks,
    straight_through,
)
from pipeline.codec.training.crops import Notes, batch
from pipeline.codec.training.initialization import initialise
from pipeline.codec.training.muon import Muon

WEIGHTS = {  # of the terms of the loss
    "latent": {"mel": 0.4, "pitch": 0.1, "waveform": 1.0},
    "joint": {"mel": 1.0, "pitch": 0.3, "waveform": 0.04, "commitment": 0.3, "crowding": 0.03},
    "decoder": {"mel": 1.0, "pitch": 0.3, "waveform": 0.02},
}
OVERLAP = 2  # of the windows of the spectra: half of what scoring uses, at half the cost, because crops start anywhere
LONGEST_GRADIENT = 3.0  # a longer one is scaled down
APART = (
    1_000_000  # batches for fitting codebooks are numbered from the step plus this, so that they are never trained on
)


@dataclass(frozen=True)
class Recipe:
    """All that decides how a training goes, but for its notes and how long it may take."""

    seed: int = 0
    crops: int = 4  # a step
    frames: int = 38  # a crop: half a second
    mel_windows: int = 3  # of `MEL_WINDOWS`, drawn anew at each step
    latent_until: float = 0.12  # share of the training
    joint_until: float = 0.75
    rate: float = 2.5e-3  # learning rate at its highest; falls by a cosine to `least`, and from `again` of it to zero
    further_rate: float = 4e-4  # in place of `rate`, for weights that are trained already
    warmup: int = 200  # steps
    least: float = 0.15
    again: float = 0.6
    encoder_share: float = 0.25  # of the learning rate, from the joint stage on
    averaging: float = 0.999  # of the average of the weights, a step
    fit_frames: int = 15_000  # latents that codebooks are fitted to, or counted on


class Training:
    """A model in training. `progress`, from 0 to 1, is set from outside: only a clock or a count of steps knows it."""

    def __init__(self, notes: Notes, recipe: Recipe, device: torch.device, start: EnCodec | None = None) -> None:
        """`start`: a small codec to go on from, which begins in the joint stage."""
        self.notes, self.recipe, self.device = notes, recipe, device
        self.highest_rate = recipe.rate if start is None else recipe.further_rate
        torch.manual_seed(recipe.seed)
        self.generator = torch.Generator(device).manual_seed(recipe.seed)
        self.model = untrained_mini("none").to(device)
        self.books: Codebooks | None = None
        self.stage = "latent"
        self.step = 0
        self.progress = 0.0
        if start is None:
            initialise(self.model, self._crops(0))
        else:
            self.model.load_state_dict(start.model.state_dict())
            self.stage = "joint"
            self.books = count_uses(start.entries().to(device), self._some_latents(), self._frames())
        self.average = deepcopy(self.model).requires_grad_(False)
        self.optimizer = self._optimizer()

    def advance(self) -> dict[str, float]:
        """One step; returns the terms of its loss."""
        self._change_stage()
        real = self._crops(self.step + 1)  # (crop, sample)
        latents, quantized = self._encode(real)
        decoded = self.model.decoder(quantized)[:, 0]
        terms = self._terms(real, decoded, latents)
        loss = torch.stack([weight * terms[term] for term, weight in WEIGHTS[self.stage].items()]).sum()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._trained(), LONGEST_GRADIENT)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.step()
        if self.stage == "joint":
            assert self.books is not None
            self.books.follow(latents.detach(), self.generator)
        self._average()
        self.step += 1
        return {term: float(value.detach()) for term, value in {"loss": loss, **terms}.items()}

    def rate(self) -> float:
        """The learning rate at this step."""
        recipe = self.recipe
        if self.stage == "decoder":
            return (
                self.highest_rate
                * recipe.again
                * _cosine((self.progress - recipe.joint_until) / (1 - recipe.joint_until))
            )
        warm = min(1.0, (self.step + 1) / recipe.warmup)
        return (
            self.highest_rate * warm * (recipe.least + (1 - recipe.least) * _cosine(self.progress / recipe.joint_until))
        )

    @torch.inference_mode()
    def round_trip(self, samples: Tensor) -> tuple[Tensor, Tensor | None]:
        """(note, sample) -> decoded by the average, (note, sample), and codes, (codebook, frame of all notes)."""
        latents = self.average.encoder(samples.to(self.device)[:, None])  # (note, channel, frame)
        codes = None
        if self.books is not None:
            quantized, codes = self.books.quantize(_flat(latents))
            latents = _unflat(quantized, len(samples))
        return self.average.decoder(latents)[:, 0, : samples.shape[1]].to(samples.device), codes

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on exactly."""
        return {
            "step": self.step,
            "progress": self.progress,
            "stage": self.stage,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "books": None if self.books is None else self.books.state(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        self.step, self.progress, self.stage = state["step"], state["progress"], state["stage"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.books = None if state["books"] is None else Codebooks(**state["books"])
        self.optimizer = self._optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())

    def _encode(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """(crop, sample) -> latents, (frame of all crops, channel), and the decoder's input, (crop, channel, frame)."""
        if self.stage == "decoder":
            with torch.no_grad():
                latents = _flat(self.average.encoder(real[:, None]))
        else:
            latents = _flat(self.model.encoder(real[:, None]))
        if self.books is None:
            return latents, _unflat(latents, len(real))
        quantized, _ = self.books.quantize(latents.detach())
        return latents, _unflat(straight_through(latents, quantized), len(real))

    def _terms(self, real: Tensor, decoded: Tensor, latents: Tensor) -> dict[str, Tensor]:
        random = np.random.default_rng((self.recipe.seed, self.step, 1))
        windows = sorted(random.choice(MEL_WINDOWS, self.recipe.mel_windows, replace=False).tolist())
        terms = {
            "mel": mel_distance(decoded, real, windows, OVERLAP),
            "pitch": pitch_distance(decoded, real, OVERLAP),
            "waveform": waveform_error(decoded, real),
        }
        if self.stage == "joint":
            assert self.books is not None
            terms["commitment"] = commitment(latents, self.books)
            terms["crowding"] = crowding(latents, self.books, is_sounding(real, HOP).flatten())
        return terms

    def _change_stage(self) -> None:
        if self.stage == "latent" and self.progress >= self.recipe.latent_until:
            self.stage = "joint"
            self.books = fit_codebooks(
                self._some_latents(), MINI_CODEBOOKS, CODEBOOK_SIZE, self._frames(), self.generator
            )
        if self.stage == "joint" and self.progress >= self.recipe.joint_until:
            self.stage = "decoder"
            self.model.load_state_dict(self.average.state_dict())
            self.optimizer = self._optimizer()
        for group in self.optimizer.param_groups:
            group["share"] = self.recipe.encoder_share if group["half"] == "encoder" and self.stage == "joint" else 1.0

    def _some_latents(self) -> Tensor:
        """Of many crops: (frame of all crops, channel)."""
        numbers = range(APART + self.step, APART + self.step + math.ceil(self.recipe.fit_frames / self._frames()))
        with torch.no_grad():
            return torch.cat([_flat(self.model.encoder(self._crops(number)[:, None])) for number in numbers])

    def _frames(self) -> int:
        """Of a batch."""
        return self.recipe.crops * self.recipe.frames

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _optimizer(self) -> Muon:
        halves = ("decoder",) if self.stage == "decoder" else ("encoder", "decoder")
        return Muon([{"params": list(getattr(self.model, half).parameters()), "half": half} for half in halves])

    def _average(self) -> None:
        decay = min(self.recipe.averaging, (self.step + 1) / (self.step + 10))  # so that the start is soon forgotten
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)

    def _crops(self, number: int) -> Tensor:
        length = self.recipe.frames * HOP
        return torch.from_numpy(batch(self.notes, self.recipe.crops, length, self.recipe.seed, number)).to(self.device)


def _flat(latents: Tensor) -> Tensor:
    """(note, channel, frame) -> (frame of all notes, channel)."""
    return latents.transpose(1, 2).flatten(0, 1)


def _unflat(latents: Tensor, notes: int) -> Tensor:
    """Undo `_flat`."""
    return latents.reshape(notes, -1, latents.shape[1]).transpose(1, 2)


def _cosine(share: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))
