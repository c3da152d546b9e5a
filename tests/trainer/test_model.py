"""The model against the reference recipe written out, and the codes that each prediction depends on."""

import pytest
import torch
from torch import nn
from x_transformers import Decoder, TransformerWrapper

from trainer.config import ModelConfig, load_config
from trainer.model import NoteModel
from trainer.vocabulary import Vocabulary

LABELS = (("pitch", (40, 41, 42)), ("velocity", (25, 100)))
CODEBOOKS = 4
FRAMES = 3


def tiny(position: str, codebooks: int = CODEBOOKS, window: int = FRAMES * CODEBOOKS) -> NoteModel:
    torch.manual_seed(0)
    config = ModelConfig(width=16, depth=2, heads=2, head_width=8, position=position, labels=("pitch", "velocity"))
    return NoteModel(config, Vocabulary(codebooks, 32, labels=LABELS), window).eval()


def some_notes(model: NoteModel, notes: int = 2, length: int = FRAMES * CODEBOOKS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(model.vocabulary.codebook_size, (notes, length), generator=generator)
    labels = torch.tensor(
        [model.vocabulary.label_ids({"pitch": 40 + note % 3, "velocity": 25}) for note in range(notes)]
    )
    return labels, codes


def test_the_tutorial_preset_is_the_recipe_written_out() -> None:
    """`tutorial.md`: one vocabulary of 1,024, 250 tokens, start token 0, mean cross-entropy of each next token."""
    theirs = TransformerWrapper(
        num_tokens=1024,
        max_seq_len=250,
        emb_dropout=0.1,
        attn_layers=Decoder(dim=256, depth=6, heads=4, rotary_pos_emb=True, attn_dropout=0.1, ff_dropout=0.1),
    ).eval()
    ours = NoteModel(load_config("tutorial").model, Vocabulary(2, 1024, shared=True), 250).eval()
    weights = {f"net.{name}": value for name, value in theirs.state_dict().items() if name != "to_logits.weight"}
    ours.load_state_dict(weights | {"heads.0.weight": theirs.state_dict()["to_logits.weight"]})
    assert ours.parameters_count == sum(p.numel() for p in theirs.parameters()) == 5_253_888
    batch = torch.randint(1024, (2, 250), generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        started = torch.cat([torch.zeros((2, 1), dtype=torch.long), batch], dim=1)
        logits = theirs(started).permute(0, 2, 1)
        recipe = nn.CrossEntropyLoss()(logits[..., :-1], started[..., 1:])
        losses, _ = ours(torch.empty((2, 0), dtype=torch.long), batch, torch.tensor([250, 250]))
    assert torch.allclose(losses.mean(), recipe, atol=1e-5)


def test_the_tutorial_preset_drops_out_where_the_recipe_does() -> None:
    def rates(model: nn.Module) -> list[float]:
        return sorted(module.p for module in model.modules() if isinstance(module, nn.Dropout) and module.p)

    layers = Decoder(dim=256, depth=6, heads=4, rotary_pos_emb=True, attn_dropout=0.1, ff_dropout=0.1)
    theirs = TransformerWrapper(num_tokens=1024, max_seq_len=250, emb_dropout=0.1, attn_layers=layers)
    assert rates(NoteModel(load_config("tutorial").model, Vocabulary(2, 1024, shared=True), 250)) == rates(theirs)


def test_a_share_of_dropout_is_that_of_all_its_kinds() -> None:
    vocabulary = Vocabulary(2, 32, labels=(("pitch", (60,)),))
    model = NoteModel(
        ModelConfig(width=16, depth=2, heads=2, head_width=8, dropout=0.2, code_dropout=0.4), vocabulary, 12
    )
    labels, codes, lengths = torch.tensor([[65]]), torch.randint(32, (1, 12)), torch.tensor([12])

    def rates() -> set[float]:
        dropouts = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
        attention = {layer[1].attend.dropout for layer in model.net.attn_layers.layers if hasattr(layer[1], "attend")}
        return dropouts | attention | {model.net.token_emb.code_dropout}

    model.scale_dropout(0.5)
    assert rates() == {0.1, 0.2}
    model.scale_dropout(0.0)
    without, _ = model.train()(labels, codes, lengths)
    assert torch.equal(without, model.eval()(labels, codes, lengths)[0])
    model.scale_dropout(1.0)
    assert rates() == {0.2, 0.4}
    assert not torch.equal(without, model.train()(labels, codes, lengths)[0])


@pytest.mark.parametrize("position", ["token", "frame"])
def test_a_code_is_predicted_from_those_before_it_and_from_no_other(position: str) -> None:
    model = tiny(position)
    labels, codes = some_notes(model, 1)
    with torch.no_grad():
        before = model.logits(labels, codes).flatten(1, 2)  # (note, token, code)
        for position in range(codes.shape[1]):
            changed = codes.clone()
            changed[0, position] = (changed[0, position] + 1) % 32
            differs = (model.logits(labels, changed).flatten(1, 2) != before).any(-1)[0]
            assert not differs[: position + 1].any()
            assert differs[position + 1 :].all()


@pytest.mark.parametrize("position", ["token", "frame"])
def test_every_code_depends_on_every_label(position: str) -> None:
    model = tiny(position)
    labels, codes = some_notes(model, 1)
    with torch.no_grad():
        for label in range(2):
            changed = labels.clone()
            changed[0, label] += 1
            assert (model.logits(changed, codes) != model.logits(labels, codes)).any(-1).all()


@pytest.mark.parametrize("position", ["token", "frame"])
def test_padding_neither_counts_nor_is_seen(position: str) -> None:
    model = tiny(position)
    labels, codes = some_notes(model, 2)
    short = 2 * CODEBOOKS
    with torch.no_grad():
        losses, hits = model(labels, codes, torch.tensor([codes.shape[1], short]))
        alone, _ = model(labels[1:], codes[1:, :short], torch.tensor([short]))
    assert torch.allclose(losses[1, :2], alone[0], atol=1e-6)
    assert not losses[1, 2:].any() and not hits[1, 2:].any()


@pytest.mark.parametrize("position", ["token", "frame"])
@pytest.mark.parametrize("codebooks", [1, 2, 8, 32])
def test_any_bandwidth_gives_logits_of_each_codebook(position: str, codebooks: int) -> None:
    model = tiny(position, codebooks, window=2 * codebooks)
    labels, codes = some_notes(model, 2, 2 * codebooks)
    assert model.logits(labels, codes).shape == (2, 2, codebooks, 32)


def test_a_position_a_frame_makes_the_sequence_shorter_by_the_codebooks() -> None:
    assert tiny("token").positions == CODEBOOKS * tiny("frame").positions
