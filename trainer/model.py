"""Model: raw codes and labels -> the logits of each next code, by an x-transformers decoder.

Each codebook has its own range of ids on the way in and its own head on the way out, so that a position in a note can
only give codes of its own codebook. Knows no files and no training.

Attribute names (`net`, `heads`, `within`, `steps` ...) are the tensor names of checkpoints: old runs need them.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from trainer.config import ModelConfig
from trainer.decoder import Decoder, TransformerWrapper
from trainer.dropout import replace_dropout
from trainer.vocabulary import Vocabulary, parse_mixture

LABEL_SCALE = 0.02  # standard deviation of new label embeddings: as large as those of codes they would hide them


class NoteModel(nn.Module):
    """Predicts each code of a note from its labels and the codes before it.

    The decoder has a position for each token, or one for each frame. With a position a frame it is as many times
    shorter as there are codebooks; a small net behind it, the depth head, predicts the codes of a frame one by one.
    A label is an id like a code is, and is added to the embedding of every position. The label SECONDS of notes that
    end has another id at each position, that of the frames that are left: counting them would be hard to learn.
    """

    offsets: Tensor  # (codebook,) id of each codebook's code 0

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, window: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.group = vocabulary.codebooks if config.position == "frame" else 1  # codes a position
        self.window = window
        self.positions = -(-window // self.group)
        self.net = TransformerWrapper(
            num_tokens=vocabulary.size,
            max_seq_len=self.positions,
            token_emb=SummedEmbedding(config.width, vocabulary, self.group, config.code_dropout),
            emb_dropout=config.dropout,
            return_only_embed=True,
            attn_layers=Decoder(
                dim=config.width,
                depth=config.depth,
                heads=config.heads,
                attn_dim_head=config.head_width,
                attn_flash=config.flash,
                attn_dropout=config.dropout if config.attention_dropout else 0.0,
                ff_dropout=config.dropout,
                rotary_pos_emb=True,
                verbose=False,
            ),
        )
        sizes = [vocabulary.codebook_size] * (1 if vocabulary.shared else vocabulary.codebooks)
        sizes[0] += vocabulary.has_end
        self.heads = nn.ModuleList(nn.Linear(config.width, size, bias=False) for size in sizes)
        self.within = DepthHead(config.width, vocabulary) if self.group > 1 else None
        replace_dropout(self.net)
        offsets = [vocabulary.offset(codebook) for codebook in range(vocabulary.codebooks)]
        self._dropouts = [
            (module, name, share)
            for module in self.modules()
            for name in ("p", "dropout", "code_dropout")
            if isinstance(share := getattr(module, name, None), float)
        ]
        self._mixtures: dict[tuple[tuple[int, float], ...], int] = {}  # (id, weight) of the parts -> id
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)

    @property
    def parameters_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def label_ids(self, labels: Mapping[str, Any]) -> list[int]:
        """`Vocabulary.label_ids`, with an id for a mixture of values too: its embedding is their weighted sum."""
        ids = self.vocabulary.label_ids(labels)
        for index, (name, values) in enumerate(self.vocabulary.labels):
            mixture = parse_mixture(labels.get(name), values)
            if mixture:
                ids[index] = self._add_embedding(
                    {self.vocabulary.label_ids({name: value})[index]: weight for value, weight in mixture.items()}
                )
        return ids

    def _add_embedding(self, weights: Mapping[int, float]) -> int:
        """Add the weighted sum of some embeddings as a new one, unless it is there, and return its id."""
        key = tuple(sorted(weights.items()))
        if key not in self._mixtures:
            table = self.net.token_emb.emb
            row = sum(weight * table.weight.data[label] for label, weight in weights.items())
            table.weight = nn.Parameter(torch.cat([table.weight.data, row[None]]))
            self._mixtures[key] = len(table.weight) - 1
        return self._mixtures[key]

    def scale_dropout(self, share: float) -> None:
        """Train from here on with a share, from 0 to 1, of all dropout in the settings."""
        for module, name, full in self._dropouts:
            setattr(module, name, share * full)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights between embeddings and heads that map one hidden state to another."""
        parts = [self.net.attn_layers, *([self.within.steps] if self.within is not None else [])]
        return [parameter for part in parts for parameter in part.parameters() if parameter.ndim == 2]

    def forward(self, labels: Tensor, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each code, and whether it had the highest logit: two of (note, frame, codebook).

        labels (note, label) ids, codes (note, token) raw and of whole frames, lengths (note,) tokens. Padding counts 0.

        With an end in the vocabulary, a note that is shorter than the window has its end's negative log-likelihood in
        the first codebook of the frame after it, and there may be a frame more than in `codes`. So the sum over a note
        is the likelihood of its codes and of its length; the end counts as none of its tokens.
        """
        has_end = self.vocabulary.has_end
        if has_end and codes.shape[1] < self.window:
            codes = pad(codes, (0, self.vocabulary.codebooks))
        logits = self.logits(labels, codes).float()
        targets = codes.long().view(logits.shape[:3])
        real = (torch.arange(codes.shape[1], device=codes.device) < lengths[:, None]).view_as(targets)
        counted = real
        if has_end:
            first = torch.arange(codes.shape[1], device=codes.device).view_as(targets[0])  # token, of each frame
            ends = (first == lengths[:, None, None]) & (lengths > 0)[:, None, None]
            targets = targets.masked_fill(ends, self.vocabulary.end)
            counted = real | ends
        nll = cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none").view_as(targets)
        return nll * counted, (logits.argmax(-1) == targets) & real

    def logits(self, labels: Tensor, codes: Tensor) -> Tensor:
        """Logits of each code from all before it: (note, label), (note, token) -> (note, frame, codebook, code).

        With an end in the vocabulary it is the last class; minus infinity in the first frame, since no note is empty,
        and in the codebooks after the first.
        """
        before = codes[:, : codes.shape[1] - self.group]
        hidden = self.net(self.inputs(labels, before))  # (note, position, width)
        frames = codes.view(len(codes), -1, self.vocabulary.codebooks)
        hidden = hidden.view(*frames.shape[:2], -1, hidden.shape[-1])  # (note, frame, position or 1, width)
        by_codebook = [
            self.code_logits(hidden[:, :, codebook % hidden.shape[2]], codebook, frames[:, :, :codebook])
            for codebook in range(self.vocabulary.codebooks)
        ]
        if not self.vocabulary.has_end:
            return torch.stack(by_codebook, dim=2)
        by_codebook[1:] = [pad(logits, (0, 1), value=-torch.inf) for logits in by_codebook[1:]]
        logits = torch.stack(by_codebook, dim=2)
        logits[:, 0, :, self.vocabulary.end] = -torch.inf
        return logits

    def inputs(self, labels: Tensor, codes: Tensor, first: int = 0) -> Tensor:
        """The decoder's input that predicts what follows `codes`, (note, token) raw from token `first` of a note on.

        (note, position, code and label) ids: the start token, then the codes, each with the labels.
        """
        start = labels.new_full((len(codes), 1, self.group), self.vocabulary.start)
        start = torch.cat([start, self._label_ids(labels, first, 1)], dim=2)
        return torch.cat([start, self.ids(labels, codes, first)], dim=1)

    def ids(self, labels: Tensor, codes: Tensor, first: int | Tensor) -> Tensor:
        """The ids of positions with `codes`, (note, token) raw, the first of them a note's token `first`."""
        codebooks = (first + torch.arange(codes.shape[1], device=codes.device)) % len(self.offsets)
        ids = (codes.long() + self.offsets[codebooks]).view(len(codes), -1, self.group)
        return torch.cat([ids, self._label_ids(labels, first + self.group, ids.shape[1])], dim=2)

    def _label_ids(self, labels: Tensor, token: int | Tensor, positions: int) -> Tensor:
        """The labels at positions of which the first predicts a note's `token`: (note, position, label) ids."""
        repeated = labels[:, None].expand(-1, positions, -1)
        lengths = self.vocabulary.length_ids
        if not lengths:
            return repeated
        tokens = token + torch.arange(0, positions * self.group, self.group, device=labels.device)
        left = repeated - (tokens // len(self.offsets))[:, None]
        is_length = (labels >= lengths.start) & (labels < lengths.stop)
        return left.clamp(min=lengths.start).where(is_length[:, None], repeated)

    def code_logits(self, hidden: Tensor, codebook: int, before: Tensor) -> Tensor:
        """Logits of one codebook's code, (..., code), from its position's hidden state, (..., width), and the codes of
        the lower codebooks of its frame, (..., codebook). With an end in the vocabulary, it is the last class of the
        first codebook."""
        if self.within is not None:
            hidden = self.within(hidden, codebook, before)
        return self.heads[codebook % len(self.heads)](hidden)


class SummedEmbedding(nn.Module):
    """The embedding of a position is the sum of its ids': (note, position, id) -> (note, position, width)."""

    def __init__(self, width: int, vocabulary: Vocabulary, codes: int, code_dropout: float) -> None:
        """codes: ids of a position that are codes; the others are labels. code_dropout: probability that a position's
        codes count 0 in training, so that the model learns to do without some of what it has seen."""
        super().__init__()
        self.codes, self.code_dropout = codes, code_dropout
        self.emb = nn.Embedding(vocabulary.size, width)
        nn.init.kaiming_normal_(self.emb.weight)  # the initialization that x-transformers uses
        nn.init.normal_(self.emb.weight.data[vocabulary.first_label :], std=LABEL_SCALE)

    def forward(self, ids: Tensor) -> Tensor:
        embeddings = self.emb(ids)
        if not (self.training and self.code_dropout):
            return embeddings.sum(dim=2)
        is_seen = torch.rand(ids.shape[:2], device=ids.device) >= self.code_dropout
        codes, labels = embeddings.split([self.codes, ids.shape[2] - self.codes], dim=2)
        return codes.sum(dim=2) * is_seen[:, :, None] / (1 - self.code_dropout) + labels.sum(dim=2)


class DepthHead(nn.Module):
    """Updates a frame's hidden state with the codes of its lower codebooks, before the head of the next codebook."""

    def __init__(self, width: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.size = vocabulary.codebook_size
        self.embedding = nn.Embedding((vocabulary.codebooks - 1) * self.size, width)
        nn.init.kaiming_normal_(self.embedding.weight)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(vocabulary.codebooks - 1)
        )

    def forward(self, hidden: Tensor, codebook: int, before: Tensor) -> Tensor:
        """(..., width) of the frame and (..., codebook) raw codes below `codebook` -> (..., width)."""
        if codebook == 0:
            return hidden
        offsets = torch.arange(codebook, device=before.device) * self.size
        state = hidden + self.embedding(before.long() + offsets).sum(dim=-2)
        return state + self.steps[codebook - 1](state)
