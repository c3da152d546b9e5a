"""The model: raw codes and labels in, the logits of each next code out; an x-transformers decoder inside.

Each codebook has its own range of ids on the way in and its own head on the way out, so that a position can only ever
give codes of its own codebook. Knows no files and no training.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from x_transformers import Decoder, TransformerWrapper

from trainer.config import ModelConfig
from trainer.vocabulary import Vocabulary


class NoteModel(nn.Module):
    """Predicts each code of a note from its labels and the codes before it."""

    offsets: Tensor  # (codebook,) what makes a raw code an id

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, window: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.window = window  # tokens
        self.heads = 1 if vocabulary.shared else vocabulary.codebooks
        self.net = TransformerWrapper(
            num_tokens=vocabulary.size,
            max_seq_len=vocabulary.prefix_length - 1 + window,
            emb_dropout=config.dropout,
            logits_dim=vocabulary.codebook_size,
            num_output_heads=self.heads,
            attn_layers=Decoder(
                dim=config.width,
                depth=config.depth,
                heads=config.heads,
                attn_dim_head=config.head_width,
                attn_flash=config.flash,
                attn_dropout=config.dropout,
                ff_dropout=config.dropout,
                rotary_pos_emb=True,
                verbose=False,
            ),
        )
        offsets = [vocabulary.offset(codebook) for codebook in range(vocabulary.codebooks)]
        self.register_buffer("offsets", torch.tensor(offsets), persistent=False)

    @property
    def parameters_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def ids(self, codes: Tensor) -> Tensor:
        """Raw codes as the ids of the vocabulary; (note, token) from the start of a frame on."""
        frames = -(-codes.shape[1] // len(self.offsets))
        return codes.long() + self.offsets.repeat(frames)[: codes.shape[1]]

    def logits(self, prefix: Tensor, codes: Tensor) -> Tensor:
        """Logits of each code from all before it: prefix (note, prefix) ids and codes (note, token) raw, whole frames,
        -> (note, frame, codebook, code)."""
        inputs = torch.cat([prefix, self.ids(codes[:, :-1])], dim=1)
        hidden = self.net(inputs, return_embeddings=True)[:, prefix.shape[1] - 1 :]  # (note, token, width)
        codebooks = len(self.offsets)
        by_codebook = [self.head(codebook)(hidden[:, codebook::codebooks]) for codebook in range(codebooks)]
        return torch.stack(by_codebook, dim=2)

    def head(self, codebook: int) -> nn.Module:
        """Hidden states -> logits of the codes of one codebook."""
        return self.net.to_logits if self.heads == 1 else self.net.to_logits[codebook]

    def forward(self, prefix: Tensor, codes: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Each code's negative log-likelihood and whether it was the likeliest, 0 for padding: two of
        (note, frame, codebook)."""
        logits = self.logits(prefix, codes).float()
        targets = codes.long().view(logits.shape[:3])
        nats = cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none").view_as(targets)
        real = (torch.arange(codes.shape[1], device=codes.device) < lengths[:, None]).view_as(targets)
        return nats * real, (logits.argmax(-1) == targets) & real
