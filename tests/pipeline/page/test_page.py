"""The listening page in a real browser: every player plays, the layout fits, damaged and hostile files do no harm."""

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
from pipeline.score.run import score_folders
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

# A note of the tests lasts 1.6 s; on a busy machine two key presses may be further apart.
PLAY_SLOWLY = "document.querySelectorAll('audio').forEach((audio) => { audio.playbackRate = 0.0625; });"

TEXTS = "h1, h1 em, h2, h3, p, pre, .details dt, .details dd, .bar dd, .headlines span, .time, .button"
CLICK_IN_THE_MIDDLE = """
const picture = document.querySelectorAll("[data-picture]")[1], rect = picture.getBoundingClientRect();
const audio = document.querySelectorAll("audio")[1];
audio.addEventListener("playing", () => done(audio.currentTime / audio.duration), { once: true });
picture.dispatchEvent(new MouseEvent("click", { clientX: rect.left + rect.width / 2, bubbles: true }));
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


def add_sample(folder, index, labels=None, **sampled):
    """Write a sample: a tone as WAV, and a token file with its labels and settings."""
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
    """A shard set made with the embedded codec, whose recordings still exist."""
    return listening.make_listening_set(tmp_path_factory.mktemp("real"), train=3, valid=3)


@pytest.fixture(scope="module")
def scored(tmp_path_factory, real_set):
    """Two samples with scores: `good` is in tune, `bad` is out of tune and has the tokens of a train note."""
    folder = tmp_path_factory.mktemp("scored")
    manifest = read_manifest(real_set)
    train_note = next(iter(read_shard(real_set / manifest.splits["train"][0].name)))
    for name, semitones, tokens in (("good", 0, None), ("bad", 2, train_note.tokens)):
        labels = {"pitch": 57, "velocity": 100}
        sound = listening.sound_of(57 + semitones)
        listening.add_sample(folder, name, manifest.codec, sound, labels, tokens, shards=str(real_set))
    score_folders([folder], notes=2)
    return folder


def page_text(browser):
    return browser.run("return document.body.innerText")


def test_every_player_loads_and_plays_without_a_console_error(browser, samples, real_set):
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
        assert min(browser.contrasts(TEXTS)) >= 4.5, scheme


def test_space_plays_and_arrows_move(browser, samples):
    write_page(samples)
    browser.open(samples / "index.html")
    browser.wait(WAIT_FOR_PLAYERS)
    browser.run(PLAY_SLOWLY)
    playing = (
        "return [...document.querySelectorAll('[data-player]')].findIndex((box) => box.classList.contains('playing'))"
    )
    current = (
        "return [...document.querySelectorAll('[data-player]')].findIndex((box) => box.classList.contains('current'))"
    )
    started = (
        "const check = () => document.querySelector('.playing') ? done(true) : requestAnimationFrame(check); check();"
    )
    browser.press("\ue00d")  # space
    browser.wait(started)
    assert browser.run(playing) == 0
    browser.press("\ue014")  # right: the next one plays, and only it
    assert browser.run(current) == 1
    browser.wait(
        f"const check = () => (() => {{ {playing} }})() === 1 ? done(true) : requestAnimationFrame(check); check();"
    )
    browser.press("\ue00d")
    browser.wait(
        "const check = () => document.querySelector('.playing') ? requestAnimationFrame(check) : done(true); check();"
    )
    browser.press("\ue012", "\ue012")  # left, and no further than the first
    assert browser.run(current) == 0 and browser.run(playing) == -1


def test_down_and_up_move_between_the_rows_of_a_phone(browser, samples):
    write_page(samples)
    browser.open(samples / "index.html", 390)
    current = (
        "return [...document.querySelectorAll('[data-player]')].findIndex((box) => box.classList.contains('current'))"
    )
    browser.press("\ue015", "\ue015")
    assert browser.run(current) == 2
    browser.press("\ue013")
    assert browser.run(current) == 1


def test_a_click_in_a_picture_plays_from_that_position(browser, samples):
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
    text = page_text(browser)
    assert "1 note from none" in text and "E3" in text and "pitch 52, velocity 100" in text
    assert "seed\n3, sample 0" in text and "2.35 a token" in text and browser.complaints() == []


def test_a_wav_without_a_token_file_plays(browser, tmp_path):
    save(tmp_path / "alone.wav", tone(rate=RATE), RATE)
    write_page(tmp_path)
    browser.open(tmp_path / "index.html")
    assert browser.wait(PLAY_EACH) == "all played"
    assert "alone" in page_text(browser) and browser.complaints() == []


def test_damaged_files_are_named_and_the_other_samples_play(browser, samples):
    tokens = samples / "tokens"
    (tokens / "sample_0000.npy").write_bytes((tokens / "sample_0000.npy").read_bytes()[:50])
    (samples / "sample_0000.wav").unlink()
    (samples / "sample_0001.wav").write_bytes(b"RIFF and nothing more")
    (tokens / "half.json").write_text("{}")
    written = write_page(samples)
    assert len(written.faults) == 3 and written.samples == 4
    browser.open(samples / "index.html")
    faults = browser.run("return [...document.querySelectorAll('.fault')].map((fault) => fault.innerText)")
    assert ["half.npy: missing" in faults[0], "not a whole .npy" in faults[1], "not audio" in faults[2]] == [True] * 3
    assert all("\n" not in fault for fault in faults)
    assert browser.wait(PLAY_EACH) == "all played" and len(browser.wait(WAIT_FOR_PLAYERS)) == 1
    assert browser.complaints() == []


def test_a_wav_deleted_after_the_page_was_written_shows_an_error_in_its_card(browser, samples):
    write_page(samples)
    (samples / "sample_0001.wav").unlink()
    browser.open(samples / "index.html")
    browser.wait(WAIT_FOR_PLAYERS)
    assert page_text(browser).count("missing or damaged") == 1


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
    assert weird in page_text(browser) and "{{ 7*7 }}" in page_text(browser)
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


def test_without_recordings_only_the_round_trips_are_shown(browser, samples, real_set, tmp_path):
    shutil.copytree(real_set, tmp_path / "set")
    listening.set_source(tmp_path / "set", tmp_path / "gone")
    write_page(samples, shards=tmp_path / "set", real=2)
    browser.open(samples / "index.html")
    text = page_text(browser)
    assert text.count("Round trip") == 2 and "Original" not in text and "cannot be heard here" in text


def test_a_missing_shard_set_is_reported_in_its_section(browser, samples):
    write_page(samples)
    browser.open(samples / "index.html")
    assert "shards/none: no such shard set" in page_text(browser) and len(browser.wait(WAIT_FOR_PLAYERS)) == 3


def test_samples_of_a_run_of_several_sets_are_shown_beside_real_notes_of_each(real_set, tmp_path):
    folder, sets = tmp_path / "samples", [shutil.copytree(real_set, tmp_path / name) for name in ("a", "b")]
    codec = read_manifest(real_set).codec
    for index, name in enumerate(("a", "b")):
        info = {"run": "runs/none", "shards": tuple(map(str, sets))}
        listening.add_sample(folder, name, codec, tone(52 + index, rate=RATE), {"set": name}, **info)
    report = score_folders([folder], notes=4, device="cpu").folders[str(folder)]
    assert report.shards == f"{sets[0]}, {sets[1]}"
    assert write_page(folder, real=6, device="cpu").faults == ()
    text = (folder / "index.html").read_text()
    assert f"--shards {sets[0]} --shards {sets[1]} --run runs/longer" in text and "<bdi>shard sets</bdi>" in text
    round_trips = [path.name[:2] for path in (folder / "page" / "round-trip").glob("*.wav")]
    assert sorted(round_trips) == ["a-"] * 3 + ["b-"] * 3


def test_a_set_of_another_codec_is_reported_in_its_section(samples, make_set):
    write_page(samples, shards=make_set(valid=[2]))
    assert "the codes do not fit encodec_mini" in (samples / "index.html").read_text()


@pytest.fixture
def run(tmp_path):
    """A run with 100 train losses and a validation loss."""
    folder = tmp_path / "runs" / "with-metrics"
    folder.mkdir(parents=True)
    lines = [{"kind": "train", "step": step, "loss": 6 - step / 50} for step in range(1, 101)]
    lines += [{"kind": "valid", "step": 100, "loss": 4.5}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_the_training_curve_is_drawn_and_labelled(browser, samples, run):
    write_page(samples, run=run)
    browser.open(samples / "index.html", 390)
    text = page_text(browser)
    assert "100 steps" in text and "4.500 at step 100" in text
    assert browser.run("return document.querySelector('.chart').getAttribute('role')") == "img"
    assert "4.500 at step 100" in browser.run("return document.querySelector('.chart').getAttribute('aria-label')")
    assert browser.run("return document.querySelectorAll('.chart .dot').length") == 1
    share = """
      const width = (selector) => document.querySelector(selector).getBoundingClientRect().width;
      return width('.chart .train path') / width('.chart svg');
    """
    assert browser.run(share) > 0.8
    assert {"train loss", "validation loss", "step", "nats a token"} <= set(browser.run(CHART_TEXTS)[0])


CHART_TEXTS = """
const texts = [...document.querySelectorAll(".chart text")];
return [texts.map((text) => text.textContent), texts.map((text) => {
  const matrix = text.getScreenCTM();
  return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(matrix.a, matrix.b);
}), texts.map((text) => getComputedStyle(text).fill)];
"""


@pytest.mark.parametrize("width", [390, 800, 1440])
def test_the_text_of_a_curve_is_as_large_as_that_of_the_page(browser, samples, run, width):
    write_page(samples, run=run)
    browser.open(samples / "index.html", width)
    sizes = browser.run(CHART_TEXTS)[1]
    assert sizes and all(10 <= size <= 16 for size in sizes)  # pixels


def test_a_curve_has_the_colours_of_the_scheme(browser, samples, run):
    write_page(samples, run=run)
    colours = {}
    for scheme in ("light", "dark"):
        browser.open(samples / "index.html", scheme=scheme)
        lines = ("raw", "train", "valid")
        strokes = [
            browser.run(f"return getComputedStyle(document.querySelector('.chart .{line} path')).stroke")
            for line in lines
        ]
        colours[scheme] = [*strokes, *browser.run(CHART_TEXTS)[2]]
    teal, amber, muted = "rgb(11, 110, 117)", "rgb(152, 90, 8)", "rgb(90, 101, 114)"
    assert colours["light"][:3] == [teal, teal, amber] and set(colours["light"][3:]) == {muted}
    assert not set(colours["light"]) & set(colours["dark"])


def test_two_curves_share_no_id(samples, run):
    write_page(samples, run=run, beside=samples)
    page = (samples / "index.html").read_text()
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert page.count("<svg") > 1 and len(ids) == len(set(ids))


def test_scores_are_at_the_top_in_their_section_and_on_the_cards(browser, scored):
    write_page(scored, real=1)
    browser.open(scored / "index.html")
    text = page_text(browser)
    assert "Pitch matches the label\n50 %" in text and "unseen real notes: 100 %" in text
    assert browser.run("return document.querySelectorAll('.score').length") == 6
    pitches = browser.run("return [...document.querySelectorAll('.pitch')].map((pitch) => pitch.innerText)")
    assert pitches == ["detected B3", "in tune"]  # of bad, good
    assert browser.complaints() == []


def test_the_nearest_train_note_plays_and_the_arrow_keys_skip_it(browser, scored):
    write_page(scored, real=0)
    browser.open(scored / "index.html")
    assert browser.wait(PLAY_EACH) == "all played" and len(browser.wait(WAIT_FOR_PLAYERS)) == 2 + 2
    assert "Nearest train note A2, 100 % alike" in page_text(browser)
    browser.press("\ue014")
    assert browser.run("return document.querySelector('.current h3, .current b').innerText") == "A3"
    assert browser.run("return document.querySelectorAll('[data-secondary].current').length") == 0


def test_scores_of_other_samples_are_not_shown(browser, scored, tmp_path):
    shutil.copytree(scored, tmp_path / "samples")
    listening.add_sample(tmp_path / "samples", "later", CODEC, tone(rate=RATE), {})
    write_page(tmp_path / "samples", real=0)
    browser.open(tmp_path / "samples" / "index.html")
    assert "is about other samples" in page_text(browser)
    assert browser.run("return document.querySelectorAll('.score, .card .pitch, .headlines').length") == 0


def test_a_page_can_compare_two_runs(browser, scored, samples, tmp_path):
    shutil.copytree(scored, tmp_path / "first")
    write_page(tmp_path / "first", run=Path("runs/first"), real=0, beside=samples)
    shutil.rmtree(samples)
    browser.open(tmp_path / "first" / "index.html", 390)
    text = page_text(browser)
    assert "from first compared with none" in " ".join(text.split()) and "samples of first" in text
    assert len(browser.wait(WAIT_FOR_PLAYERS)) == 2 + 2 + 3 and browser.wait(PLAY_EACH) == "all played"
    assert browser.run("const page = document.documentElement; return page.scrollWidth - page.clientWidth") == 0
    assert browser.complaints() == []


def test_each_score_has_a_bar_for_both_runs(browser, scored, tmp_path):
    shutil.copytree(scored, tmp_path / "first")
    write_page(tmp_path / "first", run=Path("runs/first"), real=0, beside=scored)
    browser.open(tmp_path / "first" / "index.html")
    kinds = browser.run(
        "return [...document.querySelectorAll('.score')[0].querySelectorAll('.bar')].map((b) => b.className)"
    )
    assert kinds == ["bar first", "bar second", "bar floor", "bar floor"]
    assert "scored0: 50 %, unseen real notes: 100 %" in page_text(browser)


def test_a_second_call_writes_the_same_page(samples, real_set):
    pages = []
    for _ in range(2):
        write_page(samples, shards=real_set, real=1)
        pages.append({path: path.read_bytes() for path in samples.rglob("*") if path.is_file()})
    assert pages[0] == pages[1]


@pytest.mark.parametrize(("make", "text"), [(False, "no such folder"), (True, "no samples in it")])
def test_a_folder_without_samples_is_an_error_of_one_line(tmp_path, make, text):
    folder = tmp_path / "samples"
    if make:
        folder.mkdir()
    with pytest.raises(UserError, match=text):
        write_page(folder)
    result = CliRunner().invoke(main, ["page", str(folder)])
    assert result.exit_code == 2 and text in result.output and not (folder / "index.html").exists()


def test_the_command_names_the_page_and_the_faults(samples):
    (samples / "sample_0000.wav").unlink()
    result = CliRunner().invoke(main, ["page", str(samples), "--real", "0"])
    assert result.exit_code == 0, result.output
    assert "sample_0000.wav is missing" in result.stderr
    assert f"{samples / 'index.html'}: 3 samples" in result.stdout.splitlines()[-1]


def test_a_silent_sample_has_a_player(browser, tmp_path):
    save(tmp_path / "silence.wav", np.zeros(RATE, np.float32), RATE)
    write_page(tmp_path)
    browser.open(tmp_path / "index.html")
    assert "silence" in page_text(browser) and browser.wait(PLAY_EACH) == "all played"
