"""The codebooks of a codec in training: how latents are quantized, and how the entries follow the latents.

Residual vector quantization (Zeghidour et al., "SoundStream", 2021, https://arxiv.org/abs/2107.03312). Entries begin as
k-means and become moving averages of the latents that choose them (van den Oord et al., 2017,
https://arxiv.org/abs/1711.00937). The `encodec` package does the same inside its forward pass. Here it is apart, since
the package counts dead entries by the batch: with the few frames of a small one it replaces nearly all at every step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

DECAY = 0.99  # of the moving averages, a step
DEAD = 0.01  # latents a step: entries chosen less often, on average, are replaced
ROUNDS = 15  # of k-means
AT_ONCE = 8_192  # latents compared with a codebook at a time
TINY = 1e-12  # squared distance: no draw has all weights zero
NO_DISTANCE = 0.1  # squared, added under the logarithm of `crowding`: nothing is gained from telling such neighbours


@dataclass
class Codebooks:
    """Residual codebooks, and the moving averages that their entries are made of."""

    entries: Tensor  # (codebook, entry, channel)
    uses: Tensor  # latents a step that choose each, (codebook, entry)
    sums: Tensor  # of these latents, (codebook, entry, channel)

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(frame, channel) -> the sums of the nearest entries, (frame, channel), and codes, (codebook, frame)."""
        residual, codes = latents, []
        for entries in self.entries:
            chosen = nearest(residual, entries)
            residual = residual - entries[chosen]
            codes.append(chosen)
        return latents - residual, torch.stack(codes)

    def follow(self, latents: Tensor, generator: torch.Generator) -> None:
        """Move entries towards the latents that choose them, (frame, channel); dead ones go where errors are large."""
        residual = latents
        for entries, uses, sums in zip(self.entries, self.uses, self.sums, strict=True):
            chosen = nearest(residual, entries)
            error = residual - entries[chosen]
            uses.lerp_(torch.bincount(chosen, minlength=len(entries)).to(uses), 1 - DECAY)
            sums.lerp_(torch.zeros_like(sums).index_add_(0, chosen, residual), 1 - DECAY)
            dead = (uses < DEAD).nonzero()[:, 0]
            if len(dead):
                usual = len(residual) / len(entries)  # latents a step, so that it has time to be chosen
                uses[dead] = usual
                sums[dead] = usual * residual[_worst(error, len(dead), generator)]
            torch.div(sums, uses[:, None], out=entries)
            residual = error

    def state(self) -> dict[str, Tensor]:
        """What `Codebooks(**state)` needs."""
        return {"entries": self.entries, "uses": self.uses, "sums": self.sums}


def fit_codebooks(latents: Tensor, codebooks: int, size: int, per_step: int, generator: torch.Generator) -> Codebooks:
    """Residual k-means: (frame, channel) -> codebooks of `size` entries that expect `per_step` latents a step."""
    residual, entries = latents, []
    for _ in range(codebooks):
        centres = kmeans(residual, size, generator)
        residual = residual - centres[nearest(residual, centres)]
        entries.append(centres)
    return count_uses(torch.stack(entries), latents, per_step)


def count_uses(entries: Tensor, latents: Tensor, per_step: int) -> Codebooks:
    """Codebooks of these entries, (codebook, entry, channel), that expect `per_step` latents a step like these."""
    books = Codebooks(entries, torch.zeros(entries.shape[:2]).to(entries), torch.zeros_like(entries))
    for uses, codes in zip(books.uses, books.quantize(latents)[1], strict=True):
        uses.copy_(torch.bincount(codes, minlength=len(uses)) * (per_step / len(latents)) + DEAD)
    books.sums.copy_(books.entries * books.uses[..., None])
    return books


def kmeans(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm: (point, channel) -> centres, (size, channel).

    Begins as k-means++ does (Arthur and Vassilvitskii, 2007): each centre is a point drawn with a probability
    proportional to its squared distance from those before it. From random points many would share out the silence.
    """
    centres = points[torch.randint(len(points), (1,), generator=generator, device=points.device)]
    squares = (points - centres).square().sum(1)
    for _ in range(size - 1):
        centre = points[torch.multinomial(squares + TINY, 1, generator=generator)]
        squares = torch.minimum(squares, (points - centre).square().sum(1))
        centres = torch.cat([centres, centre])
    for _ in range(ROUNDS):
        chosen = nearest(points, centres)
        counts = torch.bincount(chosen, minlength=size)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, chosen, points)
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres


def nearest(points: Tensor, entries: Tensor) -> Tensor:
    """The nearest entry by Euclidean distance: (point, channel), (entry, channel) -> (point,)."""
    squares = entries.square().sum(1)
    return torch.cat([(squares - 2 * part @ entries.T).argmin(1) for part in torch.split(points, AT_ONCE)])


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """Forward: `quantized`. Backward: as if it were `latents`."""
    return latents + (quantized - latents).detach()


def commitment(latents: Tensor, books: Codebooks) -> Tensor:
    """How far latents are from their entries, as a share of the entries' variance: (frame, channel) -> scalar.

    Not of the latents' own variance, which is next to none in a batch of silence.
    """
    quantized, _ = books.quantize(latents.detach())
    return nn.functional.mse_loss(latents, quantized) / books.entries[0].var(0).mean()


def crowding(latents: Tensor, books: Codebooks, sounds: Tensor) -> Tensor:
    """Minus the mean log distance of a latent to its nearest neighbour: (frame, channel) -> scalar.

    Low if latents fill their space evenly, so that all entries are used alike (Sablayrolles et al., "Spreading vectors
    for similarity search", 2019, https://arxiv.org/abs/1806.03198). Only of frames that are in `sounds`, (frame,) bool:
    silence is all alike, and one entry is enough for it.
    """
    latents = latents[sounds]
    if len(latents) < 2:
        return latents.new_zeros(())
    least = books.entries[0].std(0).mean()  # a batch that is all alike is not blown up
    spread = latents / torch.maximum(latents.std(0).mean(), least)
    squares = spread.square().sum(1)
    distances = squares[:, None] + squares - 2 * spread @ spread.T  # squared
    itself = torch.eye(len(spread), dtype=torch.bool, device=spread.device)
    return -0.5 * (distances.masked_fill(itself, torch.inf).amin(1).clamp(min=0) + NO_DISTANCE).log().mean()


def perplexity(codes: Tensor, size: int) -> float:
    """exp of the entropy of how often each code is used: 1 if one is used alone, `size` if all are used equally."""
    shares = torch.bincount(codes.flatten(), minlength=size).double() / codes.numel()
    return float(torch.special.entr(shares).sum().exp())


def _worst(errors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw points with a probability proportional to their squared error: (point, channel) -> (count,)."""
    weights = errors.square().sum(1) + TINY
    return torch.multinomial(weights, count, replacement=True, generator=generator)
