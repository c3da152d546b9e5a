"""Settings of a run: three frozen dataclasses, read from a TOML preset or file, changed by `--set KEY=VALUE`.

Knows nothing of the shard set: what depends on it (the vocabulary, the number of steps) is computed in `trainer.run`.
"""

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shards.parse import toml_table
from shards.storage import read_bytes
from trainer.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"
LARGEST = 10**9  # of numbers that have no bound of their own
LARGEST_SEED = 2**64 - 1  # of torch
UNROTATED = 4  # features of a head for which rotary positions are not defined: their base divides by zero

# Types of settings. msgspec checks a value against its type; an error says the description.
Positive = Annotated[int, Meta(gt=0, le=LARGEST, description=f"a whole number above 0, at most {LARGEST}")]
Natural = Annotated[int, Meta(ge=0, le=LARGEST, description=f"a whole number, 0 or more, at most {LARGEST}")]
Seed = Annotated[int, Meta(ge=0, description=f"a whole number, 0 or more, at most {LARGEST_SEED}")]
Width = Annotated[int, Meta(ge=4, le=65536, description="a whole number above 0, from 4 to 65536")]
Count = Annotated[int, Meta(gt=0, le=1024, description="a whole number above 0, at most 1024")]
HeadWidth = Annotated[int, Meta(ge=2, le=1024, multiple_of=2, description="an even number from 2 to 1024, but not 4")]
Notes = Annotated[int, Meta(gt=0, le=1 << 20, description=f"a whole number above 0, at most {1 << 20}")]
Processes = Annotated[int, Meta(ge=0, le=1024, description="a whole number, 0 or more, at most 1024")]
PositiveNumber = Annotated[float, Meta(gt=0, le=LARGEST, description=f"a number above 0, at most {LARGEST}")]
NaturalNumber = Annotated[float, Meta(ge=0, le=LARGEST, description=f"a number, 0 or more, at most {LARGEST}")]
Share = Annotated[float, Meta(ge=0, lt=1, description="a number, at least 0 and less than 1")]
Switch = Annotated[bool, Meta(description="true or false")]
Names = Annotated[tuple[str, ...], Meta(description="a list of words")]
Position = Annotated[Literal["frame", "token"], Meta(description="frame or token")]
Optimizer = Annotated[Literal["adamw", "adam", "muon"], Meta(description="adamw, adam or muon")]
Schedule = Annotated[Literal["cosine", "constant"], Meta(description="cosine or constant")]
Crop = Annotated[Literal["start", "random"], Meta(description="start or random")]
Precision = Annotated[Literal["auto", "float32", "bfloat16"], Meta(description="auto, float32 or bfloat16")]


@dataclass(frozen=True)
class ModelConfig:
    """An x-transformers decoder over tokens."""

    width: Width = 192
    depth: Count = 4
    heads: Count = 3
    head_width: HeadWidth = 64
    dropout: Share = 0.0  # of embeddings and feed-forward, and of attention if `attention_dropout`
    attention_dropout: Switch = True  # false: attention has no dropout, with which a CPU has no flash attention
    code_dropout: Share = 0.0  # probability that the codes of a position are hidden from those after it in training
    dropout_epochs: NaturalNumber = 0.0  # of a training from which on these three are full; a shorter one, which sees
    # each note less often and learns less by heart, has a share of them; 0: always full
    flash: Switch = True  # scaled_dot_product_attention instead of attention written out
    shared_vocabulary: Switch = False  # all codebooks use the ids 0..codebook_size - 1, and code 0 is the start token
    position: Position = "frame"  # token: a position of the decoder for each code; frame: for all codes of a frame
    labels: Names = ()  # label names that condition the model

    def __post_init__(self) -> None:
        _check(self)
        if self.head_width == UNROTATED:
            raise ConfigError(f"model.head_width = {self.head_width}: must be {_rule('model.head_width')}")
        if self.heads == 1 and self.head_width != self.width:  # x-transformers adds a single head without a projection
            raise ConfigError(f"model.head_width = {self.head_width}: with one head, must be width, {self.width}")
        if len({*self.labels}) < len(self.labels):
            raise ConfigError(f"model.labels = {list(self.labels)}: a label is named twice")
        if self.shared_vocabulary and self.position == "frame":
            raise ConfigError("model.position: a shared vocabulary goes with position=token")
        if self.shared_vocabulary and self.labels:
            raise ConfigError("model.labels: a shared vocabulary has no room for labels; set shared_vocabulary=false")


@dataclass(frozen=True)
class DataConfig:
    """Batches and loading. The order of notes is a function of the set, `train.seed` and `batch`."""

    batch: Notes = 16  # notes a step, over all ranks
    micro_batch: Natural = 0  # notes of a rank at a time, gradients added up; 0: all of its notes
    window: Natural = 0  # tokens of a note that the model sees; 0: the longest note of the set
    crop: Crop = "start"  # which tokens of a longer note: its first, or from a random frame; validation has the first
    workers: Processes = (
        0  # loader processes a rank; 0: read in the training process, which takes it about 0.1 ms a note
    )
    label_dropout: Share = 0.1  # probability that a label is hidden, so that one model samples with and without it

    def __post_init__(self) -> None:
        _check(self)
        if self.crop == "random" and not self.window:
            raise ConfigError("data.crop = random: no note is longer than data.window = 0; set data.window, in tokens")


@dataclass(frozen=True)
class TrainConfig:
    """Length, optimizer and precision of the training, and how often it evaluates and saves."""

    steps: Natural = 0  # updates in all; 0: as `epochs` or `minutes` says
    epochs: Natural = 0  # passes over the train split
    minutes: NaturalNumber = 0.0  # as many steps as fit, by the speed of this machine; evaluations are not counted
    optimizer: Optimizer = "adamw"  # adamw, adam; muon: for hidden matrices, and adamw for the rest
    lr: PositiveNumber = 1e-3
    schedule: Schedule = "cosine"  # cosine, constant
    warmup: Natural = 0  # steps until `lr` is reached
    final_lr: Share = 0.0  # last rate of the cosine, as a share of `lr`
    beta2: Share = 0.95
    weight_decay: NaturalNumber = 0.1  # on matrices only
    clip: NaturalNumber = 1.0  # largest norm of the gradient; 0: any
    ema: Share = 0.0  # decay a step of the weights' moving average, which is evaluated and sampled then; 0: none
    seed: Seed = 0
    dtype: Precision = "auto"  # bfloat16: autocast; auto: bfloat16 where the hardware has units for it
    compile: Switch = False  # torch.compile
    evaluate_every: Natural = 0  # steps; 0: a fifth of the run
    samples: Natural = 4  # notes that are sampled at each evaluation, to hear the run learn; 0: none
    checkpoint_every: Natural = 0  # steps; 0: at each evaluation
    keep: Positive = 2  # newest checkpoints that stay, beside the best

    def __post_init__(self) -> None:
        _check(self)
        if sum(map(bool, (self.steps, self.epochs, self.minutes))) != 1:
            raise ConfigError(
                f"train.steps = {self.steps}, train.epochs = {self.epochs}, train.minutes = {self.minutes:g}: "
                "set exactly one of them"
            )
        if self.seed > LARGEST_SEED:
            raise ConfigError(f"train.seed = {self.seed}: must be {_rule('train.seed')}")


@dataclass(frozen=True)
class Config:
    """All of a run's settings."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(epochs=1))
    has_optional_labels: bool = field(default=False, compare=False)  # a preset's: those that a set lacks are left out

    def to_json(self) -> dict[str, dict[str, Any]]:
        return {section: asdict(getattr(self, section)) for section in SECTIONS}

    @classmethod
    def from_json(cls, value: Any) -> "Config":
        """Undo `to_json`, as it comes back from a file.

        Raises:
            ConfigError: a setting that this version does not know, or a value it refuses.
        """
        tables: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
            raise ConfigError("settings: are no tables of settings")
        for key, item in _flat(value).items():
            section, name = _full_key(key, "settings").split(".")
            tables[section][name] = _convert(key, item)
        return cls(**{section: kind(**tables[section]) for section, kind in SECTIONS.items()})


SECTIONS: dict[str, Any] = {item.name: item.type for item in fields(Config) if is_dataclass(item.type)}
TYPES: dict[str, Any] = {
    f"{name}.{item.name}": item.type for name, section in SECTIONS.items() for item in fields(section)
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
    has_optional_labels = path.is_file()
    if not path.is_file():
        path = Path(preset)
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in PRESETS.glob("*.toml")))
        raise ConfigError(f"{preset}: neither a preset ({names}) nor a TOML file")
    tables = toml_table(read_bytes(path), str(path), ConfigError)
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} is outside the tables [{'], ['.join(SECTIONS)}]")
    values = {_full_key(key, str(path)): value for key, value in _flat(tables).items()}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"--set {change}: is not KEY=VALUE, such as train.lr=0.001")
        key = _full_key(key.strip(), "--set")
        has_optional_labels &= key != "model.labels"
        if key in LENGTHS:
            values = {other: value for other, value in values.items() if other not in LENGTHS}
        values[key] = _convert(key, _words(key, text) if TYPES[key] == Names else text.strip(), strict=False)
    sections: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        sections.setdefault(section, {})[name] = value
    return replace(Config.from_json(sections), has_optional_labels=has_optional_labels)


def same_length(ours: Config, theirs: Config) -> bool:
    """Say whether both have the same steps, epochs and minutes."""
    a, b = _flat(ours.to_json()), _flat(theirs.to_json())
    return all(a[key] == b[key] for key in LENGTHS)


def list_differences(ours: Config, theirs: Config) -> list[tuple[str, Any, Any]]:
    """(key, our value, their value) of each setting with which a run would become another one."""
    a, b = _flat(ours.to_json()), _flat(theirs.to_json())
    return [(key, a[key], b[key]) for key in a if a[key] != b[key] and key not in CHANGEABLE]


def _flat(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{name}": value for section, table in tables.items() for name, value in table.items()}


def _full_key(key: str, source: str) -> str:
    """`section.name` for a key that may lack its section. `source` begins the error."""
    names = {full.split(".")[1]: full for full in TYPES} | {full: full for full in TYPES}
    if key not in names:
        [nearest] = difflib.get_close_matches(key, names, n=1, cutoff=0.0)
        raise ConfigError(f"{source}: {key}: no such setting; the nearest is {names[nearest]}")
    return names[key]


def _words(key: str, text: str) -> list[str]:
    """Words between commas, or a list as JSON and TOML write it."""
    if not text.lstrip().startswith("["):
        return [word.strip() for word in text.split(",") if word.strip()]
    try:
        return msgspec.json.decode(text, type=list[str])
    except (msgspec.MsgspecError, RecursionError):
        raise ConfigError(f'{key} = {text}: must be words between commas, or a list such as ["pitch"]') from None


def _convert(key: str, value: Any, strict: bool = True) -> Any:
    """The value in the type of its setting; without `strict`, of its text too."""
    try:
        return msgspec.convert(value, TYPES[key], strict=strict)
    except msgspec.ValidationError:
        raise ConfigError(f"{key} = {value!r}: must be {_rule(key)}") from None


def _rule(key: str) -> str:
    """The values that a setting can have."""
    return TYPES[key].__metadata__[0].description


def _check(section: Any) -> None:
    """Refuse a section with a value outside its type, whoever has made it."""
    name = next(name for name, kind in SECTIONS.items() if isinstance(section, kind))
    for item in fields(section):
        _convert(f"{name}.{item.name}", getattr(section, item.name))
