"""How far a decoded note is from the real one: the distance that the codec is trained to lower and scored by.

Differences of mel and of linear spectra at several window lengths. Knows nothing of models, codes or files.

Multi-resolution mel distance: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023,
https://arxiv.org/abs/2306.06546; also EnCodec, section 3.4. Its linear term at long windows is ours: mel bands are a
semitone wide only above 1 kHz, so without it nothing asks for the pitch of a low note.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

SAMPLE_RATE = 24_000  # samples/s
MEL_WINDOWS = (64, 128, 256, 512, 1024, 2048)  # samples
MOST_BANDS = 64  # mel bands of the long windows; short ones have an eighth of their samples
PITCH_WINDOWS = (2048, 4096)  # samples: bins 12 and 6 Hz wide
PITCH_BAND = 2_500.0  # Hz: fundamentals and the first harmonics
OVERLAP = 4  # windows over each sample, when scoring; in training 2 do, because crops start anywhere
FLOOR = 3e-3  # magnitude under the logarithm, so that silence does not dominate
SOUNDS = 1e-3  # peak of a frame that is not silence, where 1 is full scale
LINEAR_WEIGHT = 2.0  # of the magnitudes themselves beside their logarithms


def mel_distance(decoded: Tensor, real: Tensor, windows: Sequence[int] = MEL_WINDOWS, overlap: int = OVERLAP) -> Tensor:
    """Mean |difference| of log mel magnitudes plus twice that of the magnitudes: (note, sample) twice -> scalar."""
    terms = []
    for window in windows:
        bands = _mel_bands(window).to(real.device)
        terms.append(_distance(magnitudes(decoded, window, overlap) @ bands, magnitudes(real, window, overlap) @ bands))
    return torch.stack(terms).mean()


def pitch_distance(decoded: Tensor, real: Tensor, overlap: int = OVERLAP) -> Tensor:
    """The same for single bins up to `PITCH_BAND` at long windows: (note, sample) twice -> scalar."""
    terms = []
    for window in PITCH_WINDOWS:
        bins = math.ceil(PITCH_BAND / SAMPLE_RATE * window)
        terms.append(
            _distance(magnitudes(decoded, window, overlap)[..., :bins], magnitudes(real, window, overlap)[..., :bins])
        )
    return torch.stack(terms).mean()


def waveform_error(decoded: Tensor, real: Tensor) -> Tensor:
    """Energy of the difference over the energy of the note, a mean over notes: (note, sample) twice -> scalar."""
    energy = real.square().mean(-1) + FLOOR**2
    return ((decoded - real).square().mean(-1) / energy).mean()


def sounding(samples: Tensor, hop: int) -> Tensor:
    """Which frames are not silence: (note, sample) -> (note, frame) bool."""
    return samples.abs().unfold(1, hop, hop).amax(2) >= SOUNDS


def magnitudes(samples: Tensor, window: int, overlap: int) -> Tensor:
    """|STFT|, scaled so that white noise has the same level at every window: (note, sample) -> (note, frame, bin)."""
    hann = _hann(window).to(samples.device)
    spectrum = torch.stft(samples, window, window // overlap, window=hann, return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power + 1e-12).sqrt().transpose(1, 2)  # the constant keeps the gradient finite in digital silence


def _distance(decoded: Tensor, real: Tensor) -> Tensor:
    logarithms = (decoded.clamp(min=FLOOR).log() - real.clamp(min=FLOOR).log()).abs().mean()
    return logarithms + LINEAR_WEIGHT * (decoded - real).abs().mean()


@cache
def _hann(window: int) -> Tensor:
    hann = torch.hann_window(window)
    return hann / hann.square().sum().sqrt()


@cache
def _mel_bands(window: int) -> Tensor:
    """Triangles of height 1, evenly spaced in mel: (bin, band)."""
    import librosa

    bands = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=window, n_mels=min(MOST_BANDS, window // 8), norm=None)
    return torch.from_numpy(bands).T.contiguous()
