"""A plucked string as a chain of linear filters: extended Karplus-Strong (Jaffe & Smith 1983), one note a call.

    pick -> string (two polarisations) -> pickup and amplifier, or body -> level

The loop is one recursive filter, 1 / (1 - g z^-N F(z)): a delay of one period, the string's loss at each round, and a
fractional delay that tunes it. So a note is a handful of `scipy.signal.lfilter` calls, and its pitch is exact.

Knows nothing of files, names of notes or sets of them.

Sources: D. Jaffe and J. O. Smith, "Extensions of the Karplus-Strong Plucked-String Algorithm", CMJ 7(2), 1983 (pick
position, dynamics, tuning, decay); T. Laakso et al., "Splitting the Unit Delay", IEEE SP Magazine, 1996 (Lagrange).
"""

from dataclasses import dataclass

import numpy as np
from scipy import signal

SAMPLE_RATE = 16_000  # samples a second, as NSynth
ONSET = 0.005  # seconds of silence before the pick leaves the string
HELD = 3.0  # seconds until the finger comes down and damps the string
DURATION = 4.0  # seconds a note, as NSynth
FADE = 0.02  # seconds at the very end that are faded out, so that no note ends in a click

LOWEST_PITCH = 40  # MIDI, a guitar's low E: the pitch that `Instrument.decay` is given at
HIGHEST_VELOCITY = 127
DECAY_OCTAVE = 0.72  # a string an octave higher rings this share as long
BRIGHT = 2_500.0  # Hz, the partials that `Instrument.brightness` is given for
RELEASED = 0.45  # seconds to -60 dB under the finger
RELEASED_BRIGHT = 0.15  # the same for the bright partials
LAGRANGE_ORDER = 5  # of the fractional delay; odd, so its gain is nowhere above 1

PEAK = 0.7  # of full scale, at the highest velocity
LEVEL_POWER = 1.5  # peak against velocity: 21 dB from velocity 25 to 127
HARDNESS_POWER = 0.6  # a harder pluck is brighter: the pick's cutoff against velocity
LEVEL_SPREAD = 0.5  # dB, standard deviation from note to note
PICK_SPREAD = 0.03  # relative, of where the pick meets the string


@dataclass(frozen=True)
class Instrument:
    """What makes one guitar sound unlike another. Positions are shares of the string, counted from the bridge."""

    pick: float  # where the pick meets the string
    hardness: float  # Hz, cutoff of the pick's pulse at the highest velocity
    scrape: float  # level of the pick's noise against its pulse
    decay: float  # seconds to -60 dB at the lowest pitch
    brightness: float  # seconds to -60 dB at 2.5 kHz
    detune: float = 1.0  # cents between the string's two polarisations: a slow beat
    body: tuple[tuple[float, float, float], ...] = ()  # a hollow body's modes: Hz, quality, gain
    pickup: float | None = None  # where the pickup stands; None: no pickup, the body is heard
    tone: float = 4_000.0  # Hz, resonance of the pickup with its cable
    drive: float = 0.0  # overdrive of the amplifier; 0: clean


def pluck(instrument: Instrument, pitch: int, velocity: int, random: np.random.Generator) -> np.ndarray:
    """One note: float32 samples in [-1, 1], (DURATION * SAMPLE_RATE,). All chance comes from `random`."""
    frequency = 440.0 * 2.0 ** ((pitch - 69) / 12)
    period = SAMPLE_RATE / frequency  # samples, with its fraction
    strength = velocity / HIGHEST_VELOCITY
    level = PEAK * strength**LEVEL_POWER * 10 ** (random.normal(0, LEVEL_SPREAD) / 20)

    excitation = _pick(instrument, period, strength, random)
    decay = instrument.decay * DECAY_OCTAVE ** ((pitch - LOWEST_PITCH) / 12)
    # The string swings towards the body, which takes its energy soon, and along it, which leaves it: a two-stage decay.
    across = _string(excitation, period * 2 ** (instrument.detune / 2400), 0.5 * decay, instrument.brightness)
    along = _string(excitation, period * 2 ** (-instrument.detune / 2400), decay, instrument.brightness)
    sound = across + 0.6 * along

    if instrument.pickup is None:
        sound = _body(sound, instrument.body)
    else:
        sound = _amplifier(_pickup(sound, instrument, period), instrument.drive * strength)
    sound *= level / np.abs(sound).max()
    fade = round(FADE * SAMPLE_RATE)
    sound[-fade:] *= np.linspace(1, 0, fade)
    return np.clip(sound, -1, 1).astype(np.float32)


def _pick(instrument: Instrument, period: float, strength: float, random: np.random.Generator) -> np.ndarray:
    """What the pick does to the string, (sample,): a step and a little noise, softer for a gentler pluck.

    The string drawn aside at one point is a step that runs both ways from there. The one that went by the bridge comes
    back upside down and later, so a pluck at share p of the string lacks every (1/p)-th partial.
    """
    samples = np.zeros(round(DURATION * SAMPLE_RATE))
    start = round(ONSET * SAMPLE_RATE)
    samples[start] = 1.0
    contact = round(period)  # samples: the noise lasts a period, as in the plain Karplus-Strong string
    samples[start : start + contact] += instrument.scrape * random.normal(0, 1, contact) / np.sqrt(contact)
    leak = np.exp(
        -np.pi / period
    )  # the step falls back from half the fundamental on: no partial is lost, no drift left
    samples = signal.lfilter([1.0], [1.0, -leak], samples)
    position = instrument.pick * (1 + random.normal(0, PICK_SPREAD))
    samples = _less_itself_later(samples, position * period)
    cutoff = min(instrument.hardness * strength**HARDNESS_POWER, 0.45 * SAMPLE_RATE)
    numerator, denominator = signal.butter(2, cutoff, fs=SAMPLE_RATE)
    return signal.lfilter(numerator, denominator, samples)


def _string(excitation: np.ndarray, period: float, decay: float, brightness: float) -> np.ndarray:
    """The string's answer to the pick, (sample,) -> (sample,): it rings, then at HELD seconds the finger damps it."""
    held = round(HELD * SAMPLE_RATE)
    ringing = signal.lfilter([1.0], _loop(period, decay, brightness), excitation[:held])
    damped = _loop(period, min(decay, RELEASED), min(brightness, RELEASED_BRIGHT))
    state = signal.lfiltic([1.0], damped, ringing[::-1])  # the same string goes on, from the waves that run on it
    released, _ = signal.lfilter([1.0], damped, excitation[held:], zi=state)
    return np.concatenate([ringing, released])


def _loop(period: float, decay: float, brightness: float) -> np.ndarray:
    """Denominator 1 - g z^-N F(z) of the string's loop, (coefficient,): in tune, with the losses that give both decays.

    The loss (s/2, 1 - s, s/2) and the Lagrange filter have a known delay, which the whole delay N makes up to a period.
    Both decays are seconds to -60 dB: of the fundamental, and of the partials at BRIGHT.
    """
    rounds_per_second = SAMPLE_RATE / period
    gain = 10 ** (-3 / (decay * rounds_per_second))
    bright_gain = 10 ** (-3 / (min(brightness, decay) * rounds_per_second))
    softness = (1 - bright_gain / gain) / (1 - np.cos(2 * np.pi * BRIGHT / SAMPLE_RATE))
    softness = min(softness, 0.5)  # at 0.5 the highest partial is gone after one round; more would bring it back
    whole = int(period - 1 - LAGRANGE_ORDER // 2)  # samples, what the two filters leave of the period
    fractional = _lagrange(period - 1 - whole)
    round_trip = gain * np.convolve([softness / 2, 1 - softness, softness / 2], fractional)
    return np.concatenate([[1.0], np.zeros(whole - 1), -round_trip])


def _lagrange(delay: float) -> np.ndarray:
    """A filter that delays by `delay` samples, (LAGRANGE_ORDER + 1,); best half-way along it."""
    taps = np.arange(LAGRANGE_ORDER + 1)
    return np.array([np.prod([(delay - k) / (n - k) for k in taps if k != n]) for n in taps])


def _less_itself_later(sound: np.ndarray, delay: float) -> np.ndarray:
    """`sound` less itself `delay` samples later: the comb of a place on the string, (sample,) -> (sample,)."""
    whole = int(delay)
    comb = np.zeros(whole + 2)
    comb[0] = 1.0
    comb[whole] -= 1 - (delay - whole)
    comb[whole + 1] -= delay - whole
    return signal.lfilter(comb, [1.0], sound)


def _body(sound: np.ndarray, modes: tuple[tuple[float, float, float], ...]) -> np.ndarray:
    """A hollow body: the string, and what it sets ringing in the wood and the air, (sample,) -> (sample,)."""
    heard = sound.copy()
    for frequency, quality, gain in modes:
        numerator, denominator = signal.iirpeak(frequency, quality, fs=SAMPLE_RATE)
        heard += gain * signal.lfilter(numerator, denominator, sound)
    return heard


def _pickup(sound: np.ndarray, instrument: Instrument, period: float) -> np.ndarray:
    """A magnet under the string: blind to the partials that stand still there, and resonant with its cable."""
    assert instrument.pickup is not None
    # z = exp(j 2 pi f / rate) of a resonant pole pair; its quality of 1.5 is a passive pickup's under load.
    omega, quality = 2 * np.pi * instrument.tone / SAMPLE_RATE, 1.5
    alpha = np.sin(omega) / (2 * quality)
    numerator = np.array([1, 2, 1]) * (1 - np.cos(omega)) / 2
    denominator = [1 + alpha, -2 * np.cos(omega), 1 - alpha]
    return signal.lfilter(numerator, denominator, _less_itself_later(sound, instrument.pickup * period))


def _amplifier(sound: np.ndarray, drive: float) -> np.ndarray:
    """A valve's soft limit: the harder it is driven, the more overtones it adds; 0 leaves the sound as it is."""
    if drive == 0:
        return sound
    return np.tanh(drive * sound / np.abs(sound).max()) / drive
