"""The samples as the page shows them, a card each: the sound, what made it, its pitch, the train note nearest to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.page.players import MINUS, Facts, Sound, in_words, note_name, plain, show
from pipeline.score.pitch import IN_TUNE, pitch_of
from pipeline.score.samples import Sample
from pipeline.score.scores import Scores, shown

NEUTRAL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "guidance": 1.0}  # settings that change nothing, and are not shown
SETTINGS = {"step": "steps trained", "temperature": "temperature", "top_k": "top k", "top_p": "top p", "min_p": "min p"}
IN_THE_TITLE = {"pitch", "velocity", "instrument_str", "note_str"}  # labels that need no line of their own


@dataclass(frozen=True)
class Card:
    """One sample."""

    sound: Sound
    verdict: str = ""  # which pitch is heard
    as_asked: bool = True
    nearest: Sound | None = None  # the train note that it is most similar to
    agreement: str = ""  # share of tokens that they have in common


def make_card(
    page: Path, sample: Sample, common: Mapping[str, Any], scores: Scores | None, neighbours: Mapping[str, Sound]
) -> Card:
    """common: what all samples were made with alike, which the page says once. neighbours: key -> its sound."""
    title, subtitle = in_words(sample.labels, sample.name)
    facts = facts_of(sample, common)
    sound = show(
        page, Sound(plain(sample.name), title, subtitle, facts, fault=sample.fault and plain(sample.fault)), sample.wav
    )
    measured = scores.samples.get(sample.name) if scores else None
    if not measured:
        return Card(sound)
    verdict, as_asked = _verdict(measured.hertz, measured.cents)
    near = neighbours.get(measured.nearest) if measured.nearest else None
    return Card(sound, verdict, as_asked, near, f"{shown('share', measured.agreement)} alike")


def facts_of(sample: Sample, common: Mapping[str, Any]) -> Facts:
    """What tells this sample from the others, and how to make it again."""
    sampled = sample.sampled
    facts = []
    if "seed" in sampled:
        number = f", sample {plain(sampled['index'])}" if "index" in sampled else ""
        facts.append(("seed", plain(sampled["seed"]) + number))
    if isinstance(likelihood := sampled.get("log_likelihood"), float):
        facts.append(("log-likelihood", f"{likelihood:.2f} a token".replace("-", MINUS)))
    facts += [(words, plain(sampled[key])) for key, words in SETTINGS.items() if key in sampled and key not in common]
    facts += [
        (plain(key).replace("_", " "), plain(value)) for key, value in sample.labels.items() if key not in IN_THE_TITLE
    ]
    return tuple(facts)


def settings_in_common(common: Mapping[str, Any]) -> Facts:
    """How all samples were made, as far as it is alike and not neutral."""
    return tuple(
        (words, plain(f"{common[key]:,}" if isinstance(common[key], int) else common[key]))
        for key, words in SETTINGS.items()
        if key in common and common[key] != NEUTRAL.get(key)
    )


def _verdict(hertz: float | None, off: float | None) -> tuple[str, bool]:
    """What is heard, and whether it is what was asked for; nothing asked is nothing wrong."""
    if hertz is None:
        return "no pitch heard", off is None
    if off is not None and abs(off) < IN_TUNE:
        away = f", {abs(off):.0f} cents {'high' if off > 0 else 'low'}" if abs(off) >= 1.5 else ""
        return f"in tune{away}", True
    return f"heard {note_name(round(pitch_of(hertz)))}", off is None
