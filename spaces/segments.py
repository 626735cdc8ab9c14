"""Video in closed segments: each is encoded on its own, so that it can be shown before the next exists, and so that a
segment without a change is the same bytes in the next version of the video.

Nothing here knows of the web: segments go into an mp4 file to keep (`write_mp4`) and into an MPEG transport stream to
be watched while it grows (`TransportStream`). Frames are encoded once for both.
"""

import io
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from avatarsync.video import BT709, ENCODER_OPTIONS, PROVENANCE, TITLE

# The stream's own clock starts late enough for the encoder's priming, which has times before 0.
STREAM_START = 1  # seconds
AUDIO_BIT_RATE = 96_000
STREAM_AUDIO_RATE = 44_100
# The multiplexer holds pictures back until it has sound that is later.
SOUND_AHEAD = 0.1  # seconds


@dataclass(frozen=True)
class VideoFormat:
    """Size and rate of a video; all its segments share it."""

    fps: Fraction
    height: int
    width: int

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width as encoded: H.264 in yuv420p has even sides."""
        return self.height + self.height % 2, self.width + self.width % 2

    def configure(self, codec: av.VideoCodecContext) -> None:
        codec.height, codec.width = self.padded_size
        codec.pix_fmt = "yuv420p"
        codec.time_base = 1 / self.fps
        codec.framerate = self.fps
        codec.color_primaries = codec.color_trc = codec.colorspace = BT709
        codec.color_range = ColorRange.MPEG

    @property
    def encoder_options(self) -> dict[str, str]:
        # Without frames that look ahead (B), packet k is frame k; x264's lookahead is not the same in every run.
        return {**ENCODER_OPTIONS, "bf": "0", "rc-lookahead": "0"}


def encode_segment(frames: Iterable[np.ndarray], video_format: VideoFormat) -> list[bytes]:
    """H.264 packets, one a frame, the first of which needs no other, of frames `(H, W, 3) uint8`."""
    codec = av.CodecContext.create("libx264", "w")
    video_format.configure(codec)
    codec.options = {**video_format.encoder_options, "g": "9999", "sc_threshold": "0"}
    reformatter = VideoReformatter()
    packets = []
    height, width = video_format.padded_size
    for index, frame in enumerate(frames):
        padding = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
        picture = reformatter.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(np.pad(frame, padding, mode="edge")), format="rgb24"),
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        picture.pts, picture.time_base = index, 1 / video_format.fps
        packets += [bytes(packet) for packet in codec.encode(picture)]
    packets += [bytes(packet) for packet in codec.encode(None)]
    return packets


def _video_packets(stream: av.VideoStream, segment: list[bytes], first: int) -> Iterator[av.Packet]:
    """Packets of a segment whose first frame is number `first`, for a container's stream."""
    for index, data in enumerate(segment):
        packet = av.Packet(data)
        packet.stream = stream
        packet.time_base = 1 / Fraction(stream.codec_context.framerate)
        packet.pts = packet.dts = first + index
        packet.duration = 1
        packet.is_keyframe = index == 0
        yield packet


class _Sound:
    """Encodes speech `(samples,)` or `(samples, channels)` as AAC into a container, up to any time."""

    def __init__(self, container, audio: np.ndarray, sampling_rate: int, start: int = 0):
        mono = audio if audio.ndim == 1 else audio.mean(1)
        self.stream = container.add_stream("aac", rate=STREAM_AUDIO_RATE, layout="mono")
        self.stream.bit_rate = AUDIO_BIT_RATE
        self.start = start
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=STREAM_AUDIO_RATE, frame_size=1024)
        sound = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(mono[None], dtype=np.float32), format="fltp", layout="mono"
        )
        sound.sample_rate = sampling_rate
        self.frames = [*resampler.resample(sound), *resampler.resample(None)]
        self.position = 0  # samples given to the encoder

    def packets_until(self, seconds: float) -> Iterator[av.Packet]:
        while self.frames and self.position < seconds * STREAM_AUDIO_RATE:
            frame = self.frames.pop(0)
            frame.pts, frame.time_base = self.position + self.start, Fraction(1, STREAM_AUDIO_RATE)
            self.position += frame.samples
            yield from self.stream.encode(frame)

    def rest(self) -> Iterator[av.Packet]:
        yield from self.packets_until(float("inf"))
        yield from self.stream.encode(None)


class TransportStream:
    """An MPEG transport stream in pieces, one a segment: what HLS players take.

    Args:
        video_format: of all segments.
        audio, sampling_rate: the speech, float32 `(samples,)` or `(samples, channels)`.
    """

    def __init__(self, video_format: VideoFormat, audio: np.ndarray, sampling_rate: int):
        self.format = video_format
        self._buffer = io.BytesIO()
        options = {"mpegts_flags": "pat_pmt_at_frames+resend_headers", "flush_packets": "1"}
        self._container = av.open(self._buffer, "w", format="mpegts", options=options)
        self._container.metadata["service_name"] = TITLE
        self._video = self._container.add_stream(
            "libx264", rate=video_format.fps, options=video_format.encoder_options
        )
        video_format.configure(self._video.codec_context)
        self._first = round(STREAM_START * video_format.fps)  # number of the first frame on the stream's clock
        start = round(self._first / video_format.fps * STREAM_AUDIO_RATE)
        self._sound = _Sound(self._container, audio, sampling_rate, start)
        self._container.start_encoding()
        self._frames = 0
        self._taken = 0

    def append(self, segment: list[bytes], last: bool = False) -> tuple[bytes, float]:
        """The next piece of the stream, and the seconds that it lasts; with `last` the end of the sound as well."""
        first = self._first + self._frames
        self._frames += len(segment)
        seconds = float(self._frames / self.format.fps)
        packets = list(self._sound.rest() if last else self._sound.packets_until(seconds + SOUND_AHEAD))
        packets += _video_packets(self._video, segment, first)
        packets.sort(key=lambda packet: packet.dts * packet.time_base)
        for packet in packets:
            self._container.mux_one(packet)
        if last:
            self._container.close()
        data = self._buffer.getvalue()[self._taken :]
        self._taken += len(data)
        return data, float(len(segment) / self.format.fps)


def write_mp4(
    path: str | os.PathLike,
    segments: Iterable[list[bytes]],
    video_format: VideoFormat,
    audio: np.ndarray,
    sampling_rate: int,
) -> None:
    """Write segments and speech as mp4, whole or not at all; title and comment say that the video is synthetic."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            container.metadata.update({"title": TITLE, "comment": PROVENANCE})
            video = container.add_stream("libx264", rate=video_format.fps, options=video_format.encoder_options)
            video_format.configure(video.codec_context)
            sound = _Sound(container, audio, sampling_rate)
            container.start_encoding()
            frames = 0
            for segment in segments:
                for packet in _video_packets(video, segment, frames):
                    container.mux(packet)
                frames += len(segment)
                container.mux(list(sound.packets_until(frames / video_format.fps)))
            container.mux(list(sound.rest()))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
