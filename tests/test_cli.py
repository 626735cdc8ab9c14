import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from avatarsync.cli import main
from avatarsync.phonemes import Phoneme, PhonemeTrack
from avatarsync.version import __version__
from avatarsync.video import VideoWriter

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def portrait(tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(astronaut()).save(path)
    return str(path)


@pytest.fixture
def recording(tmp_path):
    from avatarsync.phonemes import speak

    path = tmp_path / "speech.wav"
    speak("Good morning.").save(path)
    return str(path)


def probe(path):
    """Frames, frames per second and the number of sound tracks of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.frames, stream.average_rate, len(container.streams.audio)


@pytest.mark.parametrize("command", [[], ["generate"], ["align"], ["evaluate"], ["info"], ["demo"]])
def test_help_names_every_option(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    expected = {
        "generate": "--image --text --audio --transcript --track --output --language --fps --seed --save-track"
        " --face-box --face-index --motion --articulation --no-blink --voice --model --device --force",
        "align": "--audio --text --transcript --language --voice --output --format --force --model --device",
        "evaluate": "--output --against --limit --language --plots --lpips --fid --fvd --sync --identity --model"
        " --device real generated NAME.wav NAME.txt",
        "info": "--model --device",
        "demo": "--output --force --model --device",
    }
    for word in (
        expected[command[0]].split() if command else ("generate", "align", "evaluate", "info", "demo", "synthetic")
    ):
        assert word in text


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"avatarsync {__version__}\n"


GENERATE = ["generate", "--image", "FACE"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["generate"], "--image"),
        ([*GENERATE, "--text", "Hello"], "--output"),
        ([*GENERATE, "-o", "a.mp4"], "--text or --audio"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--audio", "a.wav"], "contradict"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--track", "a.json"], "contradict"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--transcript", "Hello"], "--transcript"),
        ([*GENERATE, "-o", "a.mp4", "--audio", "a.wav", "--track", "t.json", "--transcript", "Hello"], "--transcript"),
        ([*GENERATE, "-o", "a.mp4", "--audio", "a.wav", "--voice", "f3"], "--voice"),
        ([*GENERATE, "-o", "a.mp4", "--text", "-Hello"], "--text=-Hello"),
        ([*GENERATE, "-o", "a.mp4", "--track", "t.json", "--language", "klingon"], "--language"),
        ([*GENERATE, "-o", "a.mp4", "--track", "endless.json"], "12 hours"),
        ([*GENERATE, "-o", "a.mp4", "--track", "numbered.json", "--save-track", "a.TextGrid"], "word is 5"),
        ([*GENERATE, "-o", "a.avi", "--text", "Hello"], ".mp4"),
        ([*GENERATE, "-o", "missing/a.mp4", "--text", "Hello"], "create it"),
        ([*GENERATE, "-o", "old.mp4", "--text", "Hello"], "--force"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--save-track", "old.json"], "--force"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--save-track", "a.txt"], ".json"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--fps", "100"], "10 to 60"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--fps", "quick"], "10 to 60"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--motion", "wild"], "'subtle' or 'still'"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--articulation", "3"], "from 0.25 to 2.0"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--face-box", "1,2,3"], "x,y,width,height"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--seed", "x"], "--seed"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--device", "abacus"], "abacus"),
        ([*GENERATE, "-o", "a.mp4", "--track", "overlap.json"], "overlaps"),
        ([*GENERATE, "-o", "a.mp4", "--track", "missing.json"], "missing.json"),
        (["generate", "--image", "missing.png", "-o", "a.mp4", "--text", "Hello"], "no such file"),
        (["generate", "--image", "old.json", "-o", "a.mp4", "--text", "Hello"], "not a picture"),
        (["generate", "--image", "empty", "-o", "a.mp4", "--text", "Hello"], "empty is a folder"),
        (["generate", "--image", "seed=3/text=/a", "-o", "a.mp4", "--text", "Hello"], ": seed=3/text=/a: there"),
        (["align"], "--text or --audio"),
        (["align", "--text", "Hello", "-o", "old.json"], "--force"),
        (["align", "--text", "Hello", "-o", "a.srt"], ".json"),
        (["align", "--text", "Hello", "--format", "srt"], "--format"),
        (["demo", "-o", "old.mp4"], "--force"),
        (["evaluate", "clips"], "--output"),
        (["evaluate", "missing", "-o", "new"], "missing is not a folder"),
        (["evaluate", "clips", "-o", "clips"], "exists already"),
        (["evaluate", "clips", "-o", "missing/new"], "create it"),
        (["evaluate", "empty", "-o", "new"], "no videos"),
        (["evaluate", "clips", "-o", "new"], "old.mp4 cannot be read"),
        (["evaluate", "speech", "-o", "new", "--limit", "0"], "--limit 0"),
        (["evaluate", "speech", "-o", "new", "--against", "empty"], "no video grey"),
        (["evaluate", "pairs", "-o", "new", "--model", "any"], "leave out --model"),
        (["evaluate", "speech", "-o", "new", "--lpips", "none", "--fid", "resnet"], "'resnet' is no network"),
        (["evaluate", "speech", "-o", "new", "--lpips", "missing.safetensors"], "missing.safetensors"),
        (["evaluate", "speech", "-o", "new", "--language", "klingonese"], "klingonese"),
        # From here on the model is asked.
        ([*GENERATE, "-o", "a.mp4", "--text", ""], "empty"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--language", "klingonese"], "klingonese"),
        ([*GENERATE, "-o", "a.mp4", "--text", "Hello", "--voice", "nobody"], "nobody"),
        ([*GENERATE, "-o", "a.mp4", "--audio", "missing.wav"], "missing.wav"),
        ([*GENERATE, "-o", "a.mp4", "--audio", "empty"], "empty is a folder"),
        ([*GENERATE, "-o", "a.mp4", "--audio", "silent.wav"], "silent"),
        (["generate", "--image", "grey.png", "-o", "a.mp4", "--text", "Hello"], "with --face-box x,y,width,height"),
        (["align", "--text", "Hello", "--model", "missing"], "missing"),
        (["info", "--model", "."], "model"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_line_and_status_2(arguments, message, portrait, tmp_path, monkeypatch, capfd):
    import soundfile

    monkeypatch.chdir(tmp_path)
    Path("old.mp4").write_bytes(b"old")
    Path("old.json").write_bytes(b"old")
    overlap = {"phonemes": [{"symbol": "a", "start": 0, "end": 1}, {"symbol": "m", "start": 0.5, "end": 2}]}
    Path("overlap.json").write_text(json.dumps(overlap))
    endless = {"duration": 1e8, "phonemes": [{"symbol": "a", "start": 0, "end": 1}]}
    Path("endless.json").write_text(json.dumps(endless))
    Path("numbered.json").write_text(json.dumps({"phonemes": [{"symbol": "a", "start": 0, "end": 1, "word": 5}]}))
    soundfile.write("silent.wav", np.zeros(16000), 16000)
    Image.new("RGB", (256, 256), (127, 127, 127)).save("grey.png")
    for folder in ("empty", "clips", "speech", "pairs/real", "pairs/generated"):
        Path(folder).mkdir(parents=True)
    Path("clips/old.mp4").write_bytes(b"old")
    with VideoWriter("speech/grey.mp4", 25, 32, 32, np.zeros(16000, np.float32), 16000) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
    for part in ("real", "generated"):
        shutil.copy("speech/grey.mp4", f"pairs/{part}/grey.mp4")
    before = set(os.listdir())
    try:
        status = main([portrait if argument == "FACE" else argument for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    output = capfd.readouterr()
    assert status == 2
    assert output.err.startswith("avatarsync: error: ") and output.err.count("\n") == 1
    assert message in output.err
    assert output.out == ""
    assert set(os.listdir()) == before and Path("old.mp4").read_bytes() == Path("old.json").read_bytes() == b"old"


@pytest.mark.parametrize("option", [["--motion", "wild"], ["--articulation", "3"], ["--seed", "-1"]])
def test_options_are_looked_at_before_portrait_and_model_are_read(option, tmp_path, capfd):
    """Neither exists, and neither is what is complained of."""
    nowhere = ["--image", str(tmp_path / "face.png"), "--model", str(tmp_path / "model")]
    assert main(["generate", "-o", str(tmp_path / "a.mp4"), "--text", "Hello", *nowhere, *option]) == 2
    assert f"{option[0][2:]} is " in capfd.readouterr().err


def test_a_text_becomes_a_video_and_a_track(portrait, tmp_path, capfd):
    video, track = tmp_path / "hello.mp4", tmp_path / "hello.json"
    arguments = ["--text", "Hello.", "-o", str(video), "--save-track", str(track), "--fps", "29.97", "--seed", "3"]
    assert main(["generate", "--image", portrait, *arguments]) == 0
    output = capfd.readouterr()
    assert str(video) in output.out and "512x512" in output.out and output.err == ""  # quiet when piped
    saved = PhonemeTrack.load(track)
    frames, fps, sounds = probe(video)
    assert abs(frames - saved.duration * fps) <= 1.5 and sounds == 1
    assert abs(float(fps) - 29.97) < 0.001
    assert main(["generate", "--image", portrait, *arguments, "--force"]) == 0
    assert main(["generate", "--image", portrait, *arguments]) == 2


def test_a_recording_becomes_a_video(portrait, recording, tmp_path):
    video = tmp_path / "a.mp4"
    arguments = ["--audio", recording, "--transcript", "Good morning.", "-o", str(video), "--fps", "10"]
    assert main(["generate", "--image", portrait, *arguments]) == 0
    assert probe(video)[2] == 1


def test_an_edited_track_becomes_a_video_with_or_without_sound(portrait, recording, tmp_path):
    track = tmp_path / "t.TextGrid"
    PhonemeTrack([Phoneme("m", 0.1, 0.3), Phoneme("ɑ", 0.3, 0.6)], language="en-us", duration=1.2).save(track)
    face = ["--face-box", "170,60,110,140"]
    silent, heard = tmp_path / "silent.mp4", tmp_path / "heard.mp4"
    assert main(["generate", "--image", portrait, "--track", str(track), "-o", str(silent), "--fps", "10", *face]) == 0
    assert probe(silent)[0] == 12
    arguments = ["--track", str(track), "--audio", recording, "-o", str(heard), "--fps", "10"]
    assert main(["generate", "--image", portrait, *arguments]) == 0
    with av.open(str(heard)) as container:
        loudest = max(np.abs(frame.to_ndarray()).max() for frame in container.decode(audio=0))
    assert loudest > 0.1


def test_align_prints_or_writes_the_track(recording, tmp_path, capfd):
    assert main(["align", "--text", "Hello."]) == 0
    printed = PhonemeTrack.from_json(capfd.readouterr().out)
    assert len(printed) > 3
    assert main(["align", "--text", "Hello.", "--format", "textgrid"]) == 0
    assert len(PhonemeTrack.from_textgrid(capfd.readouterr().out)) > 3
    target = tmp_path / "a.TextGrid"
    assert main(["align", "--audio", recording, "--transcript", "Good morning.", "-o", str(target)]) == 0
    assert len(PhonemeTrack.load(target)) > 5 and capfd.readouterr().out.startswith(f"{target}: ")


def run(arguments, **options):
    return subprocess.Popen([sys.executable, "-m", "avatarsync.cli", *arguments], cwd=ROOT, stderr=-1, **options)


@pytest.mark.skipif(os.name != "posix", reason="pipes and file names of POSIX")
def test_phonemes_are_written_whatever_the_locale_and_until_nobody_reads_on():
    text = "Sing a song of sixpence, a pocket full of rye. " * 400
    process = run(
        ["align", "--text", text, "--format", "textgrid"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    printed = b""
    while "ŋ".encode() not in printed and (line := process.stdout.readline()):
        printed += line
    process.stdout.close()
    assert "ŋ".encode() in printed
    assert process.wait(120) == 141 and process.stderr.read() == b""


@pytest.mark.skipif(os.name != "posix", reason="pipes and file names of POSIX")
def test_names_that_no_encoding_has_and_output_that_is_closed_are_no_reason_to_fail():
    process = run(["generate", "--image", b"\xff.png", "-o", "a.mp4", "--text", "Hello"], stdout=subprocess.PIPE)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and said.count(b"\n") == 1 and b"no such file" in said
    process = run(["info", "--voices"], preexec_fn=functools.partial(os.close, 1))
    assert process.communicate(timeout=120)[1] == b"" and process.returncode == 0


def test_the_signals_of_whoever_calls_are_left_as_they_were(capfd):
    before = signal.getsignal(signal.SIGTERM)
    assert main(["info", "--voices"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_probably_not_meant_is_remarked_on_in_one_line(portrait, tmp_path, capfd):
    from avatarsync.phonemes import speak

    speech = speak("Good morning, how are you today? I hope that all of you are well.")
    speech.save(tmp_path / "speech.wav")
    assert main(["align", "--audio", str(tmp_path / "speech.wav"), "--transcript", "Good morning"]) == 0
    assert "avatarsync: warning: the words take about" in capfd.readouterr().err
    track = PhonemeTrack([Phoneme("5★", 0.0, 0.2), Phoneme("a", 0.2, 0.4)])
    track.save(tmp_path / "a.json")
    arguments = ["--image", portrait, "--track", str(tmp_path / "a.json"), "-o", str(tmp_path / "a.mp4")]
    assert main(["generate", *arguments, "--motion", "still"]) == 0
    remarks = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert len(remarks) == 1 and "'5★' (entry 0)" in remarks[0]


def test_info(capfd):
    assert main(["info"]) == 0
    text = capfd.readouterr().out
    for word in (__version__, "bundled", "parameters", "face_aligner", "cpu", "torch", "Apache-2.0", "GPL-3.0"):
        assert word in text
    assert main(["info", "--languages"]) == 0
    listed = capfd.readouterr().out.splitlines()
    assert {"en-us", "cmn", "de"} <= set(listed) and "f3" not in listed
    assert main(["info", "--voices"]) == 0
    assert "f3" in capfd.readouterr().out.splitlines()


def test_demo_speaks_and_says_that_it_is_synthetic(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    assert os.listdir() == ["demo.mp4"]
    frames, fps, sounds = probe("demo.mp4")
    assert frames > 50 and fps == 25 and sounds == 1
    with av.open("demo.mp4") as container:
        assert "ynthetic" in container.metadata["comment"]


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a POSIX signal")
@pytest.mark.parametrize(
    "sent, status, said", [(signal.SIGINT, 130, ["avatarsync: interrupted"]), (signal.SIGTERM, 143, [])]
)
def test_ctrl_c_and_sigterm_leave_nothing(portrait, tmp_path, sent, status, said):
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = ["--image", portrait, "--text", "One, two, three, four, five. " * 20, "-o", str(folder / "a.mp4")]
    process = subprocess.Popen(
        [sys.executable, "-m", "avatarsync.cli", "generate", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start background jobs with Ctrl-C ignored, and children inherit that.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not os.listdir(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert os.listdir(folder)[0].endswith(".partial")
    process.send_signal(sent)
    assert process.wait(60) == status
    assert process.stderr.read().splitlines() == said
    assert os.listdir(folder) == []
