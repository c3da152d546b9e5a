"""Distances between a decoded note and the original: the codec's training losses and its score.

Differences of mel and linear spectra at several window lengths. Knows nothing of models, codes or files.

Multi-resolution mel distance: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023,
https://arxiv.org/abs/2306.06546; also EnCodec, section 3.4. The linear term at long windows is added here: mel bands
are a semitone wide only above 1 kHz, so without it no term depends on the pitch of a low note.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.audio import resample
from pipeline.codec.spec import SAMPLE_RATE
from shards.numba_cache import make_cache_robust

MEL_WINDOWS = (64, 128, 256, 512, 1024, 2048)  # samples
MAX_BANDS = 64  # mel bands of the long windows; short ones have an eighth of their samples
PITCH_WINDOWS = (2048, 4096)  # samples: bins 12 and 6 Hz wide
PITCH_BAND = 2_500.0  # Hz: fundamentals and the first harmonics
OVERLAP = 4  # windows over each sample, when scoring
FLOOR = 3e-3  # magnitude under the logarithm, so that silence does not dominate
SILENCE = 1e-3  # peak of a silent frame at most, relative to full scale
LINEAR_WEIGHT = 2.0  # of the magnitudes relative to their logarithms


def mel_distance(
    decoded: Tensor, original: Tensor, windows: Sequence[int] = MEL_WINDOWS, overlap: int = OVERLAP
) -> Tensor:
    """Mean |difference| of log mel magnitudes plus twice that of the magnitudes: both (note, sample) -> scalar."""
    terms = []
    for window in windows:
        bands = _mel_bands(window).to(original.device)
        spectra = (magnitudes(samples, window, overlap) @ bands for samples in (decoded, original))
        terms.append(_spectral_distance(*spectra))
    return torch.stack(terms).mean()


def note_distance(decoded: np.ndarray, original: np.ndarray, sample_rate: int) -> float:
    """`mel_distance` of two notes, each (sample,), at 24 kHz whatever their rate, so that codecs can be compared."""
    ours, theirs = (torch.from_numpy(resample(note, sample_rate, SAMPLE_RATE))[None] for note in (decoded, original))
    return float(mel_distance(ours, theirs))


def pitch_distance(decoded: Tensor, original: Tensor, overlap: int = OVERLAP) -> Tensor:
    """The same on single bins up to `PITCH_BAND` at long windows: both (note, sample) -> scalar."""
    terms = []
    for window in PITCH_WINDOWS:
        bins = math.ceil(PITCH_BAND / SAMPLE_RATE * window)
        spectra = (magnitudes(samples, window, overlap)[..., :bins] for samples in (decoded, original))
        terms.append(_spectral_distance(*spectra))
    return torch.stack(terms).mean()


def waveform_error(decoded: Tensor, original: Tensor) -> Tensor:
    """Energy of the difference relative to the note's, a mean over notes: both (note, sample) -> scalar."""
    energy = original.square().mean(-1) + FLOOR**2
    return ((decoded - original).square().mean(-1) / energy).mean()


def is_sounding(samples: Tensor, hop: int) -> Tensor:
    """Find the frames that are not silence: (note, sample) -> (note, frame) bool. A part of one at the end counts."""
    samples = nn.functional.pad(samples, (0, -samples.shape[1] % hop))
    return samples.abs().unfold(1, hop, hop).amax(2) >= SILENCE


def magnitudes(samples: Tensor, window: int, overlap: int) -> Tensor:
    """|STFT|, scaled so that white noise has the same level at any window: (note, sample) -> (note, frame, bin)."""
    hann = _hann(window).to(samples.device)
    spectrum = torch.stft(samples, window, window // overlap, window=hann, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power + 1e-12).sqrt().transpose(1, 2)  # the constant keeps the gradient finite in digital silence


def _spectral_distance(decoded: Tensor, original: Tensor) -> Tensor:
    logarithmic = (decoded.clamp(min=FLOOR).log() - original.clamp(min=FLOOR).log()).abs().mean()
    return logarithmic + LINEAR_WEIGHT * (decoded - original).abs().mean()


@cache
def _hann(window: int) -> Tensor:
    hann = torch.hann_window(window)
    return hann / hann.square().sum().sqrt()


@cache
def _mel_bands(window: int) -> Tensor:
    """Triangular filters of height 1, evenly spaced in mel: (bin, band)."""
    make_cache_robust()
    import librosa

    bands = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=window, n_mels=min(MAX_BANDS, window // 8), norm=None)
    return torch.from_numpy(bands).T.contiguous()
