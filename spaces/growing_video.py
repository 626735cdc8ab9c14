"""Gradio components that the demo adds something to. (Their constructors stay gradio's, which reads the signature.)"""

import tempfile
from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData


class GrowingVideo(gr.Video):
    """A video that plays while it is made: use it with `streaming=True`.

    Handlers yield pieces `(bytes, seconds)` of one MPEG transport stream, which browsers get as they are. Gradio's own
    streaming takes files, and needs the programs ffmpeg and ffprobe to join them.
    """

    is_template = True  # the page's part is gr.Video's

    async def stream_output(self, value: tuple[bytes, float] | None, output_id: str, first_chunk: bool):
        name = {"path": output_id, "is_stream": True, "orig_name": "avatarsync.mp4"}
        name["meta"] = {"_type": "gradio.FileData"}
        if value is None:
            return None, name
        data, seconds = value
        return {"data": data, "duration": seconds, "extension": ".ts"}, name

    async def flush_stream_output(self, output_id: str) -> None:
        return None

    def end_stream_output(self, output_id: str) -> None:
        pass

    async def combine_stream(self, stream: list[bytes], desired_output_format: str | None = None, only_file=False):
        with tempfile.NamedTemporaryFile(delete=False, suffix=".ts", dir=self.GRADIO_CACHE) as file:
            file.write(b"".join(stream))
        self.temp_files.add(file.name)
        return FileData(path=file.name, orig_name="avatarsync.ts")


class PortraitInput(gr.Image):
    """A picture as its file, which nothing has tried to read yet: whether it can be read is for the demo to say.

    Use it with `type="filepath"`."""

    is_template = True

    def preprocess(self, payload) -> str | None:
        return None if payload is None or payload.path is None else str(Path(payload.path))
