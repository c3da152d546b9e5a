"""Formats: the file that is changed, its mutators, and the commands that read it, where every stage has run once.

All paths are relative to that folder, so that a copy of it is a folder of its own.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shards.files import sha256_of
from tests.mutations import mutators
from tests.mutations.mutators import Mutator, in_tar, mutate_bytes, mutate_json, mutate_json_lines
from tests.support import ROOT

Command = tuple[str, ...]  # program, command, arguments

TINY = [
    "steps=2",
    "evaluate_every=1",
    "width=16",
    "depth=1",
    "heads=2",
    "head_width=8",
    "batch=4",
    "warmup=1",
    "dtype=float32",
    "samples=1",  # a page draws each
]
CPU = ("--device", "cpu")
ENCODING = ("--codec", "encodec_mini", "--duration", "0.2", "--notes-per-shard", "3", *CPU, "--max-rejected", "1")
SETTINGS = tuple(word for change in TINY for word in ("--set", change))
TAR, NOTE = "set/train-00000.tar", "samples/tokens/first.npy"
PREVIEW = "run/samples/step-00000002/preview_0.npy"

ENCODE: Command = ("pipeline", "encode", "audio", "--out", "set", *ENCODING)
ENCODE_NEW: Command = ("pipeline", "encode", "audio", "--out", "new", *ENCODING)
RELABEL: Command = ("pipeline", "relabel", "set", "--out", "relabelled")
PLAN: Command = ("pipeline", "plan", "audio", *ENCODING[:-2])
REENCODE: Command = ("pipeline", "verify", "set", "--reencode", "3", *CPU)
INSPECT: Command = ("shards", "inspect", "set")
VERIFY: Command = ("shards", "verify", "set")
DECODE_SET: Command = ("pipeline", "decode", "set", "--out", "decoded", *CPU)
DECODE: Command = ("pipeline", "decode", "samples/tokens", "--out", "samples", *CPU)
SCORE: Command = ("pipeline", "score", "samples", *CPU)
PAGE: Command = ("pipeline", "page", "samples", "--real", "1", *CPU)
CHOOSE: Command = ("pipeline", "choose", "samples/tokens", "--out", "chosen", "--count", "1", *CPU)
LISTEN: Command = ("pipeline", "listen", "samples", "--real", "1", *CPU)
INSTRUMENT: Command = (
    "pipeline",
    "instrument",
    "samples/tokens",
    "--out",
    "instrument",
    "--like",
    "set:guitar_acoustic_000-040-100",
    "--complete",  # its notes are good candidates, whatever two steps of training have brought
    "set:guitar_acoustic_000",
    *CPU,
)
TRAIN: Command = ("trainer", "train", "--shards", "set", "--run", "new-run", *CPU, *SETTINGS)
RESUME: Command = ("trainer", "train", "--shards", "set", "--run", "run", *CPU, *SETTINGS, "--set", "steps=3")
START: Command = (*TRAIN[:5], "tuned", *TRAIN[6:], "--start", "run")
SAMPLE: Command = ("trainer", "sample", "--run", "run", "--out", "new-samples/tokens", "--count", "1", *CPU)
SAMPLE_WANTED: Command = (*SAMPLE[:-4], "--wanted", "wanted.json", *CPU)
PROMPT_SET: Command = (*SAMPLE, "--prompt", "set:guitar_acoustic_000-040-100", "--prompt-seconds", "0.05")
PROMPT_FILE: Command = (*SAMPLE, "--prompt", NOTE, "--prompt-seconds", "0.05")
CURVES: Command = ("trainer", "curves", "run", "--out", "curves.png")
SCORE_CODEC: Command = ("pipeline", "score-codec", "audio/nsynth-guitar-train", "--count", "1")
TRAIN_CODEC: Command = (
    "pipeline",
    "train-codec",
    "audio",
    "--out",
    "codec.safetensors",
    "--steps",
    "1",
    "--start",
    "encodec_mini",
    *CPU,
)
DEMO_NOTES: Command = ("pipeline", "demo-notes", "demo", "--velocities", "1", "--pitches", "60", "60")


@dataclass(frozen=True)
class Format:
    """One kind of file, changed in one way or several, and read by commands in turn."""

    name: str
    file: str
    mutators: tuple[Mutator, ...]
    commands: tuple[Command, ...]
    finish: Callable[[], None] = lambda: None  # called in the folder after the file was changed
    build: Callable[[], None] = lambda: build_folder()  # makes the folder, in the current one


def build_folder() -> None:
    """Run every stage on a tiny scale in the current folder."""
    from tests.mutations.run import call
    from tests.support.notes import tone, write_note

    for split, instrument, pitches in (("train", 0, (40, 41, 42, 43)), ("valid", 1, (40, 41, 42))):
        for pitch in pitches:
            name = f"guitar_acoustic_{instrument:03d}-{pitch:03d}-100.wav"
            write_note(Path(f"audio/nsynth-guitar-{split}/{name}"), tone(pitch, 0.2, 24_000), 24_000)
    Path("audio/bad-test").mkdir()
    Path("audio/bad-test/damaged.wav").write_bytes(b"RIFF")
    labels = {
        "guitar_acoustic_000-040-100": {"pitch": 40, "velocity": 100, "qualities": [0, 1], "qualities_str": ["a"]}
    }
    Path("audio/nsynth-guitar-train/examples.json").write_text(json.dumps(labels))
    for command in (ENCODE, (*TRAIN[:5], "run", *TRAIN[6:]), (*SAMPLE[:5], "samples/tokens", "--count", "2", *CPU)):
        call(command)
    for path in sorted(Path("samples/tokens").glob("sample_0000*")):
        path.rename(path.with_name("first" + path.suffix))
    listed = Path("samples/tokens/samples.list.json")
    listed.write_text(json.dumps({"count": 2, "keys": sorted(path.stem for path in listed.parent.glob("*.npy"))}))
    for command in (DECODE, SCORE, PAGE, INSTRUMENT):
        call(command)


def sign_set() -> None:
    """Write the sizes and digests that the tars have now into manifest and records, as a hostile stranger would."""
    path = Path("set/manifest.json")
    manifest = json.loads(path.read_text())
    for shards in manifest["splits"].values():
        for shard in shards:
            tar = path.with_name(shard["name"])
            shard |= {"bytes": tar.stat().st_size, "sha256": sha256_of(tar)}
            record = tar.with_suffix(".json")
            record.write_text(json.dumps({**json.loads(record.read_text()), **shard}))
    path.write_text(json.dumps(manifest))


def _remove_manifest() -> None:
    Path("set/manifest.json").unlink()


def _remove_decoded() -> None:
    for path in Path("samples").glob("*.wav"):
        path.unlink()


def _to_audio(ending: str) -> None:
    """Encode a copy of the first train note in another format, in the audio folder, and the set of it anew."""
    import soundfile

    from tests.mutations.run import call

    build_folder()
    samples, rate = soundfile.read("audio/nsynth-guitar-train/guitar_acoustic_000-040-100.wav")
    Path("audio/nsynth-guitar-train/guitar_acoustic_000-040-100.wav").unlink()
    soundfile.write(_audio(ending), samples, rate)
    shutil.rmtree("set")
    call(ENCODE)


def _audio(ending: str) -> str:
    return f"audio/nsynth-guitar-train/guitar_acoustic_000-040-100.{ending}"


def _write_weights() -> None:
    import torch
    from safetensors.torch import load_file

    from pipeline.codec.spec import weights_file

    build_folder()
    shutil.copy(weights_file("encodec_mini"), "weights.safetensors")
    torch.save(load_file("weights.safetensors"), "weights.th")


def _save_codec() -> None:
    from tests.support.hugging_face import save_small

    build_folder()
    save_small("dac", Path("codec"))


def _start_codec_training() -> None:
    from tests.mutations.run import call

    build_folder()
    call(TRAIN_CODEC)


def _write_preset() -> None:
    """Write the settings of the run as a TOML file."""
    from trainer.config import load_config

    build_folder()
    lines = []
    for section, settings in load_config("small", TINY).to_json().items():
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
    Path("preset.toml").write_text("\n".join(lines) + "\n")


def _write_wanted() -> None:
    build_folder()
    labels = {"instrument_str": "guitar_acoustic_000"}
    wanted = {"labels": labels, "pairs": [{"pitch": 40, "velocity": 100, "first": 0, "count": 1}]}
    Path("wanted.json").write_text(json.dumps(wanted))


def _write_labels(ending: str) -> None:
    """Write labels of the three kinds for all notes."""
    build_folder()
    notes = sorted(path.stem for path in Path("audio").glob("nsynth*/*.wav"))
    rows = [
        {"file_name": note, "mood": "ab"[index % 2], "gain": index / 7, "take": index}
        for index, note in enumerate(notes)
    ]
    if ending == "csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps({**row, "tags": ["a", "b"][: index % 3]}) for index, row in enumerate(rows)]
    Path(f"labels.{ending}").write_text("\n".join(lines) + "\n")


def _make_demo_notes() -> None:
    """Make them in another process, because they start threads."""
    build_folder()
    program, *words = DEMO_NOTES
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", program, *words], env=environment, capture_output=True, check=True)


def _sign_codes(weights: str) -> None:
    """Write the digest of the weights into set and token files, so that they fit."""
    sha256 = sha256_of(Path(weights))
    for path in (Path("set/manifest.json"), *Path("samples/tokens").glob("*-*.json"), Path(NOTE).with_suffix(".json")):
        value = json.loads(path.read_text())
        value["codec"]["weights_sha256"] = sha256
        path.write_text(json.dumps(value))


SET_READERS = (INSPECT, VERIFY, REENCODE, DECODE_SET, TRAIN, RESUME, PROMPT_SET, SCORE, PAGE, INSTRUMENT)
SAMPLE_READERS = (DECODE, SCORE, PAGE, LISTEN, CHOOSE, INSTRUMENT, PROMPT_FILE)
HUGGING_FACE_READERS = tuple((*command, "--codec", "hf:codec") for command in (ENCODE_NEW, PLAN, SCORE_CODEC))
AUDIO_READERS = (ENCODE_NEW, PLAN, REENCODE, SCORE_CODEC, SCORE, PAGE, INSTRUMENT, TRAIN_CODEC)


def _with_labels(path: str) -> tuple[Command, ...]:
    return tuple((*command, "--labels", path) for command in (ENCODE_NEW, PLAN, RELABEL))


def _with_weights(path: str) -> tuple[Command, ...]:
    start = (*TRAIN_CODEC, "--start", path)
    return (
        *((*command, "--weights", path) for command in (ENCODE_NEW, PLAN, DECODE, SCORE_CODEC, SCORE, INSTRUMENT)),
        start,
    )


_FORMATS = (
    Format("tar", TAR, (mutate_bytes, mutators.mutate_tar), SET_READERS),
    Format("tar, signed", TAR, (mutate_bytes, *[mutators.mutate_tar] * 4), SET_READERS, sign_set),
    Format("npy in a tar", TAR, tuple(in_tar(b".npy", m) for m in (mutate_bytes, *[mutators.mutate_npy] * 4)),
           SET_READERS, sign_set),
    Format("labels in a tar", TAR, tuple(in_tar(b".json", m) for m in (mutate_bytes, *[mutate_json] * 3)),
           SET_READERS, sign_set),
    Format("manifest", "set/manifest.json", (mutate_bytes, *[mutate_json] * 4), (*SET_READERS, ENCODE)),
    Format("record", "set/train-00000.json", (mutate_bytes, *[mutate_json] * 4),
           (VERIFY, REENCODE, TRAIN, RESUME, ENCODE, SCORE, PAGE)),
    Format("record, unfinished set", "set/train-00000.json", (mutate_bytes, *[mutate_json] * 4), (ENCODE,),
           _remove_manifest),
    Format("rejected.jsonl", "set/rejected.jsonl", (mutate_bytes, *[mutate_json_lines] * 3), (INSPECT, VERIFY, ENCODE)),
    Format("inputs.json", "set.inputs.json", (mutate_bytes, *[mutate_json] * 3), (ENCODE,)),
    Format("run.json", "run/run.json", (mutate_bytes, *[mutate_json] * 4), (RESUME, START, SAMPLE, PAGE)),
    Format("metrics", "run/metrics.jsonl", (mutate_bytes, *[mutate_json_lines] * 3), (RESUME, CURVES, PAGE)),
    Format("checkpoint", "run/checkpoints/step-00000002.safetensors",
           (mutate_bytes, mutators.mutate_safetensors_header, *[mutators.mutate_tensors] * 3), (RESUME, START, SAMPLE)),
    Format("token file's npy", NOTE, (mutate_bytes, *[mutators.mutate_npy] * 4), SAMPLE_READERS),
    Format("token file's JSON", NOTE.replace(".npy", ".json"), (mutate_bytes, *[mutate_json] * 4), SAMPLE_READERS),
    Format("preview's npy", PREVIEW, (mutate_bytes, *[mutators.mutate_npy] * 4), (PAGE,)),
    Format("preview's JSON", PREVIEW.replace(".npy", ".json"), (mutate_bytes, *[mutate_json] * 4), (PAGE,)),
    Format("samples.list.json", "samples/tokens/samples.list.json", (mutate_bytes, *[mutate_json] * 4),
           (DECODE, SCORE, PAGE, LISTEN, CHOOSE, INSTRUMENT)),
    Format("wanted.json", "wanted.json", (mutate_bytes, *[mutate_json] * 4), (SAMPLE_WANTED,),
           build=_write_wanted),
    Format("measured.json", "instrument/measured.json", (mutate_bytes, *[mutate_json] * 4), (INSTRUMENT,)),
    Format("sample's WAV", "samples/first.wav", (mutate_bytes, mutators.mutate_wav_header),
           (SCORE, PAGE, DECODE, LISTEN)),
    Format("scores.json", "samples/scores.json", (mutate_bytes, *[mutate_json] * 4), (PAGE,)),
    Format("preset", "preset.toml", (*[mutators.mutate_toml] * 4, mutate_bytes),
           tuple((*words, "--preset", "preset.toml", "--set", "steps=3") for words in (TRAIN[:8], RESUME[:8])),
           build=_write_preset),
    Format("examples.json", "audio/nsynth-guitar-train/examples.json", (mutate_bytes, *[mutate_json] * 4),
           (ENCODE_NEW, PLAN, ENCODE, REENCODE, (*RELABEL, "--labels", "audio/nsynth-guitar-train/examples.json"))),
    Format("labels.csv", "labels.csv", (mutate_bytes, *[mutators.mutate_csv] * 4), _with_labels("labels.csv"),
           build=partial(_write_labels, "csv")),
    Format("labels.jsonl", "labels.jsonl", (mutate_bytes, *[mutate_json_lines] * 3), _with_labels("labels.jsonl"),
           build=partial(_write_labels, "jsonl")),
    Format("demo recipe", "demo/recipe.json", (mutate_bytes, *[mutate_json] * 4), (DEMO_NOTES,),
           build=_make_demo_notes),
    Format("weights.safetensors", "weights.safetensors",
           (mutate_bytes, mutators.mutate_safetensors_header, *[mutators.mutate_tensors] * 2),
           _with_weights("weights.safetensors"), partial(_sign_codes, "weights.safetensors"), _write_weights),
    Format("weights.th", "weights.th", (mutate_bytes, *[mutators.mutate_pickle] * 3), _with_weights("weights.th"),
           partial(_sign_codes, "weights.th"), _write_weights),
    Format("hf codec's config.json", "codec/config.json", (mutate_bytes, *[mutate_json] * 4), HUGGING_FACE_READERS,
           build=_save_codec),
    Format("hf codec's safetensors", "codec/model.safetensors",
           (mutate_bytes, mutators.mutate_safetensors_header, *[mutators.mutate_tensors] * 2), HUGGING_FACE_READERS,
           build=_save_codec),
    Format("codec training's checkpoint", "codec.training/checkpoint.pt", (mutate_bytes, *[mutators.mutate_pickle] * 3),
           (TRAIN_CODEC,), build=_start_codec_training),
    Format("wav", _audio("wav"), (mutate_bytes, mutators.mutate_wav_header), AUDIO_READERS),
    *(Format(ending, _audio(ending), (mutate_bytes,), AUDIO_READERS, build=partial(_to_audio, ending))
      for ending in ("flac", "ogg", "mp3")),
)  # fmt: skip
FORMATS = {format.name: format for format in _FORMATS}
