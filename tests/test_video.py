import io
import os
import stat
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from avatarsync.errors import (
    InvalidArgumentError,
    InvalidAudioError,
    InvalidFrameRateError,
    InvalidImageError,
    OutputError,
)
from avatarsync.phonemes import load_audio
from avatarsync.version import __version__
from avatarsync.video import BACKGROUND, VideoWriter, check_output_path, load_image


def moving_frames(count, height=64, width=64):
    ramp = np.arange(width, dtype=np.uint8)
    for k in range(count):
        frame = np.full((height, width, 3), 60, np.uint8)
        frame[..., 1] = ramp
        frame[k % height] = 200
        yield frame


def write(path, frames, fps=25, **options):
    frames = list(frames)
    with VideoWriter(path, fps, *frames[0].shape[:2], **options) as writer:
        for frame in frames:
            writer.write(frame)


def read_video(path):
    """Frames `(T, H, W, 3)` and the exact time of each."""
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
        frames = [frame.to_ndarray(format="rgb24") for frame in decoded]
        return np.stack(frames), [frame.pts * frame.time_base for frame in decoded]


def read_audio(path):
    """Samples `(samples, channels)`, starting at time 0, and the rate."""
    with av.open(str(path)) as container:
        assert next(container.decode(audio=0)).pts == 0
    audio, rate = load_audio(path)
    return audio.reshape(len(audio), -1), rate


@pytest.mark.parametrize("fps", [10, 25, 12.5, 17.3, "24000/1001", 29.97, 30, 60])
def test_every_frame_is_there_at_exactly_its_time(tmp_path, fps):
    write(tmp_path / "a.mp4", moving_frames(37), fps)
    frames, times = read_video(tmp_path / "a.mp4")
    with VideoWriter(tmp_path / "b.mp4", fps, 64, 64) as writer:
        writer.write(frames[0])
    assert len(frames) == 37
    assert times == [k / writer.fps for k in range(37)]
    # Each frame is itself: its bright row is where it was put.
    assert [int(frame[:, :, 2].mean(1).argmax()) for frame in frames] == list(range(37))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].average_rate == writer.fps
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert not container.streams.audio


@pytest.mark.parametrize(("height", "width"), [(129, 131), (128, 131), (129, 130)])
def test_odd_sizes_are_padded_by_the_edge(tmp_path, height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    frame = np.stack([rows, columns, rows // 2 + columns // 2], -1).astype(np.uint8)
    write(tmp_path / "a.mp4", [frame] * 3)
    frames, _ = read_video(tmp_path / "a.mp4")
    assert frames.shape[1:3] == (height + height % 2, width + width % 2)
    padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge").astype(int)
    error = np.abs(frames[1].astype(int) - padded)
    assert error.mean() < 3
    assert error[-1].mean() < 5 and error[:, -1].mean() < 5


def test_colours_come_back_and_are_tagged(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (224, 172, 140), (90, 60, 45)]
    frame = np.concatenate([np.full((64, 32, 3), colour, np.uint8) for colour in colours], axis=1)
    write(tmp_path / "a.mp4", [frame] * 5)
    frames, _ = read_video(tmp_path / "a.mp4")
    for index, colour in enumerate(colours):
        patch = frames[3, 16:48, 32 * index + 8 : 32 * index + 24].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(patch, colour, atol=3)
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range) == (1, 1, 1, 1)


def test_the_file_says_that_it_is_synthetic_and_starts_fast(tmp_path):
    write(tmp_path / "a.mp4", moving_frames(3))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert "synthetic" in container.metadata["title"].lower()
        assert "synthetic" in container.metadata["comment"].lower()
        assert f"AvatarSync {__version__}" in container.metadata["comment"]
    content = (tmp_path / "a.mp4").read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(
    ("channels", "rate", "expected_channels", "expected_rate"),
    [(1, 8000, 1, 8000), (1, 22050, 1, 22050), (2, 44100, 2, 44100), (6, 48000, 6, 48000), (8, 48000, 8, 48000),
     (1, 96000, 1, 96000), (1, 11000, 1, 11025), (2, 50000, 2, 64000), (1, 192000, 1, 96000), (7, 48000, 1, 48000)],
)  # fmt: skip
def test_sound_keeps_its_rate_and_channels_where_aac_has_them(
    tmp_path, channels, rate, expected_channels, expected_rate
):
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    write(tmp_path / "a.mp4", moving_frames(25), audio=np.repeat(tone[:, None], channels, 1), sampling_rate=rate)
    audio, read_rate = read_audio(tmp_path / "a.mp4")
    assert (audio.shape[1], read_rate) == (expected_channels, expected_rate)
    middle = audio[read_rate // 4 : read_rate // 4 * 3, 0]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * read_rate / len(middle) - 440) < 5
    np.testing.assert_allclose(np.sqrt((middle**2).mean()), 0.4 / np.sqrt(2), rtol=0.1)


def test_each_of_eight_channels_stays_itself(tmp_path):
    time, pitches = np.arange(48000) / 48000, 200 + 100 * np.arange(8)
    audio = 0.4 * np.sin(2 * np.pi * pitches * time[:, None])
    write(tmp_path / "a.mp4", moving_frames(25), audio=audio, sampling_rate=48000)
    read, rate = load_audio(tmp_path / "a.mp4")
    assert rate == 48000 and read.shape[1] == 8
    heard = np.abs(np.fft.rfft(read[9600:33600], axis=0)).argmax(0) * 2
    assert (np.delete(np.abs(heard - pitches), 3) < 4).all()  # the fourth is for low tones alone


def test_a_single_channel_may_come_without_its_axis(tmp_path):
    write(tmp_path / "a.mp4", moving_frames(25), audio=np.zeros(16000, np.float32), sampling_rate=16000)
    assert read_audio(tmp_path / "a.mp4")[0].shape[1] == 1


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (1.02, 1.02), (5.0, 1.04)])
def test_sound_that_is_shorter_or_longer_than_the_video(tmp_path, seconds, expected):
    audio = np.full(round(seconds * 16000), 0.25, np.float32)
    write(tmp_path / "a.mp4", moving_frames(25), audio=audio, sampling_rate=16000)
    read, rate = read_audio(tmp_path / "a.mp4")
    assert abs(len(read) / rate - expected) <= 1024 / rate  # AAC ends on a whole block
    assert len(read_video(tmp_path / "a.mp4")[0]) == 25
    if seconds == 0.3:
        assert np.abs(read[: round(0.25 * rate)]).mean() > 0.2 and np.abs(read[round(0.45 * rate) :]).max() < 0.01


def test_sound_and_picture_agree_at_the_end_of_ten_minutes(tmp_path):
    fps, rate = Fraction(24000, 1001), 11025
    num_frames = round(600 * fps)
    flashes = [24, num_frames // 2, num_frames - 10]
    audio = np.zeros(600 * rate, np.float32)
    for flash in flashes:
        start = round(flash / fps * rate)
        audio[start : start + 110] = 0.9 * np.sign(np.sin(np.arange(110)))
    dark, bright = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)
    with VideoWriter(tmp_path / "long.mp4", fps, 16, 16, audio, rate) as writer:
        for k in range(num_frames):
            writer.write(bright if k in flashes else dark)
    with av.open(str(tmp_path / "long.mp4")) as container:
        seen = [
            (frame.pts * frame.time_base, index)
            for index, frame in enumerate(container.decode(video=0))
            if np.asarray(frame.planes[0])[0] > 128
        ]
    assert [index for _, index in seen] == flashes
    heard, heard_rate = read_audio(tmp_path / "long.mp4")
    assert heard_rate == rate
    for time, _ in seen:
        start = int((time - 1) * rate)
        onset = start + np.argmax(np.abs(heard[start : start + 2 * rate, 0]) > 0.3)
        assert abs(onset / rate - time) < 0.01  # a quarter of a frame


def test_sound_and_picture_are_interleaved(tmp_path):
    write(tmp_path / "a.mp4", moving_frames(250), audio=np.zeros(160000, np.float32), sampling_rate=16000)
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [
            (packet.pos, packet.stream.type, float(packet.dts * packet.time_base))
            for packet in container.demux()
            if packet.size
        ]
    latest = {"video": 0.0, "audio": 0.0}
    for _, kind, seconds in sorted(packets):
        latest[kind] = seconds
        assert abs(latest["video"] - latest["audio"]) < 1.2


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_midway_leaves_nothing(tmp_path, failure):
    with pytest.raises(failure), VideoWriter(tmp_path / "a.mp4", 25, 64, 64, np.zeros(16000), 16000) as writer:
        for frame in moving_frames(40):
            writer.write(frame)
        assert len(os.listdir(tmp_path)) == 1 and not (tmp_path / "a.mp4").exists()
        raise failure
    assert os.listdir(tmp_path) == []


def test_a_failure_midway_leaves_the_file_that_was_to_be_replaced(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(RuntimeError), VideoWriter(path, 25, 64, 64, force=True) as writer:
        writer.write(next(moving_frames(1)))
        raise RuntimeError
    assert path.read_bytes() == b"precious" and os.listdir(tmp_path) == ["a.mp4"]
    write(path, moving_frames(2), force=True)
    assert len(read_video(path)[0]) == 2 and os.listdir(tmp_path) == ["a.mp4"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "a.mp4"
    with pytest.raises(OutputError, match="--force"), VideoWriter(path, 25, 64, 64) as writer:
        writer.write(next(moving_frames(1)))
        path.write_bytes(b"someone else's")
    assert path.read_bytes() == b"someone else's" and os.listdir(tmp_path) == ["a.mp4"]


def test_files_get_the_usual_permissions(tmp_path):
    write(tmp_path / "a.mp4", moving_frames(1))
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a.mp4").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


def test_a_video_without_frames_is_no_file(tmp_path):
    with pytest.raises(InvalidArgumentError, match="at least one frame"), VideoWriter(tmp_path / "a.mp4", 25, 64, 64):
        pass
    assert os.listdir(tmp_path) == []


FILL_THE_DISK = """
import resource, sys
import numpy as np
from avatarsync.errors import OutputError
from avatarsync.video import VideoWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
rng = np.random.default_rng(0)
try:
    with VideoWriter(sys.argv[1], 25, 128, 128) as writer:
        for _ in range(100):
            writer.write(rng.integers(0, 256, (128, 128, 3), np.uint8))
except OutputError as error:
    print("told:", error)
"""


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    pytest.importorskip("resource", reason="the disk is made small by a POSIX limit")
    root = Path(__file__).resolve().parents[1]
    result = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / "a.mp4")], cwd=root, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("told:") and os.listdir(tmp_path) == []


def test_output_paths_are_checked_beforehand(tmp_path):
    assert check_output_path(str(tmp_path / "new.MP4")) == tmp_path / "new.MP4"
    (tmp_path / "old.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to("nowhere.mp4")
    for path, message in [
        (tmp_path / "old.mp4", r"force=True \(--force\)"),
        (tmp_path / "link.mp4", r"force=True \(--force\)"),
        (tmp_path / "a.avi", "ends in .mp4"),
        (tmp_path / "nothing", "ends in .mp4"),
        (tmp_path / "missing" / "a.mp4", "create it"),
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "a\0b.mp4", "zero character"),
        (tmp_path / f"{'a' * 260}.mp4", "another name"),
    ]:
        with pytest.raises(OutputError, match=message):
            check_output_path(path)
        with pytest.raises(OutputError, match=message):
            VideoWriter(path, 25, 64, 64)
    assert check_output_path(tmp_path / "old.mp4", force=True) == tmp_path / "old.mp4"
    with pytest.raises(OutputError, match="is a folder"):
        check_output_path(tmp_path / "folder.mp4", force=True)
    assert check_output_path(tmp_path / "a.json", suffixes=(".json", ".textgrid"))
    assert sorted(os.listdir(tmp_path)) == ["folder.mp4", "link.mp4", "old.mp4"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that even root cannot write to")
def test_an_unwritable_folder_is_told_beforehand():
    with pytest.raises(OutputError, match="cannot be written to"):
        check_output_path("/proc/self/a.mp4")


def test_what_the_writer_refuses(tmp_path):
    with pytest.raises(InvalidFrameRateError):
        VideoWriter(tmp_path / "a.mp4", 5, 64, 64)
    sound = np.zeros(16000, np.float32)
    for audio, rate, message in [
        (sound, None, "sampling_rate="),
        ((sound * 2**15).astype(np.int16), 16000, "float"),
        (sound[None, None], 16000, "float"),
        (sound + np.nan, 16000, "not finite"),
        (sound + 32767, 16000, "divide"),
    ]:
        with pytest.raises(InvalidAudioError, match=message):
            VideoWriter(tmp_path / "a.mp4", 25, 64, 64, audio, rate)
    for frame in (np.zeros((64, 66, 3), np.uint8), np.zeros((64, 64, 3), np.float32)):
        with pytest.raises(InvalidArgumentError, match="uint8"), VideoWriter(tmp_path / "a.mp4", 25, 64, 64) as writer:
            writer.write(frame)
    assert os.listdir(tmp_path) == []


def test_frames_may_be_views_in_any_order(tmp_path):
    frame = next(moving_frames(1, 64, 96))
    write(tmp_path / "a.mp4", [frame[:, ::-1], np.asfortranarray(frame)])
    frames, _ = read_video(tmp_path / "a.mp4")
    assert np.abs(frames[0][:, ::-1].astype(int) - frame).mean() < 4
    assert np.abs(frames[1].astype(int) - frame).mean() < 4


def portrait(height=130, width=150):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows, columns, 255 - rows // 2 - columns // 2], -1).astype(np.uint8)


def encoded(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_picture_in_every_kind_of_wrapping(tmp_path):
    pixels = portrait()
    path = tmp_path / "face.png"
    Image.fromarray(pixels).save(path)
    for source in (path, str(path), path.read_bytes(), Image.fromarray(pixels), Image.open(path), pixels):
        image = load_image(source)
        np.testing.assert_array_equal(image, pixels)
        assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
        assert not np.shares_memory(image, pixels)


def test_greyscale_palette_and_cmyk():
    grey = portrait()[..., 0]
    expected = np.repeat(grey[..., None], 3, 2)
    for source in (grey, grey[..., None], encoded(Image.fromarray(grey), "PNG")):
        np.testing.assert_array_equal(load_image(source), expected)
    colours = Image.fromarray(portrait()).quantize(16)
    np.testing.assert_array_equal(load_image(encoded(colours, "GIF")), np.asarray(colours.convert("RGB")))
    bilevel = Image.fromarray(grey).convert("1")
    np.testing.assert_array_equal(load_image(encoded(bilevel, "PNG"))[..., 0], np.asarray(bilevel.convert("L")))
    cmyk = Image.fromarray(portrait()).convert("CMYK")
    np.testing.assert_array_equal(load_image(encoded(cmyk, "TIFF")), portrait())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_tones(kind):
    grey = portrait()[..., 0]
    deep = grey.astype(np.uint16) * 257
    picture = Image.fromarray(deep)
    assert picture.mode.startswith("I;16")
    expected = np.repeat(grey[..., None], 3, 2)
    np.testing.assert_array_equal(load_image(encoded(picture, kind)), expected)
    np.testing.assert_array_equal(load_image(deep), expected)
    np.testing.assert_array_equal(load_image(deep.astype(">u2")), expected)
    np.testing.assert_array_equal(load_image(picture.convert("I")), expected)


def test_thirty_two_bits_may_hold_eight():
    grey = portrait()[..., 0]
    picture = Image.fromarray(grey.astype(np.int32))
    np.testing.assert_array_equal(load_image(encoded(picture, "TIFF")), np.repeat(grey[..., None], 3, 2))


def test_transparency_is_laid_on_mid_grey():
    pixels = np.dstack([portrait(), np.zeros((130, 150), np.uint8)])
    pixels[40:80, :, 3] = 255
    pixels[80:, :, 3] = 128
    grey = Image.fromarray(pixels).convert("LA")
    palette = Image.fromarray(portrait()).quantize(8)
    for source in (pixels, Image.fromarray(pixels), encoded(Image.fromarray(pixels), "PNG")):
        image = load_image(source)
        assert (image[:40] == BACKGROUND).all()
        np.testing.assert_array_equal(image[40:80], portrait()[40:80])
        np.testing.assert_allclose(image[80:], (portrait()[80:] / 2.0 + 127 / 2.0), atol=1.5)
    assert (load_image(encoded(grey, "PNG"))[:40] == BACKGROUND).all()
    index = int(np.asarray(palette)[0, 0])
    image = load_image(encoded(palette, "PNG", transparency=index))
    transparent = np.asarray(palette) == index
    assert (image[transparent] == BACKGROUND).all()
    np.testing.assert_array_equal(image[~transparent], np.asarray(palette.convert("RGB"))[~transparent])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    pixels = portrait()
    undo = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, 1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation]))
    np.testing.assert_array_equal(load_image(encoded(stored, "PNG", exif=exif)), pixels)


def test_what_is_no_picture(tmp_path):
    (tmp_path / "notes.jpg").write_text("this is not a picture")
    (tmp_path / "empty.png").touch()
    jpeg = encoded(Image.fromarray(portrait()), "JPEG")
    png = encoded(Image.fromarray(portrait()), "PNG")
    for source, message in [
        (tmp_path / "notes.jpg", "not a picture"),
        (tmp_path / "empty.png", "not a picture"),
        (tmp_path / "missing.png", "no such file"),
        (tmp_path, "is a folder"),
        (b"", "not a picture"),
        (jpeg[: len(jpeg) // 2], "truncated"),
        (png[: len(png) // 2], "truncated"),
        (png[:200] + bytes(100) + png[300:], "damaged"),
        ("https://example.org/face.jpg", "download"),
        (None, "NoneType"),
        (portrait()[None], "not a picture"),
        (portrait()[..., :2], "not a picture"),
        (np.zeros(200, np.uint8), "not a picture"),
        (portrait() / 255.0, "0 … 255"),
        (Image.fromarray(portrait()[..., 0].astype(np.float32)), "floating-point"),
    ]:
        with pytest.raises(InvalidImageError, match=message):
            load_image(source)


def test_pictures_too_small_or_too_large():
    assert load_image(portrait(128, 128)).shape == (128, 128, 3)
    for source in (portrait(127, 500), Image.fromarray(portrait(500, 127)), encoded(Image.new("L", (9, 9)), "PNG")):
        with pytest.raises(InvalidImageError, match="at least 128"):
            load_image(source)
    too_large = Image.new("1", (7100, 7100))
    bomb = encoded(Image.new("1", (14000, 13000)), "PNG")  # beyond what PIL opens without a word
    for source in (too_large, encoded(too_large, "PNG"), bomb, np.broadcast_to(np.uint8(0), (7100, 7100, 3))):
        with pytest.raises(InvalidImageError, match="50 megapixels"):
            load_image(source)
    assert load_image(Image.new("L", (4096, 2160), 9)).shape == (2160, 4096, 3)
