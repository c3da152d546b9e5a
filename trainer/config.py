"""Settings of a run: three frozen dataclasses, read from a TOML preset or file, changed by `--set KEY=VALUE`.

Knows nothing of the shard set: what depends on it (the vocabulary, the number of steps) is computed in `trainer.run`.
"""

import difflib
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"

Rule = tuple[Callable[[Any], bool], str]
POSITIVE: Rule = (lambda value: value > 0, "more than 0")
NOT_NEGATIVE: Rule = (lambda value: value >= 0, "0 or more")
SHARE: Rule = (lambda value: 0 <= value < 1, "at least 0 and less than 1")


@dataclass(frozen=True)
class ModelConfig:
    """An x-transformers decoder over tokens."""

    width: int = 192
    depth: int = 4
    heads: int = 3
    head_width: int = 64
    dropout: float = 0.0  # of embeddings, attention and feed-forward; above 0 a CPU has no flash attention
    flash: bool = True  # scaled_dot_product_attention instead of attention written out
    shared_vocabulary: bool = False  # all codebooks use the ids 0..codebook_size - 1, and code 0 is the start token
    position: str = "frame"  # token: a position of the decoder for each code; frame: for all codes of a frame
    labels: tuple[str, ...] = ()  # label names that condition the model; those that the set lacks are left out

    def __post_init__(self) -> None:
        _check(self, *POSITIVE, "width", "depth", "heads", "head_width")
        _check(self, *SHARE, "dropout")
        _check_choice(self, "position", "frame", "token")
        if self.shared_vocabulary and self.position == "frame":
            raise ConfigError("model.position: a shared vocabulary goes with position=token")
        if self.shared_vocabulary and self.labels:
            raise ConfigError("model.labels: a shared vocabulary has no room for labels; set shared_vocabulary=false")


@dataclass(frozen=True)
class DataConfig:
    """Batches and loading. The order of notes is a function of the set, `train.seed` and `batch`."""

    batch: int = 16  # notes a step, over all ranks
    micro_batch: int = 0  # notes of a rank at a time, gradients added up; 0: all of its notes
    window: int = 0  # tokens from a note's start; 0: the longest note of the set
    workers: int = 0  # loader processes a rank; 0: read in the training process, which takes it about 0.1 ms a note
    label_dropout: float = 0.1  # probability that a label is hidden, so that one model samples with and without it

    def __post_init__(self) -> None:
        _check(self, *POSITIVE, "batch")
        _check(self, *NOT_NEGATIVE, "micro_batch", "window", "workers")
        _check(self, *SHARE, "label_dropout")


@dataclass(frozen=True)
class TrainConfig:
    """Length, optimizer and precision of the training, and how often it evaluates and saves."""

    steps: int = 0  # updates in all; 0: as `epochs` or `minutes` says
    epochs: int = 0  # passes over the train split
    minutes: float = 0.0  # as many steps as fit, by the speed of this machine; evaluations are not counted
    optimizer: str = "adamw"  # adamw, adam; muon: for hidden matrices, and adamw for the rest
    lr: float = 1e-3
    schedule: str = "cosine"  # cosine, constant
    warmup: int = 0  # steps until `lr` is reached
    final_lr: float = 0.0  # last rate of the cosine, as a share of `lr`
    beta2: float = 0.95
    weight_decay: float = 0.1  # on matrices only
    clip: float = 1.0  # largest norm of the gradient; 0: any
    ema: float = 0.0  # decay a step of the weights' moving average, which is evaluated and sampled then; 0: none
    seed: int = 0
    dtype: str = "auto"  # float32, bfloat16 (autocast); auto: bfloat16 where the hardware has units for it
    compile: bool = False  # torch.compile
    evaluate_every: int = 0  # steps; 0: a fifth of the run
    checkpoint_every: int = 0  # steps; 0: at each evaluation
    keep: int = 2  # newest checkpoints that stay, beside the best

    def __post_init__(self) -> None:
        _check(self, *POSITIVE, "lr", "keep")
        _check(self, *NOT_NEGATIVE, "steps", "epochs", "minutes", "warmup", "weight_decay", "clip", "seed")
        _check(self, *NOT_NEGATIVE, "evaluate_every", "checkpoint_every")
        _check(self, *SHARE, "beta2", "final_lr", "ema")
        _check_choice(self, "optimizer", "adamw", "adam", "muon")
        _check_choice(self, "schedule", "cosine", "constant")
        _check_choice(self, "dtype", "auto", "float32", "bfloat16")
        if sum(map(bool, (self.steps, self.epochs, self.minutes))) != 1:
            raise ConfigError(
                f"train.steps = {self.steps}, train.epochs = {self.epochs}, train.minutes = {self.minutes:g}: "
                "set exactly one of them"
            )


@dataclass(frozen=True)
class Config:
    """All of a run's settings."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=1))

    def to_json(self) -> dict[str, dict[str, Any]]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, dict[str, Any]]) -> "Config":
        """Undo `to_json`, as it comes back from a file.

        Raises:
            ConfigError: a setting that this version does not know, or a value it refuses.
        """
        return cls(**{name: _section(name, table) for name, table in value.items()})


SECTIONS = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig}
TYPE_NAMES = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
TYPES: dict[str, Any] = {
    f"{section}.{item.name}": item.type for section, config in SECTIONS.items() for item in fields(config)
}
LENGTHS = ("train.steps", "train.epochs", "train.minutes")
# A run may go on with other values of these: they do not change its batches and updates, only how many it makes.
CHANGEABLE = {
    *LENGTHS,
    *("train.evaluate_every", "train.checkpoint_every", "train.keep"),
    *("data.micro_batch", "data.workers"),
}


def load_config(preset: str, changes: Iterable[str] = ()) -> Config:
    """Read the settings of a preset's name or a TOML file, changed by `KEY=VALUE` strings.

    A key is `section.name`; the section can be left out. `steps`, `epochs` and `minutes` replace each other.

    Raises:
        ConfigError: no such preset, a key that is unknown (the nearest one is named), or a value that does not fit.
    """
    path = PRESETS / f"{preset}.toml"
    if not path.is_file():
        path = Path(preset)
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in PRESETS.glob("*.toml")))
        raise ConfigError(f"{preset}: neither a preset ({names}) nor a TOML file")
    try:
        tables = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from error
    values = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} is outside the tables [{'], ['.join(SECTIONS)}]")
        for name, value in table.items():
            values[_full_key(f"{section}.{name}", str(path))] = value
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"--set {change}: is not KEY=VALUE, such as train.lr=0.001")
        key = _full_key(key.strip(), "--set")
        if key in LENGTHS:
            values = {other: value for other, value in values.items() if other not in LENGTHS}
        values[key] = _parse(key, text.strip())
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for key, value in values.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    return Config.from_json(sections)


def same_length(ours: Config, theirs: Config) -> bool:
    """Say whether both have the same steps, epochs and minutes."""
    return all(_flat(ours)[key] == _flat(theirs)[key] for key in LENGTHS)


def list_differences(ours: Config, theirs: Config) -> list[tuple[str, Any, Any]]:
    """(key, our value, their value) of each setting with which a run would become another one."""
    a, b = _flat(ours), _flat(theirs)
    return [(key, a[key], b[key]) for key in a if a[key] != b[key] and key not in CHANGEABLE]


def _flat(config: Config) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, table in config.to_json().items() for name, value in table.items()}


def _section(name: str, table: dict[str, Any]) -> Any:
    return SECTIONS[name](**{key: _convert(_full_key(f"{name}.{key}", name), value) for key, value in table.items()})


def _full_key(key: str, source: str) -> str:
    """`section.name` for a key that may lack its section. `source` begins the error."""
    by_name = {full.split(".")[1]: full for full in TYPES}
    if key in TYPES or key in by_name:
        return by_name.get(key, key)
    names = by_name | {full: full for full in TYPES}
    [nearest] = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
    raise ConfigError(f"{source}: {key}: no such setting; the nearest is {names[nearest]}")


def _parse(key: str, text: str) -> Any:
    """Convert the text of `--set`: a word, a number, true or false, or words with commas between them."""
    kind = TYPES[key]
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key} = {text}: is true or false")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ConfigError(f"{key} = {text}: is not {TYPE_NAMES[kind]}") from None
    if kind is str:
        return text
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _convert(key: str, value: Any) -> Any:
    """Convert a value of a TOML or JSON file to the type of its field."""
    kind = TYPES[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in TYPE_NAMES:
        if type(value) is not kind:
            raise ConfigError(f"{key} = {value!r}: is not {TYPE_NAMES[kind]}")
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f"{key} = {value!r}: is not a list of words")
    return tuple(value)


def _check(config: Any, is_valid: Callable[[Any], bool], rule: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not is_valid(value):
            section = next(section for section, kind in SECTIONS.items() if isinstance(config, kind))
            raise ConfigError(f"{section}.{name} = {value!r}: must be {rule}")


def _check_choice(config: Any, name: str, *choices: str) -> None:
    _check(config, lambda value: value in choices, f"one of {', '.join(choices)}", name)
