"""The keyboard page in a real browser: it plays in tune, says how a sound was made, fits, and needs no network."""

import base64
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.audio import save
from pipeline.instrument.instrument import Figures, Instrument, Missing, Quality, Region
from pipeline.instrument.page import write_keyboard
from pipeline.score.pitch import cents, fundamental, hertz_of, loudness
from tests.support.browser import Browser, chromium
from tests.support.notes import tone

RATE, BROWSER_RATE = 24_000, 44_100  # Hz: of the sounds, and of what the browser renders
KEYS = range(54, 69, 2)  # sampled; those between are played by their neighbour
LAYERS = {25: (1, 50), 75: (51, 101), 127: (102, 127)}  # velocity -> lowest and highest that it plays
GONE = (64, 75)  # pair without a good candidate
HOSTILE = "</script><script>window.broken=1</script>\"'><img src=x onerror=window.broken=1> {{ 7*7 }} ${`x`} \u202e"
SPACE, ENTER, TAB, END, LEFT, UP, RIGHT, DOWN = "\ue00d\ue007\ue004\ue010\ue012\ue013\ue014\ue015"

RENDER = """
const [key, velocity, held, seconds, rate] = [{arguments}];
const context = new OfflineAudioContext(1, seconds * rate, rate), region = regionOf(key, velocity);
decodeSound(context, region.sound).then((buffer) => {{
  startSound(context, context.destination, buffer, region, key, velocity, 0).stop(held);
  return context.startRendering();
}}).then((rendered) => {{
  const bytes = new Uint8Array(rendered.getChannelData(0).buffer);
  done(btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")));
}}).catch((error) => done(String(error)));
"""
LISTEN = """
const { context, volume } = loudspeakers(), analyser = new AnalyserNode(context, { fftSize: 32768 });
volume.connect(analyser);
const samples = new Float32Array(analyser.fftSize), check = () => {
  analyser.getFloatTimeDomainData(samples);
  if (samples.some((sample) => Math.abs(sample) > 0.01)) done(true); else setTimeout(check, 20);
};
check();
"""
DOWN_KEYS = "return [...document.querySelectorAll('.key.down')].map((key) => Number(key.dataset.key))"
MADE = "return document.querySelector('#made').innerText"


def figures(cents_off: float, key: int) -> Figures:
    return Figures(1, 4, 3, cents_off, -20.0, -2.345, -0.1, f"guitar_acoustic_000-{key:03d}-100", key < 60)


def make_instrument(folder: Path, keys: range = KEYS, gone: tuple[int, int] | None = GONE) -> Instrument:
    """Write sounds that are up to 40 cents off, and return their instrument, whose `tune` corrects them."""
    regions = []
    for velocity, (low, high) in LAYERS.items():
        sampled = [key for key in keys if (key, velocity) != gone]
        edges = [keys[0], *((below + above) // 2 + 1 for below, above in pairwise(sampled)), keys[-1] + 1]
        for key, (first, following) in zip(sampled, pairwise(edges), strict=True):
            off = 40.0 * (-1) ** (key // 2) * velocity / 127
            path = f"samples/{key:03d}-{velocity:03d}.flac"
            save(folder / path, tone(key + off / 100, 1.2, RATE), RATE)
            volume = -24 + 24 * high / 127
            quietest = 10 ** (24 * (low - high) / 127 / 20)
            keys_and_velocities = (first, following - 1, low, high)
            regions.append(
                Region(key, velocity, *keys_and_velocities, path, 1.2, -off, volume, quietest, figures(off, key))
            )
    missing = () if gone is None else (Missing(*gone, 4, gone[0] - 2),)
    before, after = Quality(0.76, 0.51, 0.23, 0.27), Quality(0.99, 0.91, -0.13, 0.56)
    made_by = ("an instrument", "runs/x", 1200, "shards/x", 0, "guitar_acoustic_000")
    return Instrument(*made_by, RATE, tuple(LAYERS), tuple(keys), tuple(regions), missing, before, after, {"cents": 1})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keyboard")
    return write_keyboard(folder, make_instrument(folder))


def render(browser: Browser, key: int, velocity: int, held: float = 9.0, seconds: float = 1.2) -> np.ndarray:
    arguments = f"{key}, {velocity}, {held}, {seconds}, {BROWSER_RATE}"
    return np.frombuffer(base64.b64decode(browser.wait(RENDER.format(arguments=arguments))), np.float32)


def test_every_key_sounds_with_its_fundamental(browser: Browser, page: Path) -> None:
    browser.open(page)
    for key in range(KEYS[0], KEYS[-1] + 1):
        hertz = fundamental(render(browser, key, 127), BROWSER_RATE)
        assert hertz is not None and abs(cents(hertz, hertz_of(key))) < 5, key
    assert browser.complaints() == []


def test_a_release_does_not_click_and_ends_in_silence(browser: Browser, page: Path) -> None:
    browser.open(page)
    for held in (0.0, 0.001, 0.2, 0.2003, 0.2007):
        whole, released = (render(browser, 60, 127, end) for end in (9.0, held))
        assert np.abs(np.diff(released)).max() <= 1.001 * np.abs(np.diff(whole)).max()
        assert (
            np.abs(released[round((held + 0.6) * BROWSER_RATE) :]).max()
            == 0
            < np.abs(whole[-BROWSER_RATE // 4 :]).max()
        )


def test_the_velocity_picks_the_layer_and_louder_ones_are_louder(browser: Browser, page: Path) -> None:
    browser.open(page)
    for velocity, layer in ((1, 25), (50, 25), (51, 75), (101, 75), (102, 127), (127, 127)):
        assert browser.run(f"return regionOf(60, {velocity}).velocity") == layer
    levels = [loudness(render(browser, 60, velocity), BROWSER_RATE) for velocity in (1, 25, 50, 51, 76, 101, 102, 127)]
    assert all(0 < after - before < 7 for before, after in pairwise(levels)), levels


def test_a_key_without_a_good_candidate_is_played_by_its_neighbour_and_says_so(browser: Browser, page: Path) -> None:
    browser.open(page)
    hertz = fundamental(render(browser, GONE[0], GONE[1]), BROWSER_RATE)
    assert hertz is not None and abs(cents(hertz, hertz_of(GONE[0]))) < 5
    browser.run(f"press({GONE[0]}, {GONE[1]})")
    assert "Filled by D4: no good candidate of 4." in browser.run(MADE)
    browser.run(f"press({GONE[0]}, 127)")
    assert "Sampled on this key." in browser.run(MADE)
    browser.run(f"press({GONE[0] - 3}, 127)")
    assert "Played by C4: this key was not sampled." in browser.run(MADE)
    label = f"return document.querySelector('.key[data-key=\"{GONE[0]}\"]').getAttribute('aria-label')"
    assert browser.run(label) == "E4, filled by a neighbour"
    missing = browser.run("return [...document.querySelectorAll('.cell.missing')].map((cell) => cell.ariaLabel)")
    assert missing == ["E4, velocity 75: no good candidate"] * 2  # one a heat map


def test_a_key_says_how_its_sound_was_made(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("press(60, 127)")
    made = browser.run(MADE)
    for text in (
        "C4, velocity 127", "4, 3 good; number 2 chosen", "+40.0 cents, corrected", "−20.0 dB", "−2.35 a token",
        "−0.10", "guitar_acoustic_000-060-100", "none: extrapolated",
    ):  # fmt: skip
        assert text in made
    browser.run("press(58, 127)")
    assert "recorded" in browser.run(MADE)


def test_a_real_note_that_was_kept_is_named_as_such(browser: Browser, tmp_path: Path) -> None:
    instrument = make_instrument(tmp_path)
    regions = [replace(region, figures=replace(region.figures, candidate=None)) for region in instrument.regions]
    browser.open(write_keyboard(tmp_path, replace(instrument, regions=tuple(regions))))
    browser.run("press(60, 127)")
    assert "A real note." in browser.run(MADE) and "none: a real note" in browser.run(MADE)


def point_of(browser: Browser, key: int, share: float) -> dict[str, float]:
    """Return a point on a key, `share` of the way down."""
    script = f"const box = document.querySelector('.key[data-key=\"{key}\"]').getBoundingClientRect();"
    x, y = browser.run(f"{script} return [box.left + 2, box.top + {share} * box.height]")
    return {"x": x, "y": y}


def send(browser: Browser, kind: str, **fields: object) -> None:
    browser.driver.execute_cdp_cmd(f"Input.dispatch{kind}Event", fields)


def test_a_mouse_plays_louder_lower_down_and_slides_from_key_to_key(browser: Browser, page: Path) -> None:
    browser.open(page)
    velocities = []
    for share in (0.1, 0.95):
        send(browser, "Mouse", type="mousePressed", button="left", clickCount=1, **point_of(browser, 61, share))
        assert browser.run(DOWN_KEYS) == [61]
        assert browser.wait(LISTEN)
        velocities.append(int(re.findall(r"velocity (\d+)", browser.run(MADE))[0]))
        send(browser, "Mouse", type="mouseMoved", button="left", buttons=1, **point_of(browser, 58, share))
        assert browser.run(DOWN_KEYS) == [58]
        send(browser, "Mouse", type="mouseReleased", button="left", **point_of(browser, 58, share))
        assert browser.run(DOWN_KEYS) == []
    assert 5 < velocities[0] < 20 and 115 < velocities[1] <= 127
    assert browser.complaints() == []


def test_several_fingers_play_a_chord(browser: Browser, page: Path) -> None:
    browser.open(page, 390)
    browser.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 3})
    try:
        keys = (60, 63, 66)
        points = [{**point_of(browser, key, 0.8 if key == 60 else 0.5), "id": key} for key in keys]
        for count in (1, 2, 3):
            send(browser, "Touch", type="touchStart", touchPoints=points[:count])
        assert browser.run(DOWN_KEYS) == [*keys]
        send(browser, "Touch", type="touchEnd", touchPoints=points[:1])
        assert browser.run(DOWN_KEYS) == [63, 66]
        send(browser, "Touch", type="touchEnd", touchPoints=[])
        assert browser.run(DOWN_KEYS) == []
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})


def press_code(browser: Browser, code: str, kind: str = "keydown") -> None:
    """Press a computer key by its position; its letter is that of another layout."""
    event = f"new KeyboardEvent('{kind}', {{ code: '{code}', key: 'ä', bubbles: true, cancelable: true }})"
    browser.run(f"document.body.dispatchEvent({event})")


def test_two_rows_of_computer_keys_play_and_brackets_shift_them(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("return octave") == 48
    for code in ("KeyM", "KeyQ", "Digit2"):
        press_code(browser, code)
    assert browser.run(DOWN_KEYS) == [59, 60, 61] and browser.wait(LISTEN)
    press_code(browser, "KeyM", "keyup")
    press_code(browser, "BracketRight")
    press_code(browser, "KeyQ", "keyup")
    press_code(browser, "KeyC")
    assert browser.run(DOWN_KEYS) == [61, 64]
    label = "return document.querySelector('.key[data-key=\"64\"]').innerText"
    assert browser.run(label).strip() == "C"
    browser.run("dispatchEvent(new Event('blur'))")
    assert browser.run(DOWN_KEYS) == [] and browser.complaints() == []


def test_the_page_is_played_by_keyboard_alone(browser: Browser, page: Path) -> None:
    browser.open(page)
    focus = "return document.activeElement.dataset.key"
    browser.run("document.querySelector('#velocity').focus()")
    while not browser.run(focus):
        browser.press(TAB)
    browser.press(RIGHT, RIGHT, LEFT)
    assert browser.run(focus) == "55"
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert "G3, velocity 100" in browser.run(MADE)
    browser.press(UP)
    assert browser.run("return document.querySelector('#velocity').value") == "108"
    browser.run("window.struck = []; const old = press; press = (...note) => (struck.push(note), old(...note))")
    browser.press(SPACE, ENTER)
    assert [note[:2] for note in browser.run("return struck")] == [[55, 108]] * 2
    assert browser.run(DOWN_KEYS) == [] and browser.wait(LISTEN)
    browser.press(TAB)
    assert browser.run("return document.activeElement.className").startswith("cell")
    browser.press(END, DOWN)
    assert browser.run("return document.activeElement.ariaLabel").startswith("G♯4, velocity 75")
    assert browser.complaints() == []


def test_a_screen_readers_click_and_a_cell_play_a_note_that_ends(browser: Browser, page: Path) -> None:
    browser.open(page)
    for selector in ('.key[data-key="60"]', '.cell[data-key="60"][data-velocity="25"]'):
        browser.run(f"document.querySelector('{selector}').click()")
        assert browser.run(DOWN_KEYS) == [60] and browser.wait(LISTEN)
        browser.wait("const check = () => playing.size ? setTimeout(check, 20) : done(); check();")
    assert "C4, velocity 25" in browser.run(MADE)
    chosen = "return [...document.querySelectorAll('.cell.chosen')].map((cell) => cell.dataset.velocity)"
    assert browser.run(chosen) == ["25", "25"]


def test_notes_ring_on_while_they_are_let(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("setRinging(true); window.note = press(60, 100)")
    browser.wait("note.then(done)")
    browser.run("lift(60)")
    assert browser.run("return ringing.size") == 1
    browser.run("setRinging(false)")
    assert browser.run("return ringing.size") == 0


def test_a_midi_keyboard_plays(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("window.input = { name: 'Keys' }")
    browser.run("navigator.requestMIDIAccess = async () => ({ inputs: new Map([['1', input]]) })")
    browser.wait("document.querySelector('#midi').hidden = false; connectMidi().then(done)")
    assert browser.run("return document.querySelector('#midi-state').innerText") == "Keys"
    messages = [0x90, 60, 90], [0x91, 62, 30], [0x90, 60, 0], [0x81, 62, 5]
    for message, down in zip(messages, ([60], [60, 62], [62], []), strict=True):
        browser.run("input.onmidimessage({ data: arguments[0] })", message)
        assert browser.run(DOWN_KEYS) == down
    browser.run("navigator.requestMIDIAccess = async () => { throw new Error('refused') }")
    browser.wait("connectMidi().then(done)")
    assert "refused" in browser.run("return document.querySelector('#midi-state').innerText")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_window_and_text_is_legible(
    browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    long = replace(make_instrument(tmp_path), name="n" * 200, run="r" * 300, timbre="t" * 100)
    browser.open(write_keyboard(tmp_path, long), width, scheme=scheme)
    scrolls = "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    assert browser.run("return innerWidth") == width and browser.run(scrolls) == 0
    dark = browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(10, 14, 18)"
    assert dark == (scheme == "dark")
    browser.run(f"press({GONE[0]}, {GONE[1]})")
    texts = "h1 em, h2, h3, p, dt, dd, strong, dd span, li, a, label, .key, .key span, .cell span, .velocity, .small"
    assert min(browser.contrasts(texts)) >= 4.5
    assert browser.complaints() == []


def test_a_phone_shows_an_octave_of_keys_that_fit_a_finger(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_keyboard(tmp_path, make_instrument(tmp_path, range(36, 85, 6))), 390)
    in_view = """
      const piano = document.querySelector(".piano").getBoundingClientRect();
      return [...document.querySelectorAll(".key.white")].map((key) => key.getBoundingClientRect())
        .filter((key) => key.left >= piano.left && key.right <= piano.right).map((key) => key.width);
    """
    widths = browser.run(in_view)
    assert len(widths) >= 7 and min(widths) >= 44  # pixels
    first = "return document.querySelector('.piano').scrollLeft"
    before = browser.run(first)
    browser.run("document.querySelector('#octave-up').click()")
    assert browser.run(first) > before + 300 and len(browser.run(in_view)) >= 7


@pytest.mark.parametrize("keys", [range(60, 61), range(61, 62), range(61, 64), range(21, 109)])
def test_keyboards_of_any_range_are_whole(browser: Browser, tmp_path: Path, keys: range) -> None:
    browser.open(write_keyboard(tmp_path, make_instrument(tmp_path, keys, None)))
    boxes = """
      const keys = document.querySelector(".keys").getBoundingClientRect();
      return [...document.querySelectorAll(".key")].map((key) => key.getBoundingClientRect())
        .map((key) => [(key.left - keys.left) / keys.width, (key.right - keys.left) / keys.width, key.width]);
    """
    edges = np.array(browser.run(boxes))
    assert len(edges) == len(keys) and edges[:, :2].min() > -1e-3 and edges[:, :2].max() < 1.001
    assert edges[0, 0] < 1e-3 and edges[:, 1].max() > 0.5 and edges[:, 2].min() > 9
    browser.run(f"press({keys[-1]}, 100)")
    assert browser.wait(LISTEN) and browser.complaints() == []


def test_hostile_names_are_only_text(browser: Browser, tmp_path: Path) -> None:
    plain = make_instrument(tmp_path)
    regions = tuple(replace(region, figures=replace(region.figures, nearest=HOSTILE)) for region in plain.regions)
    hostile = replace(plain, name=HOSTILE, run=HOSTILE, shards=HOSTILE, timbre=HOSTILE, regions=regions)
    browser.open(write_keyboard(tmp_path, hostile))
    browser.run("press(60, 100)")
    assert browser.wait(LISTEN) and browser.run("return window.broken") is None
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert "{{ 7*7 }} ${`x`}" in browser.run("return document.querySelector('h1').innerText")
    assert "<script>" in browser.run(MADE)
    names = [f"quote' \" # ? % & <b> ö{suffix}" for suffix in (".sfz", ".dspreset", ".zip")]
    browser.open(write_keyboard(tmp_path, replace(plain, name=names[0][:-4])))
    links = "[...document.querySelectorAll('.files a')].map((link) => [link.innerText, decodeURIComponent(link.href)])"
    assert browser.run(f"return {links}") == [[name, f"{tmp_path.as_uri()}/{name}"] for name in names]
    assert browser.complaints() == []


def test_the_page_alone_is_enough(browser: Browser, page: Path, tmp_path: Path) -> None:
    shutil.copy(page, tmp_path / "alone.html")
    text = page.read_text()
    assert not re.findall(r'src="|url\(|@import|fetch\(', text)
    assert set(re.findall(r"https?://[^'\"]*", text)) == {"http://www.w3.org/2000/svg"}  # of the icon
    browser.open(tmp_path / "alone.html")
    browser.run("press(60, 100)")
    assert browser.wait(LISTEN) and browser.complaints() == []


def test_a_sound_that_cannot_be_decoded_is_reported_and_the_others_play(browser: Browser, tmp_path: Path) -> None:
    instrument = make_instrument(tmp_path)
    (tmp_path / "samples" / "060-127.flac").write_bytes(b"fLaC and nothing more")
    browser.open(write_keyboard(tmp_path, instrument))
    browser.wait("press(60, 127).then(done)")
    assert "cannot decode the sound" in browser.run(MADE)
    browser.run("press(62, 127)")
    assert browser.wait(LISTEN)


def test_quality_before_and_after_the_choice_is_at_the_top(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    head = " ".join(browser.run("return document.querySelector('header').innerText").split())
    for text in (
        "an instrument", "runs/x", "1,200", "guitar_acoustic_000", "In tune 99 % first candidates: 76 %",
        "Within 10 cents 91 % first candidates: 51 %", "Distance in timbre −0.13 first candidates: 0.23",
        "56 % first candidates: 27 %",
    ):  # fmt: skip
        assert text in head
    unknown = Quality(0.5, 0.5, None, None)
    bare = replace(make_instrument(tmp_path), run=None, step=None, shards=None, seed=None, timbre=None)
    regions = tuple(
        replace(region, figures=Figures(0, 1, 1, None, -20.0, None, None, None, None)) for region in bare.regions
    )
    browser.open(write_keyboard(tmp_path, replace(bare, regions=regions, before=unknown, after=unknown)))
    browser.run("press(60, 100)")
    assert "no pitch found" in browser.run(MADE) and "None" not in browser.run("return document.body.innerText")
    assert browser.run("return document.querySelectorAll('.cells').length") == 1 and browser.complaints() == []


def test_the_same_instrument_gives_the_same_bytes(page: Path, tmp_path: Path) -> None:
    assert write_keyboard(tmp_path, make_instrument(tmp_path)).read_bytes() == page.read_bytes()
