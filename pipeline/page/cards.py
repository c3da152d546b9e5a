"""Cards of the page: a sample's player, its settings, its detected pitch, and the train note nearest to it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.audio import AudioError
from pipeline.page.players import MINUS, Facts, Player, add_media, note_name, plain, title_and_subtitle
from pipeline.score.pitch import IN_TUNE, pitch_of
from pipeline.score.samples import Sample
from shards.sample_info import SampleInfo
from shards.scores import Scores, format_value

LABELS_IN_TITLE = {"pitch", "velocity", "instrument_str", "note_str"}  # labels that need no line of their own
MIN_CENTS = 1.5  # a smaller deviation is not shown


@dataclass(frozen=True)
class Card:
    """One sample."""

    player: Player
    pitch: str = ""  # the detected pitch compared with the label
    pitch_is_correct: bool = True
    nearest: Player | None = None  # the most similar train note
    similarity: str = ""  # share of tokens that both have


def make_card(
    folder: Path, sample: Sample, common: SampleInfo, scores: Scores | None, neighbours: Mapping[str, Player]
) -> Card:
    """Make the card of one sample; pictures are written into `folder`.

    common: settings that all samples have, which the page shows once. neighbours: key -> player of a train note.
    """
    title, subtitle = title_and_subtitle(sample.labels, sample.name)
    fault = sample.fault and plain(sample.fault)
    player = Player(plain(sample.name), title, subtitle, _facts(sample, common), fault=fault)
    if not sample.wav.is_file():
        player = replace(player, fault=fault or f"{plain(sample.wav.name)} is missing; decode the tokens again")
    else:
        try:
            player = add_media(player, folder, sample.wav, *sample.waveform())
        except AudioError as error:
            player = replace(player, fault=fault or plain(error.message))
    measured = scores.samples.get(sample.name) if scores else None
    if not measured:
        return Card(player)
    pitch, is_correct = _describe_pitch(measured.hertz, measured.cents)
    nearest = neighbours.get(measured.nearest) if measured.nearest else None
    return Card(player, pitch, is_correct, nearest, f"{format_value('share', measured.agreement)} alike")


def common_settings(common: SampleInfo) -> Facts:
    """Return the settings that all samples share, but for those that change nothing."""
    neutral = _settings(SampleInfo(top_k=0, top_p=1.0, min_p=0.0, guidance=1.0))
    return tuple(
        (name, _format(value)) for name, value in _settings(common).items() if value not in (None, neutral[name])
    )


def _facts(sample: Sample, common: SampleInfo) -> Facts:
    """Return the details that distinguish this sample from the others, and those that reproduce it."""
    info = sample.sampled
    facts = []
    if info.seed is not None:
        facts.append(("seed", str(info.seed) + ("" if info.index is None else f", sample {info.index}")))
    if info.log_likelihood is not None:
        facts.append(("log-likelihood", f"{info.log_likelihood:.2f} a token".replace("-", MINUS)))
    shared = _settings(common)
    facts += [(k, _format(value)) for k, value in _settings(info).items() if value is not None and shared[k] is None]
    facts += [
        (plain(label).replace("_", " "), plain(value))
        for label, value in sample.labels.items()
        if label not in LABELS_IN_TITLE
    ]
    return tuple(facts)


def _settings(info: SampleInfo) -> dict[str, Any]:
    """Return name on the page -> value; None: not stated."""
    return {
        "training step": info.step,
        "temperature": info.temperature,
        "top k": info.top_k,
        "top p": info.top_p,
        "min p": info.min_p,
        "guidance": info.guidance,
    }


def _format(value: float) -> str:
    return plain(f"{value:,}" if isinstance(value, int) else value)


def _describe_pitch(hertz: float | None, cents: float | None) -> tuple[str, bool]:
    """Return the detected pitch in words, and whether it fits the label. cents: from the label; None: no label."""
    if hertz is None:
        return "no pitch detected", cents is None
    if cents is not None and abs(cents) < IN_TUNE:
        deviation = f", {abs(cents):.0f} cents {'high' if cents > 0 else 'low'}" if abs(cents) >= MIN_CENTS else ""
        return f"in tune{deviation}", True
    return f"detected {note_name(round(pitch_of(hertz)))}", cents is None
