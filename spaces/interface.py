"""The page: what is asked for, what is shown, and which of `rendering_jobs` a button starts."""

import functools
import html
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from example_portraits import save_examples
from growing_video import GrowingVideo, PortraitInput
from limits import (
    KEEP_SECONDS,
    MAX_FILE_BYTES,
    MAX_SECONDS,
    MAX_TEXT,
    QUEUE_SIZE,
    SWEEP_SECONDS,
    LimitError,
    check_given,
)
from rendering_jobs import Choices, Job, Step, Studio, sentence
from timeline import HEADERS, picture, to_rows

from avatarsync.errors import AvatarSyncError
from avatarsync.expression_transfer import ARTICULATIONS
from avatarsync.phonemes import espeak, voices

logger = logging.getLogger("avatarsync.demo")
STYLE = Path(__file__).parent / "style.css"
DEFAULT_TEXT = "Hello, it is good to see you. A moment ago I was only a picture."
BASE = "None: the model as it is"
OWN_VOICE = "The language's own"

HEADER = """<h1>AvatarSync</h1>
<p>A portrait and a text, or a voice, become a talking video. The lips follow phonemes, which you can see, correct and
render again.</p>"""
NOTE = """<b>Every video made here is synthetic.</b> Its file says so: title and comment of the mp4 name AvatarSync as
the maker (any player's “media information” shows them). Please leave that mark where it is. What you upload is used
for your video alone and deleted within {minutes} minutes."""
TIMELINE = """<h2>Timeline</h2>
<p>Every row is a phoneme. Change a sound or a time, and render again: only what the edit reaches is drawn.</p>"""
LEGEND = """<div class="legend"><span><i style="background:#c2416c"></i>lips shut</span>
<span><i style="background:#5b6b8c"></i>teeth, tongue</span><span><i style="background:#8352c9"></i>rounded</span>
<span><i style="background:#0f8b8d"></i>open</span>
<span><i style="background:#f5b301"></i>rendered again</span></div>"""
LOOK_AT_VIDEO = "() => { document.querySelector('#video').scrollIntoView({behavior: 'smooth', block: 'nearest'}); }"
CONSENT = "The person in the portrait (and in the recording) agreed to this video, or it is me."


def theme() -> gr.themes.Base:
    """Calm colours, and fonts that the visitor's computer has: nothing is fetched from elsewhere."""
    fonts = {"font": ["Inter", "ui-sans-serif", "system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Soft(primary_hue="teal", secondary_hue="teal", neutral_hue="slate", **fonts).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="600",
        block_title_padding="0",
        body_text_color_subdued="*neutral_500",
    )


def status(message: str, share: float | None = None, wrong: bool = False) -> str:
    bar = "" if share is None else f'<div class="bar"><i style="width:{100 * share:.0f}%"></i></div>'
    return f'<div class="card{" wrong" if wrong else ""}" role="status">{html.escape(message)}{bar}</div>'


@dataclass
class StopSign:
    """One visitor's wish to stop. The work looks at it between two steps and says itself that it has stopped: what a
    second handler wrote on the page could arrive before the work's last word, and be overwritten by it."""

    shown: bool = False

    def show(self) -> dict:
        self.shown = True
        return gr.update(value="Stopping …", interactive=False)


def told_as_sentence(handler: Callable[..., Iterator[dict]]) -> Callable[..., Iterator[dict]]:
    """What goes wrong in a handler ends as one sentence: on the page, and as gradio's message. So does a stop, by the
    `StopSign` that goes before the handler's own values."""

    def guarded(self, stop_sign: StopSign, *values):
        stop_sign.shown = False
        try:
            for shown in handler(self, *values):
                yield shown
                if stop_sign.shown and self.job not in shown:  # a finished video is worth having
                    yield {self.status: status("Stopped."), **self._idle()}
                    return
            return
        except AvatarSyncError as error:
            message = sentence(error)
        except Exception:
            logger.exception("a request failed")
            message = "Something went wrong here, not with what you gave: please try again."
        yield {self.status: status(message, wrong=True), **self._idle()}
        raise gr.Error(message, title="That did not work", print_exception=False)

    return guarded


class Demo:
    """The page of a studio; `blocks` is what gradio launches.

    Args:
        studio: what renders.
        examples: folder that the example portraits are written to.
    """

    def __init__(self, studio: Studio, examples: Path):
        self.studio = studio
        studio.warn = functools.partial(gr.Warning, title="That may not look right")
        self.reach = studio.talk.model.keyframe_generator.reach
        with gr.Blocks(
            title="AvatarSync", analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEEP_SECONDS)
        ) as self.blocks:
            gr.HTML(HEADER, elem_id="header")
            with gr.Row():
                with gr.Column(scale=5, min_width=320):
                    self._add_inputs(save_examples(examples))
                with gr.Column(scale=6, min_width=320):
                    self._add_outputs()
            self._add_timeline()
            self.job = gr.State(None, time_to_live=KEEP_SECONDS)
            self.stop_sign = gr.State(StopSign())
            self._connect()
        self.blocks.queue(max_size=QUEUE_SIZE, default_concurrency_limit=1, api_open=False)

    def _add_inputs(self, examples: list[str]) -> None:
        self.portrait = PortraitInput(
            type="filepath",
            label="Portrait",
            sources=["upload", "webcam", "clipboard"],
            height=250,
            buttons=[],
            elem_id="portrait",
        )
        gr.Examples(examples, self.portrait, label="Or try one of these", elem_id="examples")
        languages = [(f"{name} ({code})", code) for code, name in espeak.language_names().items()]
        languages.sort(key=lambda choice: (choice[1] != "en-us", choice[0]))
        self.source = gr.State("text")
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Text", id="text") as text_tab:
                self.text = gr.Textbox(
                    DEFAULT_TEXT, label="What to say", lines=3, max_lines=8, max_length=MAX_TEXT, elem_id="text"
                )
            with gr.Tab("Voice", id="voice") as voice_tab:
                self.recording = gr.Audio(
                    label=f"A recording of up to {MAX_SECONDS} seconds",
                    sources=["upload", "microphone"],
                    type="filepath",
                    buttons=[],
                    elem_id="recording",
                )
                self.transcript = gr.Textbox(
                    label="What is said (optional)",
                    info="Knowing the words makes the lips more exact.",
                    max_length=MAX_TEXT,
                    elem_id="transcript",
                )
        with gr.Row():
            self.language = gr.Dropdown(
                languages, value="en-us", label="Language", num_choices_shown=None, min_width=200, elem_id="language"
            )
            self.voice = gr.Dropdown(
                [OWN_VOICE, *voices()], value=OWN_VOICE, label="Speaker", min_width=200, elem_id="voice"
            )
        for tab, source in ((text_tab, "text"), (voice_tab, "voice")):
            tab.select(
                functools.partial(self._choose_source, source),
                None,
                [self.source, self.voice],
                api_visibility="private",
                queue=False,
                show_progress="hidden",
            )
        self.identity = gr.Dropdown(
            [BASE, *self.studio.adapters],
            value=BASE,
            label="Identity",
            info="Fine-tuned on one person: use a portrait of the same one.",
            visible=bool(self.studio.adapters),
            elem_id="identity",
        )
        with gr.Accordion("Advanced", open=False, elem_id="advanced"):
            with gr.Row():
                self.fps = gr.Slider(10, 60, 25, step=1, label="Frames per second", elem_id="fps")
                self.seed = gr.Number(0, label="Seed", info="The same seed blinks alike.", precision=0, minimum=0)
            with gr.Row():
                self.motion = gr.Radio(
                    [("A little", "subtle"), ("None", "still")], value="subtle", label="Head motion", elem_id="motion"
                )
                self.blink = gr.Checkbox(True, label="Blink", elem_id="blink")
            self.articulation = gr.Slider(
                *ARTICULATIONS, 1, step=0.05, label="Articulation", info="How far lips go.", elem_id="articulation"
            )
            past, future = self.reach or (0, 0)
            with gr.Row(visible=self.reach is not None):
                self.past = gr.Slider(
                    0, max(past, 1), past, step=1, label="Attention before", info="Phonemes that shape the mouth."
                )
                self.future = gr.Slider(
                    0, max(future, 1), future, step=1, label="Attention after", info="How far it is ahead of itself."
                )
            self.face = gr.Number(
                0,
                label="Face",
                info="Of several, by size: 0 is the largest. Empty: there is one.",
                precision=0,
                minimum=0,
            )
        self.consent = gr.Checkbox(False, label=CONSENT, elem_id="consent", container=False)
        with gr.Row():
            self.speak_button = gr.Button("Speak", variant="primary", elem_id="speak", scale=4)
            self.stop_button = gr.Button("Stop", visible=False, elem_id="stop", scale=1, min_width=90)

    def _add_outputs(self) -> None:
        self.video = GrowingVideo(
            streaming=True,
            interactive=False,
            label="Video",
            autoplay=True,
            height=430,
            buttons=[],
            elem_id="video",
        )
        self.status = gr.HTML(status("Choose a portrait, write what it says, and press Speak."), elem_id="status")
        with gr.Row():
            self.downloads = [
                gr.DownloadButton(label, interactive=False, size="md", min_width=90, elem_id=f"download-{name}")
                for label, name in (("↓ Video", "video"), ("↓ JSON", "json"), ("↓ TextGrid", "textgrid"))
            ]
        gr.HTML(NOTE.format(minutes=(KEEP_SECONDS + SWEEP_SECONDS) // 60), elem_id="note")

    def _add_timeline(self) -> None:
        with gr.Column(visible=False, elem_id="timeline") as self.timeline:
            gr.HTML(TIMELINE)
            self.picture = gr.HTML(elem_id="track")
            gr.HTML(LEGEND)
            self.table = gr.Dataframe(
                headers=list(HEADERS),
                datatype=["str", "number", "number", "str"],
                column_count=4,
                # What the row numbers leave, so that a phone shows all four.
                column_widths=[f"calc({share}% - 12px)" for share in (26, 26, 23, 25)],
                type="array",
                interactive=True,
                show_row_numbers=True,
                show_label=False,
                buttons=[],
                max_height=340,
                elem_id="table",
            )
            self.again_button = gr.Button("Render again", variant="primary", elem_id="again")

    def _connect(self) -> None:
        busy = [self.speak_button, self.again_button, self.stop_button]
        outputs = [self.status, self.video, self.job, *self.downloads, self.timeline, self.picture, self.table, *busy]
        asked = [self.portrait, self.source, self.text, self.voice, self.recording, self.transcript, self.language]
        chosen = [self.identity, self.fps, self.seed, self.blink, self.motion, self.articulation]
        chosen += [self.past, self.future, self.face]
        work = {
            "concurrency_limit": 1,
            "concurrency_id": "render",
            "show_progress": "minimal",
            "show_progress_on": [self.status],
            "api_visibility": "private",
        }
        self.speak_button.click(self.speak, [self.stop_sign, *asked, *chosen, self.consent], outputs, **work)
        self.again_button.click(self.render_again, [self.stop_sign, self.table, self.job], outputs, **work)
        for button in (self.speak_button, self.again_button):  # on a phone the video is elsewhere
            button.click(None, js=LOOK_AT_VIDEO, queue=False, api_visibility="private")
        self.stop_button.click(
            StopSign.show,
            self.stop_sign,
            self.stop_button,
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        )

    @staticmethod
    def _choose_source(source: str) -> tuple:
        return source, gr.update(visible=source == "text")  # a recording has its own speaker

    def _idle(self) -> dict:
        return {
            self.speak_button: gr.update(interactive=True),
            self.again_button: gr.update(interactive=True),
            self.stop_button: gr.update(visible=False),
        }

    def _busy(self, message: str) -> dict:
        return {
            self.status: status(message, 0.0),
            self.speak_button: gr.update(interactive=False),
            self.again_button: gr.update(interactive=False),
            self.stop_button: gr.update(value="Stop", interactive=True, visible=True),
        } | dict.fromkeys(self.downloads, gr.update(interactive=False))

    @told_as_sentence
    def speak(
        self,
        portrait,
        source,
        text,
        voice,
        recording,
        transcript,
        language,
        identity,
        fps,
        seed,
        blink,
        motion,
        articulation,
        past,
        future,
        face,
        consent,
    ) -> Iterator[dict]:
        if consent is not True:
            raise LimitError("Consent is missing: tick the box that the person agreed to this video.")
        numbers = [(self.fps, fps), (self.seed, seed), (self.articulation, articulation)]
        if self.reach is not None:
            numbers += [(self.past, past), (self.future, future)]
        for field, number in numbers:
            check_given(number, field.label, field.minimum, field.maximum)
        yield self._busy("Looking at the portrait and listening to the words")
        pixels = self.studio.read_portrait(portrait)
        if source == "voice":
            speech = self.studio.listen(recording, transcript, language)
        else:
            speech = self.studio.speak(text, language, None if voice == OWN_VOICE else voice)
        choices = Choices(
            fps=fps,
            seed=int(seed),
            blink=bool(blink),
            motion=motion,
            articulation=articulation,
            attention_window=None if self.reach is None else (int(past), int(future)),
            face_index=None if face is None else int(face),
            identity=None if identity in (None, BASE) else identity,
        )
        steps = self.studio.render(pixels, speech, choices)
        first = True
        for step in steps:
            shown = {}
            if first:  # the portrait is good: the timeline can be seen while the frames are drawn
                shown = self._shown_timeline(speech)
                first = False
            yield from self._show(step, shown)

    @told_as_sentence
    def render_again(self, rows, job: Job | None) -> Iterator[dict]:
        if job is None:
            raise LimitError("The earlier video was deleted meanwhile: press Speak again.")
        yield self._busy("Comparing the timeline with the video")
        for step in self.studio.render_again(job, rows):
            yield from self._show(step, {})

    def _shown_timeline(self, speech, changed=None) -> dict:
        return {
            self.timeline: gr.update(visible=True),
            self.picture: picture(speech.track, speech.audio, speech.sampling_rate, changed),
            self.table: to_rows(speech.track),
        }

    def _show(self, step: Step, shown: dict) -> Iterator[dict]:
        shown = {self.status: status(step.message, step.share), **shown}
        if step.piece is not None:
            shown[self.video] = step.piece
        if step.job is None:
            yield shown
            return
        # Gradio copies the files where it serves and later deletes them, before this goes on.
        with tempfile.TemporaryDirectory() as folder:
            files = step.job.save(Path(folder))
            shown[self.status] = status(step.message)
            shown |= {
                button: gr.update(value=str(file), interactive=True)
                for button, file in zip(self.downloads, files, strict=True)
            }
            yield {
                **shown,
                **self._shown_timeline(step.job.speech, step.job.changed),
                **self._idle(),
                self.job: step.job,
            }

    def launch(self, **options):
        """Serve the page; returns what `gr.Blocks.launch` does."""
        return self.blocks.launch(
            theme=theme(),
            css_paths=STYLE,
            max_file_size=MAX_FILE_BYTES,
            show_error=False,
            run_history=False,
            footer_links=["gradio"],
            **options,
        )
