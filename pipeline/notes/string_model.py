"""Model of a plucked string, a chain of linear filters: extended Karplus-Strong (Jaffe & Smith 1983), one note a call.

    pick -> string (two polarisations) -> pickup and amplifier, or body -> level

The string is one recursive filter, 1 / (1 - g z^-N F(z)): a delay of one period, the loss of each round trip, and a
fractional delay for the tuning. So a note is a few calls of `scipy.signal.lfilter`, and its pitch is exact.

Knows nothing of files, names of notes or sets of them.

Sources: D. Jaffe and J. O. Smith, "Extensions of the Karplus-Strong Plucked-String Algorithm", CMJ 7(2), 1983 (pick
position, dynamics, tuning, decay); T. Laakso et al., "Splitting the Unit Delay", IEEE SP Magazine, 1996 (Lagrange).
"""

from dataclasses import dataclass

import numpy as np
from scipy import signal

from pipeline.notes.nsynth import MIDI_MAX, NSYNTH_RATE, NSYNTH_SECONDS

ONSET = 0.005  # seconds of silence before the pick leaves the string
RELEASE = 3.0  # seconds until a finger damps the string
FADE = 0.02  # seconds at the very end that are faded out, so that no note ends in a click

LOWEST_PITCH = 40  # MIDI, a guitar's low E: the pitch of `Instrument.decay`
DECAY_OCTAVE = 0.72  # decay time of a string an octave higher, relative
BRIGHT = 2_500.0  # Hz, the partials of `Instrument.brightness`
DAMPED_DECAY = 0.45  # seconds to -60 dB under the finger
DAMPED_BRIGHTNESS = 0.15  # the same for the bright partials
LAGRANGE_ORDER = 5  # of the fractional delay; odd, so its gain is nowhere above 1

PEAK = 0.7  # of full scale, at the highest velocity
LEVEL_POWER = 1.5  # peak ~ velocity^1.5: 21 dB from velocity 25 to 127
HARDNESS_POWER = 0.6  # the pick's cutoff ~ velocity^0.6: a harder pluck is brighter
LEVEL_SPREAD = 0.5  # dB, standard deviation from note to note
PICK_SPREAD = 0.03  # relative standard deviation of the pick's position


@dataclass(frozen=True)
class Instrument:
    """Sound of one guitar. Positions are fractions of the string's length, counted from the bridge."""

    pick: float  # position of the pick
    hardness: float  # Hz, cutoff of the pick's pulse at the highest velocity
    scrape: float  # level of the pick's noise relative to its pulse
    decay: float  # seconds to -60 dB at the lowest pitch
    brightness: float  # seconds to -60 dB at 2.5 kHz
    detune: float = 1.0  # cents between the string's two polarisations: a slow beat
    body: tuple[tuple[float, float, float], ...] = ()  # a hollow body's modes: Hz, quality, gain
    pickup: float | None = None  # position of the pickup; None: an acoustic guitar, whose body sounds
    tone: float = 4_000.0  # Hz, resonance of the pickup with its cable
    drive: float = 0.0  # overdrive of the amplifier; 0: clean


def pluck(instrument: Instrument, pitch: int, velocity: int, random: np.random.Generator) -> np.ndarray:
    """Synthesize a note: float32 samples in [-1, 1], (NSYNTH_SECONDS * NSYNTH_RATE,), a function of its arguments."""
    frequency = 440.0 * 2.0 ** ((pitch - 69) / 12)
    period = NSYNTH_RATE / frequency  # samples, with its fraction
    strength = velocity / MIDI_MAX
    level = PEAK * strength**LEVEL_POWER * 10 ** (random.normal(0, LEVEL_SPREAD) / 20)

    excitation = _pick(instrument, period, strength, random)
    decay = instrument.decay * DECAY_OCTAVE ** ((pitch - LOWEST_PITCH) / 12)
    # Swings towards the body lose energy to it, swings along it do not: a two-stage decay.
    across = _string(excitation, period * 2 ** (instrument.detune / 2400), 0.5 * decay, instrument.brightness)
    along = _string(excitation, period * 2 ** (-instrument.detune / 2400), decay, instrument.brightness)
    sound = across + 0.6 * along

    if instrument.pickup is None:
        sound = _body(sound, instrument.body)
    else:
        sound = _amplifier(_pickup(sound, instrument, period), instrument.drive * strength)
    sound *= level / np.abs(sound).max()
    fade = round(FADE * NSYNTH_RATE)
    sound[-fade:] *= np.linspace(1, 0, fade)
    return np.clip(sound, -1, 1).astype(np.float32)


def _pick(instrument: Instrument, period: float, strength: float, random: np.random.Generator) -> np.ndarray:
    """The pick's excitation of the string, (sample,): a step and a little noise, softer for a gentler pluck.

    A string pulled aside at one point sends a step both ways. The step by way of the bridge returns inverted and later,
    so a pluck at fraction p of the string lacks every (1/p)-th partial.
    """
    samples = np.zeros(round(NSYNTH_SECONDS * NSYNTH_RATE))
    start = round(ONSET * NSYNTH_RATE)
    samples[start] = 1.0
    contact = round(period)  # samples: the noise lasts a period, as in the plain Karplus-Strong string
    samples[start : start + contact] += instrument.scrape * random.normal(0, 1, contact) / np.sqrt(contact)
    leak = np.exp(-np.pi / period)  # the step decays below half the fundamental: no DC drift, all partials pass
    samples = signal.lfilter([1.0], [1.0, -leak], samples)
    position = instrument.pick * (1 + random.normal(0, PICK_SPREAD))
    samples = _comb(samples, position * period)
    cutoff = min(instrument.hardness * strength**HARDNESS_POWER, 0.45 * NSYNTH_RATE)
    numerator, denominator = signal.butter(2, cutoff, fs=NSYNTH_RATE)
    return signal.lfilter(numerator, denominator, samples)


def _string(excitation: np.ndarray, period: float, decay: float, brightness: float) -> np.ndarray:
    """The string's response to the excitation, (sample,) -> (sample,): it rings, and is damped from RELEASE on."""
    release = round(RELEASE * NSYNTH_RATE)
    ringing = signal.lfilter([1.0], _loop(period, decay, brightness), excitation[:release])
    damped = _loop(period, min(decay, DAMPED_DECAY), min(brightness, DAMPED_BRIGHTNESS))
    state = signal.lfiltic([1.0], damped, ringing[::-1])  # the waves on the string continue
    released, _ = signal.lfilter([1.0], damped, excitation[release:], zi=state)
    return np.concatenate([ringing, released])


def _loop(period: float, decay: float, brightness: float) -> np.ndarray:
    """Denominator 1 - g z^-N F(z) of the string's filter, (coefficient,), for a period in samples and two decay times.

    The loss (s/2, 1 - s, s/2) and the Lagrange filter have known delays; the delay N completes the period.
    `decay`, of the fundamental, and `brightness`, of the partials at BRIGHT, are seconds to -60 dB.
    """
    rounds_per_second = NSYNTH_RATE / period
    gain = 10 ** (-3 / (decay * rounds_per_second))
    bright_gain = 10 ** (-3 / (min(brightness, decay) * rounds_per_second))
    softness = (1 - bright_gain / gain) / (1 - np.cos(2 * np.pi * BRIGHT / NSYNTH_RATE))
    softness = min(softness, 0.5)  # 0.5 removes the highest partial in one round trip; more would invert it
    whole = int(period - 1 - LAGRANGE_ORDER // 2)  # samples: the period less the delays of the two filters
    fractional = _lagrange(period - 1 - whole)
    round_trip = gain * np.convolve([softness / 2, 1 - softness, softness / 2], fractional)
    return np.concatenate([[1.0], np.zeros(whole - 1), -round_trip])


def _lagrange(delay: float) -> np.ndarray:
    """Lagrange filter for a delay of `delay` samples, (LAGRANGE_ORDER + 1,); most accurate at half its length."""
    taps = np.arange(LAGRANGE_ORDER + 1)
    return np.array([np.prod([(delay - k) / (n - k) for k in taps if k != n]) for n in taps])


def _comb(sound: np.ndarray, delay: float) -> np.ndarray:
    """Comb filter of a position on the string: subtract the sound `delay` samples later, (sample,) -> (sample,)."""
    whole = int(delay)
    comb = np.zeros(whole + 2)
    comb[0] = 1.0
    comb[whole] -= 1 - (delay - whole)
    comb[whole + 1] -= delay - whole
    return signal.lfilter(comb, [1.0], sound)


def _body(sound: np.ndarray, modes: tuple[tuple[float, float, float], ...]) -> np.ndarray:
    """Add the resonances of a hollow body, (sample,) -> (sample,)."""
    output = sound.copy()
    for frequency, quality, gain in modes:
        numerator, denominator = signal.iirpeak(frequency, quality, fs=NSYNTH_RATE)
        output += gain * signal.lfilter(numerator, denominator, sound)
    return output


def _pickup(sound: np.ndarray, instrument: Instrument, period: float) -> np.ndarray:
    """Magnetic pickup: blind to partials with a node at its position, and resonant with its cable."""
    assert instrument.pickup is not None
    # z = exp(j 2 pi f / rate) of a resonant pole pair; its quality of 1.5 is a passive pickup's under load.
    omega, quality = 2 * np.pi * instrument.tone / NSYNTH_RATE, 1.5
    alpha = np.sin(omega) / (2 * quality)
    numerator = np.array([1, 2, 1]) * (1 - np.cos(omega)) / 2
    denominator = [1 + alpha, -2 * np.cos(omega), 1 - alpha]
    return signal.lfilter(numerator, denominator, _comb(sound, instrument.pickup * period))


def _amplifier(sound: np.ndarray, drive: float) -> np.ndarray:
    """Soft clipping of a valve amplifier: more drive, more overtones; 0 leaves the sound unchanged."""
    if drive == 0:
        return sound
    return np.tanh(drive * sound / np.abs(sound).max()) / drive
