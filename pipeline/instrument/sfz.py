"""An instrument as files that samplers load: SFZ 1 and a DecentSampler preset. Knows nothing of how it was made."""

from collections.abc import Iterator
from xml.sax.saxutils import quoteattr

from pipeline.instrument.instrument import Instrument, Region

ATTACK, RELEASE = 0.002, 0.25  # seconds; shorter ones click


def sfz_text(instrument: Instrument) -> str:
    """The SFZ file: one region a sound, one group a velocity layer.

    Within a layer the level follows the velocity, so that a layer ends where the next one begins: `amp_velcurve_N` is
    the amplitude at velocity N, and samplers interpolate between two of them.
    """
    return "\n".join(_sfz_lines(instrument)) + "\n"


def _sfz_lines(instrument: Instrument) -> Iterator[str]:
    origin = f"step {instrument.step} of {_one_line(instrument.run)}"
    yield f"// {_one_line(instrument.name)}: made with note-tokens, {origin}"
    yield f"<global> loop_mode=no_loop ampeg_attack={ATTACK} ampeg_release={RELEASE} amp_veltrack=100"
    for velocity in instrument.velocities:
        regions = list(instrument.layer(velocity))
        if not regions:
            continue
        first = regions[0]
        curve = f"amp_velcurve_{first.low_velocity}={first.quietest:.4f} amp_velcurve_{first.high_velocity}=1"
        yield f"<group> lovel={first.low_velocity} hivel={first.high_velocity} {curve}"
        for region in regions:
            yield (
                f"<region> sample={region.sample} lokey={region.low_key} hikey={region.high_key} "
                f"pitch_keycenter={region.pitch} tune={round(region.tune)} volume={region.volume:.2f}"
            )


def decent_sampler_text(instrument: Instrument) -> str:
    """The preset of DecentSampler, a free sampler: the same regions as XML."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<DecentSampler minVersion="1.0.0">']
    lines.append(f'  <groups attack="{ATTACK}" release="{RELEASE}" ampVelTrack="0">')  # a layer has one level
    lines += [f"    <group>{_sample(region)}</group>" for region in instrument.regions]
    return "\n".join([*lines, "  </groups>", "</DecentSampler>"]) + "\n"


def _sample(region: Region) -> str:
    fields = {
        "path": region.sample,
        "rootNote": region.pitch,
        "loNote": region.low_key,
        "hiNote": region.high_key,
        "loVel": region.low_velocity,
        "hiVel": region.high_velocity,
        "tuning": f"{region.tune / 100:.3f}",
        "volume": f"{region.volume:.2f}dB",
    }
    return f"<sample {' '.join(f'{name}={quoteattr(str(value))}' for name, value in fields.items())}/>"


def _one_line(text: str | None) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text or "no run")
