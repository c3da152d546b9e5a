"""Codebooks of a codec in training: residual vector quantization, k-means, moving-average updates, and their losses.

Residual vector quantization (Zeghidour et al., "SoundStream", 2021, https://arxiv.org/abs/2107.03312). Entries begin as
k-means and become moving averages of the latents that choose them (van den Oord et al., 2017,
https://arxiv.org/abs/1711.00937). The `encodec` package does the same inside its forward pass, but counts dead entries
by the batch: with the few frames of a small one it replaces nearly all at every step. Knows nothing of models.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

DECAY = 0.99  # of the moving averages, a step
DEAD = 0.01  # latents a step: entries chosen less often, on average, are replaced
KMEANS_ROUNDS = 15
CHUNK = 8_192  # latents compared with a codebook at a time
TINY = 1e-12  # squared distance, so that the weights of a random choice are never all zero
MIN_DISTANCE = 0.1  # squared, added under the logarithm of `koleo_loss`: closer neighbours gain nothing by moving apart


@dataclass
class Codebooks:
    """Residual codebooks, and the moving averages of which their entries are made."""

    entries: Tensor  # (codebook, entry, channel)
    uses: Tensor  # latents a step that choose each entry, (codebook, entry)
    sums: Tensor  # of these latents, (codebook, entry, channel)

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize (frame, channel) -> sums of the nearest entries, (frame, channel), and codes, (codebook, frame)."""
        residual, codes = latents, []
        for entries in self.entries:
            chosen = nearest(residual, entries)
            residual = residual - entries[chosen]
            codes.append(chosen)
        return latents - residual, torch.stack(codes)

    def update(self, latents: Tensor, generator: torch.Generator) -> None:
        """Move entries towards the latents that choose them, (frame, channel); dead ones go where errors are large."""
        residual = latents
        for entries, uses, sums in zip(self.entries, self.uses, self.sums, strict=True):
            chosen = nearest(residual, entries)
            error = residual - entries[chosen]
            uses.lerp_(torch.bincount(chosen, minlength=len(entries)).to(uses), 1 - DECAY)
            sums.lerp_(torch.zeros_like(sums).index_add_(0, chosen, residual), 1 - DECAY)
            dead = (uses < DEAD).nonzero()[:, 0]
            if len(dead):
                average = len(residual) / len(entries)  # latents a step, so that a new entry has time to be chosen
                uses[dead] = average
                weights = error.square().sum(1) + TINY
                sums[dead] = average * residual[torch.multinomial(weights, len(dead), True, generator=generator)]
            torch.div(sums, uses[:, None], out=entries)
            residual = error


def fit_codebooks(latents: Tensor, codebooks: int, size: int, per_step: int, generator: torch.Generator) -> Codebooks:
    """Fit residual k-means to (frame, channel): codebooks of `size` entries that expect `per_step` latents a step."""
    residual, entries = latents, []
    for _ in range(codebooks):
        centres = kmeans(residual, size, generator)
        residual = residual - centres[nearest(residual, centres)]
        entries.append(centres)
    return count_uses(torch.stack(entries), latents, per_step)


def count_uses(entries: Tensor, latents: Tensor, per_step: int) -> Codebooks:
    """Make codebooks of entries, (codebook, entry, channel), that expect `per_step` latents a step like `latents`."""
    codebooks = Codebooks(entries, torch.zeros(entries.shape[:2]).to(entries), torch.zeros_like(entries))
    for uses, codes in zip(codebooks.uses, codebooks.quantize(latents)[1], strict=True):
        uses.copy_(torch.bincount(codes, minlength=len(uses)) * (per_step / len(latents)) + DEAD)
    codebooks.sums.copy_(codebooks.entries * codebooks.uses[..., None])
    return codebooks


def kmeans(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm: (point, channel) -> centres, (size, channel).

    Begins as k-means++ (Arthur and Vassilvitskii, 2007): each centre is a random point, with a probability proportional
    to its squared distance from the centres before it. With uniform probabilities many centres would be silence.
    """
    centres = points[torch.randint(len(points), (1,), generator=generator, device=points.device)]
    squares = (points - centres).square().sum(1)
    for _ in range(size - 1):
        centre = points[torch.multinomial(squares + TINY, 1, generator=generator)]
        squares = torch.minimum(squares, (points - centre).square().sum(1))
        centres = torch.cat([centres, centre])
    for _ in range(KMEANS_ROUNDS):
        chosen = nearest(points, centres)
        counts = torch.bincount(chosen, minlength=size)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, chosen, points)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def nearest(points: Tensor, entries: Tensor) -> Tensor:
    """Find the nearest entry by Euclidean distance: (point, channel), (entry, channel) -> (point,)."""
    squares = entries.square().sum(1)
    return torch.cat([(squares - 2 * part @ entries.T).argmin(1) for part in torch.split(points, CHUNK)])


def commitment_loss(latents: Tensor, codebooks: Codebooks) -> Tensor:
    """Squared distance of latents from their entries, relative to the entries' variance: (frame, channel) -> scalar.

    The variance is not of the latents, which is nearly zero in a batch of silence.
    """
    quantized, _ = codebooks.quantize(latents.detach())
    return nn.functional.mse_loss(latents, quantized) / codebooks.entries[0].var(0).mean()


def koleo_loss(latents: Tensor, codebooks: Codebooks, is_sounding: Tensor) -> Tensor:
    """Minus the mean log distance of a latent to its nearest neighbour: (frame, channel) -> scalar.

    Low if latents fill their space evenly, so that all entries are used alike (Sablayrolles et al., "Spreading vectors
    for similarity search", 2019, https://arxiv.org/abs/1806.03198). Leaves out silent frames, which are all alike:
    `is_sounding` is (frame,) bool.
    """
    latents = latents[is_sounding]
    if len(latents) < 2:
        return latents.new_zeros(())
    min_deviation = codebooks.entries[0].std(0).mean()  # so that a batch of equal latents is not scaled up
    scaled = latents / torch.maximum(latents.std(0).mean(), min_deviation)
    squares = scaled.square().sum(1)
    distances = squares[:, None] + squares - 2 * scaled @ scaled.T  # squared
    itself = torch.eye(len(scaled), dtype=torch.bool, device=scaled.device)
    return -0.5 * (distances.masked_fill(itself, torch.inf).amin(1).clamp(min=0) + MIN_DISTANCE).log().mean()
