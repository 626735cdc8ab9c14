"""The demo as people use it, in Chromium: `pytest -m browser` (.ci/run installs what it takes)."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import av
import numpy as np
import pytest
from avatarsync.pipelines.talking_head import REST_AFTER, REST_BEFORE
from PIL import Image
from skimage.data import astronaut, coffee

from avatarsync.phonemes import speak
from avatarsync.video import PROVENANCE, TITLE

pytestmark = pytest.mark.browser

APP = Path(__file__).resolve().parents[2] / "spaces" / "app.py"
TEXT = "It is good to see you again, my friend, after all these years."
PATIENCE = 240  # seconds, for a busy machine


def wait_for(condition, what, seconds=PATIENCE):
    """The condition's value as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.25)
    pytest.fail(f"waited {seconds} seconds for {what() if callable(what) else what}")


@pytest.fixture(scope="module")
def address(tmp_path_factory, adapter):
    """The demo, started as the README says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("demo")
    log = folder / "log.txt"
    environment = {**os.environ, "TMPDIR": str(folder)}
    with log.open("w") as output:
        command = [sys.executable, str(APP), "--port", str(port), "--adapters", str(adapter.parent)]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def answers():
        assert process.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).status == 200
        except OSError:
            return False

    try:
        wait_for(answers, "the demo to start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
    assert "Traceback" not in log.read_text()
    assert list(folder.glob("avatarsync-demo-*")) == [], "uploads and videos are deleted"


class Page:
    """The demo in a browser."""

    def __init__(self, driver, downloads):
        self.driver, self.downloads = driver, downloads

    def open(self, address, width=1280, height=1000):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(address)
        wait_for(lambda: self.script("return document.querySelector('#portrait input[type=file]')"), "the page")
        return self

    def script(self, code, *values):
        return self.driver.execute_script(code, *values)

    def find(self, selector):
        return wait_for(lambda: self.script("return document.querySelector(arguments[0])", selector), selector)

    def click(self, selector):
        element = self.find(selector)
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        wait_for(element.is_enabled, f"{selector} to be enabled")
        element.click()

    def status(self):
        return self.find("#status .card").text

    def wait_for_status(self, pattern):
        told = lambda: f"{pattern!r}, the page says {self.status()!r}"  # noqa: E731
        return wait_for(lambda: re.search(pattern, self.status()), told)

    def upload(self, file, where="#portrait"):
        self.find(f"{where} input[type=file]").send_keys(str(file))

    def upload_portrait(self, file):
        self.upload(file)
        wait_for(
            lambda: self.script("const i = document.querySelector('#portrait img'); return i && i.naturalWidth > 0"),
            "the uploaded picture",
        )

    def write(self, selector, text):
        from selenium.webdriver.common.keys import Keys

        box = self.find(selector)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text or Keys.DELETE)

    def choose(self, name, label):
        """An entry of a list."""
        self.click(f"#{name} input")
        entry = "return [...document.querySelectorAll('[role=option]')].find(o => o.innerText.includes(arguments[0]))"
        wait_for(lambda: self.script(entry, label), f"{label} in the list").click()
        wait_for(lambda: not self.script("return document.querySelector('[role=option]')"), "the list to close")

    def consent(self):
        self.click("#consent input")

    def video(self, attribute):
        found = "[...document.querySelectorAll('video')].find(v => v.closest('#video') || v.id === 'video')"
        return self.script(f"const v = {found}; return v ? v.{attribute} : null")

    def play(self):
        """Play the video to its end; returns the seconds that were shown."""
        wait_for(lambda: (self.video("readyState") or 0) >= 2, "the video to be loadable")
        self.video("pause()")
        self.script("for (const v of document.querySelectorAll('video')) { v.currentTime = 0; v.play(); }")
        wait_for(lambda: self.video("ended"), "the video to play to its end")
        return self.video("currentTime")

    def download(self, name, suffix):
        for earlier in self.downloads.glob("*"):
            earlier.unlink()
        self.click(f"#download-{name}")
        return wait_for(lambda: next(iter(self.downloads.glob(f"*{suffix}")), None), f"the download of {name}")

    def edit_cell(self, row, column, value):
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        cell = self.find(f'#table [data-testid="cell-{row}-{column}"]')
        box = "return document.querySelector('#table textarea, #table input:not([type=file])')"

        def opened():
            # Again where the page was still scrolling.
            self.script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", cell)
            ActionChains(self.driver).double_click(cell).perform()
            time.sleep(0.3)
            return self.script(box)

        box = wait_for(opened, "the cell")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(str(value), Keys.ENTER)

    def message(self):
        """The sentence that gradio's message shows."""
        return wait_for(lambda: self.script("return document.querySelector('.toast-body')?.innerText"), "a message")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    selenium = pytest.importorskip("selenium.webdriver")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if browser is None or chromedriver is None:
        pytest.fail("install the programs chromium (or google-chrome) and chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "mute-audio"):
        options.add_argument(f"--{argument}")
    driver = selenium.Chrome(options, selenium.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture
def page(driver, address, tmp_path):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    options = {"behavior": "allow", "downloadPath": str(downloads)}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", options)
    page = Page(driver, downloads).open(address)
    yield page
    # No visitor reads where the server keeps things.
    assert "avatarsync-demo" not in page.script("return document.body.innerText")
    assert "/tmp" not in page.script("return document.body.innerText")


@pytest.fixture
def portrait(tmp_path):
    Image.fromarray(astronaut()[0:256, 96:352]).save(tmp_path / "portrait.png")
    return tmp_path / "portrait.png"


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def seconds_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.duration * stream.time_base)


def test_upload_speak_play_edit_and_render_again(page, portrait):
    expected = speak(TEXT).duration + REST_BEFORE + REST_AFTER
    page.upload_portrait(portrait)
    page.write("#text textarea", TEXT)
    page.consent()
    page.click("#speak")
    page.wait_for_status(r"Drew \d+ of \d+ frames")
    wait_for(lambda: page.video("duration"), "the first second of the video")
    total = int(page.wait_for_status(r"Drew (\d+) frames in").group(1))
    assert total == round(expected * 25)
    wait_for(lambda: page.video("duration") == pytest.approx(expected, abs=0.05), "the whole video")
    assert page.play() == pytest.approx(expected, abs=0.1)

    before = page.download("video", ".mp4").rename(page.downloads.parent / "before.mp4")
    assert seconds_of(before) == pytest.approx(expected, abs=0.05)
    with av.open(str(before)) as container:
        assert container.metadata["title"] == TITLE and container.metadata["comment"] == PROVENANCE
    assert '"phonemes"' in page.download("json", ".json").read_text()
    assert "IntervalTier" in page.download("textgrid", ".TextGrid").read_text()

    assert page.find("#track svg").is_displayed()
    page.edit_cell(2, 0, "m")
    page.click("#again")
    drawn, of = (int(n) for n in page.wait_for_status(r"Drew (\d+) of (\d+) frames in").groups())
    assert 0 < drawn < of == total
    wait_for(lambda: page.video("duration") == pytest.approx(expected, abs=0.05), "the whole video, again")
    assert page.find("#track .tl-changed").is_displayed()
    after = page.download("video", ".mp4")
    same = [np.array_equal(*pair) for pair in zip(frames_of(before), frames_of(after), strict=True)]
    assert same.count(False) > 0
    assert all(same[drawn:]), "frames beyond the edit are the same bytes"

    page.edit_cell(2, 0, "7")
    page.click("#again")
    assert "No such phoneme is known as '7'" in page.message()


def test_a_recording_speaks(page, portrait, tmp_path):
    speech = speak("Good morning to all of you.", voice="f3")
    speech.save(tmp_path / "voice.wav")
    page.click("#tabs button[role=tab]:nth-of-type(2)")
    wait_for(lambda: page.find("#recording").is_displayed(), "the other tab")
    page.upload(tmp_path / "voice.wav", "#recording")
    page.upload_portrait(portrait)
    page.write("#transcript textarea", "Good morning to all of you.")
    page.consent()
    page.click("#speak")
    page.wait_for_status(r"Drew \d+ frames in")
    wait_for(lambda: page.video("duration") == pytest.approx(speech.duration, abs=0.05), "the whole video")


def test_an_identity_speaks(page, portrait):
    page.upload_portrait(portrait)
    page.write("#text textarea", "No.")
    page.consent()
    films = []
    for identity in (None, "anna"):
        if identity is not None:
            page.choose("identity", identity)
        page.script("document.querySelector('#status .card').innerText = ''")  # the earlier video's
        page.click("#speak")
        page.wait_for_status(r"Drew \d+ frames in")
        films.append(np.stack(frames_of(page.download("video", ".mp4"))))
    assert films[0].shape == films[1].shape and np.abs(films[0].astype(int) - films[1]).max() > 30


def test_a_picture_without_a_face_is_told(page, tmp_path):
    Image.fromarray(coffee()[:300, :300]).save(tmp_path / "coffee.png")
    page.upload_portrait(tmp_path / "coffee.png")
    page.consent()
    page.click("#speak")
    page.wait_for_status("No face was found in the picture")
    assert "No face was found" in page.message()
    wait_for(page.find("#speak").is_enabled, "the button to be ready again")


def test_an_empty_text_and_a_missing_consent_are_told(page, portrait):
    page.click("#speak")
    page.wait_for_status("Consent is missing")
    page.upload_portrait(portrait)
    page.write("#text textarea", "")
    page.consent()
    page.click("#speak")
    page.wait_for_status("There is nothing to say yet")


def test_a_file_of_30_megabytes_is_refused(page, portrait, tmp_path):
    (tmp_path / "large.png").write_bytes(portrait.read_bytes() + bytes(30_000_000))
    page.upload(tmp_path / "large.png")
    assert "maximum allowed size of 20" in page.message()
    assert page.script("return document.querySelector('#portrait img')") is None


def test_the_server_refuses_it_too(address):
    boundary = "part"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="large.png"\r\n\r\n'
    body = head.encode() + bytes(30_000_000) + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        f"{address}/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    with pytest.raises(OSError) as caught:  # a refusal, or a connection that is cut while it is sent
        urllib.request.urlopen(request, timeout=60)
    if isinstance(caught.value, urllib.error.HTTPError):
        assert caught.value.code in (400, 413)


def test_work_can_be_stopped(page, portrait):
    page.upload_portrait(portrait)
    page.write("#text textarea", "A long story begins like this. " * 8)
    page.consent()
    page.click("#speak")
    page.wait_for_status(r"Drew \d+ of")
    page.click("#stop")
    page.wait_for_status("Stopped")
    wait_for(page.find("#speak").is_enabled, "the button to be ready again")
    time.sleep(2)
    assert page.status().startswith("Stopped")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page, address, width):
    page.open(address, width=width, height=900)
    page.click("#examples button")
    page.consent()
    page.click("#speak")
    page.wait_for_status(r"Drew \d+ frames in")
    assert page.script("return document.documentElement.scrollWidth") <= width
    for name in ("portrait", "text", "language", "consent", "speak", "video", "status", "download-video", "table"):
        box = page.find(f"#{name}").rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] > 10, name
    labelled = page.script("return [...document.querySelectorAll('#timeline .tl-open text')].map(t => t.textContent)")
    assert any(labelled)
