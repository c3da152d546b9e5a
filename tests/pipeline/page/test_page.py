"""The listening page, in a real browser: everything plays, fits and survives what the files hold."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipeline.__main__ import main
from pipeline.audio import save
from pipeline.page.page import write_page
from pipeline.score.measure import score
from shards.errors import UserError
from shards.manifest import read_manifest
from shards.reader import read_shard
from tests.support import listening
from tests.support.browser import chromium
from tests.support.notes import tone
from tests.support.shard_sets import CODEC

RATE = CODEC.sample_rate
WAIT_FOR_PLAYERS = """
const players = [...document.querySelectorAll("audio")];
Promise.all(players.map((audio) => new Promise((loaded) => {
  if (audio.readyState > 0 || audio.error) loaded();
  audio.onloadedmetadata = audio.onerror = loaded;
}))).then(() => done(players.map((audio) => [audio.error ? audio.error.code : 0, audio.duration])));
"""
PLAY_EACH = """
const play = async (audio) => {
  await audio.play();
  const start = audio.currentTime;
  await new Promise((moved) => audio.addEventListener("timeupdate", () => audio.currentTime > start && moved()));
  audio.pause();
};
(async () => { for (const audio of document.querySelectorAll("audio")) await play(audio); done("all played"); })()
  .catch((error) => done(String(error)));
"""

# A note of the tests lasts 1.6 s; on a busy machine that may be less than the time between two keys.
PLAY_SLOWLY = "document.querySelectorAll('audio').forEach((audio) => { audio.playbackRate = 0.0625; });"

CONTRASTS = """
const light = (colour) => {
  const linear = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const [red, green, blue] = colour.match(/[0-9.]+/g).slice(0, 3).map((part) => linear(part / 255));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const ground = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour;
};
const text = "h1, h1 em, h2, h3, p, pre, .more dt, .more dd, .bar dd, .headline span, .time, .button";
return [...document.querySelectorAll(text)].map((element) => {
  const both = [light(getComputedStyle(element).color), light(ground(element))];
  return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
});
"""
CLICK_IN_THE_MIDDLE = """
const scope = document.querySelectorAll("[data-scope]")[1], box = scope.getBoundingClientRect();
const audio = document.querySelectorAll("audio")[1];
audio.addEventListener("playing", () => done(audio.currentTime / audio.duration), { once: true });
scope.dispatchEvent(new MouseEvent("click", { clientX: box.left + box.width / 2, bubbles: true }));
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


def add_sample(folder, index, labels=None, **sampled):
    """One sample: a tone as WAV and a token file that says what made it."""
    made_by = {"run": "runs/none", "shards": "shards/none", "seed": 3, "index": index, "temperature": 0.9, "step": 1200}
    made_by |= {"top_k": 0, "guidance": 1.0, "log_likelihood": -2.345, **sampled}
    labels = {"pitch": 52 + index, "velocity": 100} if labels is None else labels
    name = f"sample_{index:04d}"
    listening.add_sample(folder, name, CODEC, tone(52 + index, rate=RATE), labels, **made_by)
    return name


@pytest.fixture
def samples(tmp_path):
    folder = tmp_path / "samples" / "run"
    for index in range(3):
        add_sample(folder, index)
    return folder


@pytest.fixture(scope="module")
def real_set(tmp_path_factory):
    """A set whose notes came from a folder that is still there, made with the codec of the package."""
    return listening.make_listening_set(tmp_path_factory.mktemp("real"), train=3, valid=3)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, real_set):
    """Two samples of the set, one of them a copy and out of tune, and their scores."""
    folder = tmp_path_factory.mktemp("scored")
    manifest = read_manifest(real_set)
    copied = next(iter(read_shard(real_set / manifest.splits["train"][0].name)))
    for name, up, tokens in (("good", 0, None), ("bad", 2, copied.tokens)):
        labels = {"pitch": 57, "velocity": 100}
        sound = listening.sound_of(57 + up)
        listening.add_sample(folder, name, manifest.codec, sound, labels, tokens, shards=str(real_set))
    score(folder, notes=2)
    return folder


def text_of(browser):
    return browser.run("return document.body.innerText")


def test_every_player_loads_and_plays_without_a_complaint(browser, samples, real_set):
    write_page(samples, shards=real_set, real=2)
    browser.open(samples / "index.html")
    players = browser.wait(WAIT_FOR_PLAYERS)
    assert len(players) == 3 + 2 * 2
    assert all(error == 0 and duration > 0.1 for error, duration in players)
    assert browser.wait(PLAY_EACH) == "all played"
    pictures = browser.run("return [...document.images].map((image) => image.complete && image.naturalWidth)")
    assert pictures == [480] * len(players)
    assert browser.complaints() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window(browser, samples, scored, real_set, width, scheme):
    name = add_sample(samples, 3, {"instrument_str": "w" * 300, "pitch": "x" * 300})
    (samples / "tokens" / f"{name}.npy").write_bytes(b"")
    write_page(samples, shards=real_set, run=Path("r" * 200), real=2)
    browser.open(samples / "index.html", width, scheme=scheme)
    scrolls = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    assert browser.run("return innerWidth") == width and browser.run(scrolls) == 0
    write_page(scored, run=Path("runs/x"), real=1)
    browser.open(scored / "index.html", width, scheme=scheme)
    assert browser.run(scrolls) == 0
    dark = browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(10, 14, 18)"
    assert dark == (scheme == "dark")


def test_text_has_enough_contrast_in_both_schemes(browser, scored):
    write_page(scored, real=1)
    for scheme in ("light", "dark"):
        browser.open(scored / "index.html", scheme=scheme)
        assert min(browser.run(CONTRASTS)) >= 4.5, scheme  # WCAG 2.1, level AA


def test_space_plays_and_arrows_move(browser, samples):
    write_page(samples)
    browser.open(samples / "index.html")
    browser.wait(WAIT_FOR_PLAYERS)
    browser.run(PLAY_SLOWLY)
    playing = (
        "return [...document.querySelectorAll('[data-player]')].findIndex((card) => card.classList.contains('playing'))"
    )
    current = (
        "return [...document.querySelectorAll('[data-player]')].findIndex((card) => card.classList.contains('current'))"
    )
    started = (
        "const look = () => document.querySelector('.playing') ? done(true) : requestAnimationFrame(look); look();"
    )
    browser.press("\ue00d")  # space
    browser.wait(started)
    assert browser.run(playing) == 0
    browser.press("\ue014")  # right: the next one plays, and only it
    assert browser.run(current) == 1
    browser.wait(
        f"const look = () => (() => {{ {playing} }})() === 1 ? done(true) : requestAnimationFrame(look); look();"
    )
    browser.press("\ue00d")
    browser.wait(
        "const look = () => document.querySelector('.playing') ? requestAnimationFrame(look) : done(true); look();"
    )
    browser.press("\ue012", "\ue012")  # left, and no further than the first
    assert browser.run(current) == 0 and browser.run(playing) == -1


def test_down_and_up_move_between_the_rows_of_a_phone(browser, samples):
    write_page(samples)
    browser.open(samples / "index.html", 390)
    current = (
        "return [...document.querySelectorAll('[data-player]')].findIndex((card) => card.classList.contains('current'))"
    )
    browser.press("\ue015", "\ue015")
    assert browser.run(current) == 2
    browser.press("\ue013")
    assert browser.run(current) == 1


def test_a_click_in_a_picture_plays_from_there(browser, samples):
    write_page(samples)
    browser.open(samples / "index.html")
    browser.wait(WAIT_FOR_PLAYERS)
    at = browser.wait(CLICK_IN_THE_MIDDLE)
    assert 0.4 < at < 0.9


def test_a_page_of_one_sample(browser, tmp_path):
    add_sample(tmp_path, 0)
    write_page(tmp_path)
    browser.open(tmp_path / "index.html")
    assert browser.wait(PLAY_EACH) == "all played"
    said = text_of(browser)
    assert "One note from none" in said and "E3" in said and "pitch 52, velocity 100" in said
    assert "seed\n3, sample 0" in said and "2.35 a token" in said and browser.complaints() == []


def test_samples_without_labels_or_anything_else_known(browser, tmp_path):
    save(tmp_path / "found.wav", tone(rate=RATE), RATE)
    write_page(tmp_path)
    browser.open(tmp_path / "index.html")
    assert browser.wait(PLAY_EACH) == "all played"
    assert "found" in text_of(browser) and browser.complaints() == []


def test_damaged_files_are_named_and_the_rest_plays(browser, samples):
    tokens = samples / "tokens"
    (tokens / "sample_0000.npy").write_bytes((tokens / "sample_0000.npy").read_bytes()[:50])
    (samples / "sample_0000.wav").unlink()
    (samples / "sample_0001.wav").write_bytes(b"RIFF and nothing more")
    (tokens / "lonely.json").write_text("{}")
    written = write_page(samples)
    assert len(written.faults) == 3 and written.samples == 4
    browser.open(samples / "index.html")
    faults = browser.run("return [...document.querySelectorAll('.fault')].map((fault) => fault.innerText)")
    assert ["lonely.npy: missing" in faults[0], "not a whole .npy" in faults[1], "not audio" in faults[2]] == [True] * 3
    assert all("\n" not in fault for fault in faults)
    assert browser.wait(PLAY_EACH) == "all played" and len(browser.wait(WAIT_FOR_PLAYERS)) == 1
    assert browser.complaints() == []


def test_a_sound_that_vanishes_later_is_said_in_its_card(browser, samples):
    write_page(samples)
    (samples / "sample_0001.wav").unlink()
    browser.open(samples / "index.html")
    browser.wait(WAIT_FOR_PLAYERS)
    assert text_of(browser).count("missing or damaged") == 1


HOSTILE = '</script><script>window.broken=1</script>"><img src=x onerror="window.broken=1"> {{ 7*7 }} ${`x`} \u202e'


def test_hostile_names_and_labels_are_only_text(browser, tmp_path):
    name = add_sample(
        tmp_path, 0, {"pitch": HOSTILE, "velocity": [HOSTILE], "instrument_str": HOSTILE, HOSTILE: HOSTILE}
    )
    add_sample(
        tmp_path,
        1,
        {"pitch": 10**9, "velocity": None, "half": 1},
        run=HOSTILE,
        shards=HOSTILE,
        seed=HOSTILE,
        log_likelihood=10**400,
        step=-(10**400),
    )
    side = tmp_path / "tokens" / "sample_0001.json"
    side.write_text(side.read_text().replace('"half": 1', '"half": "\\ud800\\u0000"'))
    weird = "quote' \" # ? % & <b> ö"
    for path in (tmp_path / "tokens" / f"{name}.npy", tmp_path / "tokens" / f"{name}.json", tmp_path / f"{name}.wav"):
        path.rename(path.with_name(weird + path.suffix))
    write_page(tmp_path, run=Path(f"runs/{HOSTILE.replace('/', '')}"))
    browser.open(tmp_path / "index.html")
    assert browser.run("return window.broken") is None
    assert browser.wait(PLAY_EACH) == "all played" and len(browser.wait(WAIT_FOR_PLAYERS)) == 2
    assert weird in text_of(browser) and "{{ 7*7 }}" in text_of(browser)
    assert browser.run("return document.querySelectorAll('img').length") == 2
    assert browser.complaints() == []


def test_the_folder_can_be_moved(browser, samples, real_set, tmp_path):
    write_page(samples, shards=real_set, real=1)
    shutil.move(samples, tmp_path / "elsewhere")
    browser.open(tmp_path / "elsewhere" / "index.html")
    assert browser.wait(PLAY_EACH) == "all played" and browser.complaints() == []


def test_nothing_on_the_page_comes_from_a_network(samples, real_set):
    write_page(samples, shards=real_set, real=1)
    page = (samples / "index.html").read_text()
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page) + re.findall(r"url\((.*?)\)", page)
    assert len(addresses) == 1 + 2 * 5
    assert all(address.startswith("data:image/svg+xml,") or (samples / address).is_file() for address in addresses)


def test_recordings_that_are_gone_leave_the_round_trip(browser, samples, real_set, tmp_path):
    shutil.copytree(real_set, tmp_path / "set")
    listening.set_source(tmp_path / "set", tmp_path / "gone")
    write_page(samples, shards=tmp_path / "set", real=2)
    browser.open(samples / "index.html")
    said = text_of(browser)
    assert said.count("Round trip") == 2 and "Original" not in said and "cannot be heard here" in said


def test_a_set_that_is_not_there_is_said_in_its_section(browser, samples):
    write_page(samples)
    browser.open(samples / "index.html")
    assert "shards/none: no such shard set" in text_of(browser) and len(browser.wait(WAIT_FOR_PLAYERS)) == 3


def test_a_set_of_another_codec_is_said_in_its_section(samples, make_set):
    write_page(samples, shards=make_set(valid=[2]))
    assert "the codes do not fit encodec_mini" in (samples / "index.html").read_text()


def test_the_training_curve_is_drawn_and_labelled(browser, samples, tmp_path):
    run = tmp_path / "runs" / "seen"
    run.mkdir(parents=True)
    lines = [{"kind": "train", "step": step, "loss": 6 - step / 50} for step in range(1, 101)]
    lines += [{"kind": "valid", "step": 100, "loss": 4.5}]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write_page(samples, run=run)
    browser.open(samples / "index.html", 390)
    assert "100 steps" in text_of(browser) and "4.500 at step 100" in text_of(browser)
    assert browser.run("return document.querySelectorAll('.chart .dot').length") == 1
    assert browser.run("return document.querySelector('.chart .train').getBBox().width") > 900


def test_scores_stand_at_the_top_in_their_section_and_on_the_cards(browser, scored):
    write_page(scored, real=1)
    browser.open(scored / "index.html")
    said = text_of(browser)
    assert "Pitch as asked\n50 %" in said and "unseen real notes: 100 %" in said
    assert browser.run("return document.querySelectorAll('.score').length") == 6
    verdicts = browser.run("return [...document.querySelectorAll('.verdict')].map((verdict) => verdict.innerText)")
    assert verdicts == ["heard B3", "in tune"]  # of bad, good
    assert browser.complaints() == []


def test_the_nearest_train_note_plays_and_the_arrows_pass_it_by(browser, scored):
    write_page(scored, real=0)
    browser.open(scored / "index.html")
    assert browser.wait(PLAY_EACH) == "all played" and len(browser.wait(WAIT_FOR_PLAYERS)) == 2 + 2
    assert "Nearest train note A2, 100 % alike" in text_of(browser)
    browser.press("\ue014")
    assert browser.run("return document.querySelector('.current h3, .current b').innerText") == "A3"
    assert browser.run("return document.querySelectorAll('[data-aside].current').length") == 0


def test_scores_of_other_samples_are_not_shown(browser, scored, tmp_path):
    shutil.copytree(scored, tmp_path / "samples")
    listening.add_sample(tmp_path / "samples", "later", CODEC, tone(rate=RATE), {})
    write_page(tmp_path / "samples", real=0)
    browser.open(tmp_path / "samples" / "index.html")
    assert "is about other samples" in text_of(browser)
    assert browser.run("return document.querySelectorAll('.score, .verdict, .headline').length") == 0


def test_two_runs_stand_beside_each_other(browser, scored, samples, tmp_path):
    shutil.copytree(scored, tmp_path / "first")
    write_page(tmp_path / "first", run=Path("runs/first"), real=0, beside=samples)
    shutil.rmtree(samples)
    browser.open(tmp_path / "first" / "index.html", 390)
    said = text_of(browser)
    assert "from first beside none" in " ".join(said.split()) and "samples of first" in said
    assert len(browser.wait(WAIT_FOR_PLAYERS)) == 2 + 2 + 3 and browser.wait(PLAY_EACH) == "all played"
    assert browser.run("const page = document.documentElement; return page.scrollWidth - page.clientWidth") == 0
    assert browser.complaints() == []


def test_the_figures_of_both_runs_are_drawn(browser, scored, tmp_path):
    shutil.copytree(scored, tmp_path / "first")
    write_page(tmp_path / "first", run=Path("runs/first"), real=0, beside=scored)
    browser.open(tmp_path / "first" / "index.html")
    kinds = browser.run(
        "return [...document.querySelectorAll('.score')[0].querySelectorAll('.bar')].map((b) => b.className)"
    )
    assert kinds == ["bar first", "bar second", "bar floor", "bar floor"]
    assert "scored0: 50 %, unseen real notes: 100 %" in text_of(browser)


def test_a_second_call_writes_the_same_page(samples, real_set):
    pages = []
    for _ in range(2):
        write_page(samples, shards=real_set, real=1)
        pages.append({path: path.read_bytes() for path in samples.rglob("*") if path.is_file()})
    assert pages[0] == pages[1]


@pytest.mark.parametrize(("make", "said"), [(False, "no such folder"), (True, "no samples in it")])
def test_a_folder_without_samples_is_one_line(tmp_path, make, said):
    folder = tmp_path / "samples"
    if make:
        folder.mkdir()
    with pytest.raises(UserError, match=said):
        write_page(folder)
    result = CliRunner().invoke(main, ["page", str(folder)])
    assert result.exit_code == 2 and said in result.output and not (folder / "index.html").exists()


def test_the_command_names_the_page_and_the_faults(samples):
    (samples / "sample_0000.wav").unlink()
    result = CliRunner().invoke(main, ["page", str(samples), "--real", "0"])
    assert result.exit_code == 0, result.output
    assert "sample_0000.wav is missing" in result.stderr
    assert f"{samples / 'index.html'}: 3 samples" in result.stdout.splitlines()[-1]


def test_silence_is_a_sample_too(browser, tmp_path):
    save(tmp_path / "silence.wav", np.zeros(RATE, np.float32), RATE)
    write_page(tmp_path)
    browser.open(tmp_path / "index.html")
    assert "silence" in text_of(browser) and browser.wait(PLAY_EACH) == "all played"
