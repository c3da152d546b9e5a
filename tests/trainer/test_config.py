"""Settings: presets, files, changes, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from trainer.config import PRESETS, Config, DataConfig, ModelConfig, TrainConfig, list_differences, load_config
from trainer.errors import ConfigError


def test_presets_are_the_three_that_are_documented() -> None:
    assert sorted(path.stem for path in PRESETS.glob("*.toml")) == ["base", "small", "tutorial"]


@pytest.mark.parametrize("preset", ["tutorial", "small", "base"])
def test_a_preset_survives_the_way_through_json(preset: str) -> None:
    config = load_config(preset)
    assert Config.from_json(config.to_json()) == config


def test_the_tutorial_preset_is_the_reference_recipe() -> None:
    config = load_config("tutorial")
    model, data, train = config.model, config.data, config.train
    assert (model.width, model.depth, model.heads, model.head_width) == (256, 6, 4, 64)
    assert (model.dropout, model.flash, model.shared_vocabulary, model.labels) == (0.1, False, True, ())
    assert (data.batch, data.window) == (125, 250)
    assert (train.optimizer, train.lr, train.schedule, train.beta2, train.weight_decay) == (
        "adam",
        1e-4,
        "constant",
        0.999,
        0.0,
    )
    assert (train.epochs, train.clip, train.warmup, train.dtype) == (100, 0.0, 0, "float32")


def test_a_change_names_its_setting_with_or_without_the_section() -> None:
    assert load_config("small", ["train.lr=0.5"]) == load_config("small", ["lr=0.5"])
    assert load_config("small", ["width=64"]).model.width == 64


def test_changes_are_parsed_as_their_field() -> None:
    config = load_config("small", ["flash=false", "labels=pitch, instrument_str", "optimizer=adam", "lr=1e-2"])
    assert config.model.flash is False
    assert config.model.labels == ("pitch", "instrument_str")
    assert (config.train.optimizer, config.train.lr) == ("adam", 0.01)


@pytest.mark.parametrize(
    "text", ["pitch,velocity", " pitch , velocity ", '["pitch", "velocity"]', ' ["pitch","velocity"]']
)
def test_labels_are_words_or_a_list(text: str) -> None:
    assert load_config("small", [f"labels={text}"]).model.labels == ("pitch", "velocity")


def test_only_labels_of_a_preset_are_optional(tmp_path: Path) -> None:
    assert load_config("small", ["width=64"]).has_optional_labels
    assert not load_config("small", ["labels=pitch"]).has_optional_labels
    (tmp_path / "mine.toml").write_text("[train]\nsteps = 5\n[model]\nlabels = ['pitch']\n")
    assert not load_config(str(tmp_path / "mine.toml")).has_optional_labels
    assert not Config().has_optional_labels


def test_labels_can_be_taken_away() -> None:
    assert load_config("small", ["labels="]).model.labels == ()


def test_steps_epochs_and_minutes_replace_each_other() -> None:
    assert load_config("small", ["minutes=7", "steps=3"]).train.minutes == 0
    assert (load_config("small", ["epochs=3"]).train.steps, load_config("small", ["epochs=3"]).train.epochs) == (0, 3)
    assert (load_config("tutorial", ["steps=7"]).train.steps, load_config("tutorial", ["steps=7"]).train.epochs) == (
        7,
        0,
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("train.learning_rate=1", "no such setting; the nearest is train."),
        ("widht=5", "the nearest is model.width"),
        ("train.sead=5", "the nearest is train.seed"),
        ("lr", "is not KEY=VALUE"),
        ("lr=fast", "train.lr = 'fast': must be a number above 0"),
        ("width=1.5", "model.width = '1.5': must be a whole number above 0"),
        ("flash=maybe", "model.flash = 'maybe': must be true or false"),
        ("width=0", "model.width = '0': must be a whole number above 0"),
        ("batch=-1", "data.batch = '-1': must be a whole number above 0"),
        *((f"head_width={value}", f"model.head_width = {value!r}: must be an even number") for value in ("7", "1")),
        ("head_width=4", "model.head_width = 4: must be an even number from 2 to 1024, but not 4"),
        ("width=3", "model.width = '3': must be a whole number above 0, from 4 to"),
        ("depth=99999999999999999999", "model.depth = '99999999999999999999': must be a whole number above 0"),
        ("batch=999999999999", "data.batch = '999999999999': must be a whole number above 0"),
        (f"seed={10**23}", f"train.seed = {10**23}: must be a whole number, 0 or more, at most 18446744073709551615"),
        *((f"minutes={value}", f"train.minutes = '{value}': must be a number") for value in ("inf", "nan", "1e300")),
        ("lr=inf", "train.lr = 'inf': must be a number above 0"),
        ("labels=pitch,pitch", "a label is named twice"),
        ('labels=["pitch"', 'model.labels = ["pitch": must be words between commas, or a list such as'),
        ("labels=[1]", "model.labels = [1]: must be words between commas, or a list such as"),
        ("dropout=1", "model.dropout = '1': must be a number, at least 0 and less than 1"),
        ("schedule=linear", "train.schedule = 'linear': must be cosine or constant"),
        ("steps=0", "set exactly one of them"),
        ("crop=middle", "data.crop = 'middle': must be start or random"),
        ("crop=random", "data.crop = random: no note is longer than data.window = 0; set data.window, in tokens"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_by_name(change: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("small", [change])
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_is_read_like_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nsteps = 5\nlr = 1\n[model]\nlabels = ['pitch']\n")
    config = load_config(str(path))
    assert (config.train.steps, config.train.lr, config.model.labels) == (5, 1.0, ("pitch",))
    assert config.data == DataConfig()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[train\n", "is not TOML"),
        ("steps = 5\n", "steps is outside the tables [model], [data], [train]"),
        ("[train]\nstep = 5\n", "train.step: no such setting; the nearest is train.steps"),
        ("[train]\nsteps = 'many'\n", "train.steps = 'many': must be a whole number, 0 or more"),
        ("[train]\nsteps = true\n", "train.steps = True: must be a whole number, 0 or more"),
        ("[train]\nsteps = 1\n[model]\nlabels = 'pitch'\n", "model.labels = 'pitch': must be a list of words"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert says in caught.value.message


def test_an_unknown_preset_is_refused_with_the_names_of_the_existing_ones() -> None:
    with pytest.raises(ConfigError, match="neither a preset \\(base, small, tutorial\\) nor a TOML file"):
        load_config("huge")


def test_labels_need_a_vocabulary_of_their_own() -> None:
    with pytest.raises(ConfigError, match="no room for labels"):
        ModelConfig(position="token", shared_vocabulary=True, labels=("pitch",))


def test_differences_are_the_settings_that_would_make_another_run() -> None:
    config = load_config("small")
    changeable = replace(
        config, train=replace(config.train, steps=9, minutes=0.0, keep=1), data=replace(config.data, workers=3)
    )
    assert list_differences(config, changeable) == []
    other = replace(config, train=replace(config.train, seed=9), data=replace(config.data, batch=3))
    assert list_differences(config, other) == [("data.batch", config.data.batch, 3), ("train.seed", 0, 9)]


def test_a_shared_vocabulary_is_refused_with_a_position_a_frame() -> None:
    with pytest.raises(ConfigError, match="goes with position=token"):
        ModelConfig(shared_vocabulary=True)


def test_a_run_needs_an_end() -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        TrainConfig()


def test_settings_are_checked_when_made_in_code_too() -> None:
    for make in (
        lambda: ModelConfig(width=0),
        lambda: DataConfig(batch=-1),
        lambda: TrainConfig(steps=1, lr=float("nan")),
        lambda: TrainConfig(steps=1, seed=2**64),
        lambda: ModelConfig(head_width=4),
        lambda: TrainConfig(steps=1, schedule="linear"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match="must be"):
            make()
