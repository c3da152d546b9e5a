"""Regions of an instrument: the keys and velocities that play each sound, and the level at which it plays.

Opens no file, and knows nothing of candidates and timbre.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.instrument.choose import Pair
from pipeline.instrument.instrument import Figures, Region
from pipeline.notes.nsynth import MIDI_MAX
from pipeline.score.pitch import loudness

SAMPLES = "samples"  # folder of the sounds
ONSET = 0.01  # of the peak: where the attack begins
BEFORE_ONSET, FADE_OUT = 0.003, 0.05  # seconds kept before it, rising; and falling at the end
SHORTEST_RISE = 0.001  # seconds, of a sound that begins at once
SILENT = 10 ** (-70 / 20)  # of the peak: the tail that is quieter is cut off
PEAK = 0.9  # of the sounds in their files, where 1 is full scale
SMOOTHED = 6  # keys on each side, over which the level may change slowly
SLOPE = (0.05, 0.15)  # dB a step of velocity: the least there is, and that of a single layer
HEADROOM = -1.0  # dB, of the loudest sound


def trim(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Leave out the silence before the attack and behind the decay, let both ends be zero, and use all 16 bits."""
    level = np.abs(waveform)
    peak = level.max()
    before, fade = round(BEFORE_ONSET * sample_rate), round(FADE_OUT * sample_rate)
    onset = int(np.argmax(level >= ONSET * peak))
    end = len(level) - int(np.argmax(level[::-1] >= SILENT * peak))
    sound = waveform[max(0, onset - before) : min(len(waveform), end + fade)].astype(np.float64)
    rise, fall = min(max(min(before, onset), round(SHORTEST_RISE * sample_rate)), len(sound)), min(fade, len(sound))
    sound[:rise] *= np.linspace(0, 1, rise, endpoint=False)
    sound[len(sound) - fall :] *= np.linspace(1, 0, fall)
    return np.asarray(sound / peak * PEAK, np.float32)


def make_regions(
    sounds: Mapping[Pair, np.ndarray],
    figures: Mapping[Pair, Figures],
    sample_rate: int,
    every_key: Sequence[int],
) -> tuple[tuple[Region, ...], tuple[float, float]]:
    """Make a region of each sound, (sample,): they cover the whole keyboard, `every_key`, at every velocity.

    Returns the regions by velocity and key, and the levels of the quietest and the loudest layer in dB.
    """
    layers = sorted({velocity for _, velocity in sounds})
    levels = {pair: figures[pair].level for pair in sounds}  # as sampled; in the files all are equally loud
    of_layer = {
        velocity: float(np.median([level for (_, layer), level in levels.items() if layer == velocity]))
        for velocity in layers
    }
    target = _line(of_layer)
    volumes = {}
    for key, velocity in levels:
        around = [other - of_layer[layer] for (near, layer), other in levels.items() if abs(near - key) <= SMOOTHED]
        wanted = target(_velocities(layers, velocity)[1]) + float(np.median(around))
        volumes[key, velocity] = wanted - loudness(sounds[key, velocity], sample_rate)
    offset = HEADROOM - max(_peak_level(sounds[pair]) + volume for pair, volume in volumes.items())
    regions = []
    for velocity in layers:
        low, high = _velocities(layers, velocity)
        keys = sorted(key for key, layer in sounds if layer == velocity)
        for key in keys:
            pair = key, velocity
            low_key, high_key = key_range(keys, key, every_key[0], every_key[-1])
            regions.append(
                Region(
                    pitch=key,
                    velocity=velocity,
                    low_key=low_key,
                    high_key=high_key,
                    low_velocity=low,
                    high_velocity=high,
                    sample=sample_path(pair),
                    seconds=len(sounds[pair]) / sample_rate,
                    tune=-(figures[pair].cents or 0.0),
                    volume=volumes[pair] + offset,
                    quietest=10 ** ((target(low) - target(high)) / 20),
                    figures=figures[pair],
                )
            )
    return tuple(regions), (min(of_layer.values()), max(of_layer.values()))


def _peak_level(sound: np.ndarray) -> float:
    return 20 * math.log10(max(float(np.abs(sound).max()), 1e-6))


def _line(of_layer: Mapping[int, float]) -> Callable[[float], float]:
    """The level at each velocity: a line through the layers that rises, so that louder velocities are louder."""
    velocities, levels = np.array([*of_layer]), np.array([*of_layer.values()])
    slope = max(SLOPE[0], np.polyfit(velocities, levels, 1)[0]) if len(velocities) > 1 else SLOPE[1]
    return lambda velocity: float(levels.mean() + slope * (velocity - velocities.mean()))


def _velocities(layers: Sequence[int], velocity: int) -> tuple[int, int]:
    """The velocities that play a layer: those nearer to it than to the others."""
    index = layers.index(velocity)
    low = 1 if index == 0 else (layers[index - 1] + velocity) // 2 + 1
    high = MIDI_MAX if index == len(layers) - 1 else (velocity + layers[index + 1]) // 2
    return low, high


def key_range(keys: Sequence[int], key: int, lowest: int, highest: int) -> tuple[int, int]:
    """The keys that play a sound: those nearer to its own than to another's, and all to the end of the keyboard."""
    index = keys.index(key)
    low = lowest if index == 0 else (keys[index - 1] + key) // 2 + 1
    high = highest if index == len(keys) - 1 else (key + keys[index + 1]) // 2
    return low, high


def region_of(key: int, velocity: int, regions: Sequence[Region]) -> int | None:
    for region in regions:
        is_of_key = region.low_key <= key <= region.high_key
        if is_of_key and region.low_velocity <= velocity <= region.high_velocity:
            return region.pitch
    return None


def sample_path(pair: Pair) -> str:
    return f"{SAMPLES}/{pair[0]:03d}-{pair[1]:03d}.flac"
