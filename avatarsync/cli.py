"""The command line: `avatarsync generate | align | info | demo`.

Everything goes through the pipeline that Python users call. Bad input ends in one line on stderr and exit status 2,
Ctrl-C in 130; no half-written file is left behind. Heavy imports wait until the arguments are known to be good.
"""

import argparse
import math
import sys
from pathlib import Path

from avatarsync.errors import AvatarSyncError, InvalidArgumentError
from avatarsync.version import __version__

TRACK_SUFFIXES = (".json", ".textgrid")
SILENT_SAMPLING_RATE = 16000
DEMO_TEXT = "Hello, it is good to see you. A moment ago I was only a picture."

DESCRIPTION = """\
Make a portrait speak: a picture and a text, or a voice, become a video.

Give pictures and voices only of people who agreed to it. Every file says in its metadata that it is synthetic."""

EXAMPLES = """\
examples:
  avatarsync demo
  avatarsync generate --image face.jpg --text "Hello, it is good to see you." -o hello.mp4
  avatarsync generate --image face.jpg --audio speech.wav -o speech.mp4

avatarsync COMMAND --help explains a command."""

GENERATE_EXAMPLES = """\
examples:
  say a text, in English or another language
    avatarsync generate --image face.jpg --text "Hello." -o hello.mp4
    avatarsync generate --image face.jpg --text "你好，很高兴见到你。" --language cmn -o nihao.mp4
  follow a recording; knowing the words makes the lips more exact
    avatarsync generate --image face.jpg --audio speech.wav --transcript "what is said" -o speech.mp4
  correct the lips by hand: save the timed phonemes, edit them, render again
    avatarsync generate --image face.jpg --audio speech.wav -o speech.mp4 --save-track speech.json
    avatarsync generate --image face.jpg --audio speech.wav --track speech.json -o better.mp4"""

ALIGN_EXAMPLES = """\
examples:
  avatarsync align --audio speech.wav --transcript "what is said" -o speech.TextGrid
  avatarsync align --text "Hello." --format textgrid"""

LICENCES = (
    ("avatarsync", "Apache-2.0"),
    ("espeak-ng (speech and phonemes)", "GPL-3.0-or-later, loaded at run time from espeakng-loader"),
    ("pocketsphinx (phonemes of recordings)", "BSD-2-Clause"),
    ("FFmpeg and x264 (video files)", "LGPL-3.0-or-later and GPL-2.0-or-later, loaded at run time from PyAV"),
)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, as every other error."""

    def error(self, message: str):
        self.exit(2, f"avatarsync: error: {message} ('{self.prog} --help' lists the options)\n")


def _face_box(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a box: give x,y,width,height in pixels") from None
    return x, y, width, height


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="avatarsync",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"avatarsync {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run, summary: str, examples: str | None = None) -> argparse.ArgumentParser:
        subparser = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        subparser.set_defaults(run=run)
        return subparser

    def add_model(subparser: argparse.ArgumentParser) -> None:
        model = subparser.add_argument_group("with what")
        model.add_argument("--model", metavar="M", help="folder or Hub id of a model (default: the bundled one)")
        model.add_argument("--device", metavar="D", default="cpu", help="cpu, cuda, cuda:1, mps … (default: cpu)")

    def add_speech(subparser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
        speech = subparser.add_argument_group("what is said")
        speech.add_argument("--text", metavar="T", help="text to speak")
        speech.add_argument("--audio", metavar="A", help="recording to follow: any audio or video file")
        speech.add_argument("--transcript", metavar="T", help="what is said in the recording")
        speech.add_argument("--language", metavar="L", help="such as en-us, cmn, de, fr-fr (default: en-us)")
        speech.add_argument("--voice", metavar="V", help="speaker of the text, such as f3 or m2")
        return speech

    generate = command("generate", _generate, "make a portrait speak", GENERATE_EXAMPLES)
    generate.add_argument("--image", metavar="F", required=True, help="picture of a face, at least 128 pixels a side")
    generate.add_argument("-o", "--output", metavar="OUT.mp4", required=True, help="video to write")
    generate.add_argument("--fps", default="25", help="frames per second, 10 to 60, or 30000/1001 (default: 25)")
    generate.add_argument("--seed", type=int, default=0, help="the same seed gives the same video (default: 0)")
    generate.add_argument("--motion", default="subtle", help="of the head: subtle or still (default: subtle)")
    generate.add_argument("--no-blink", action="store_true", help="keep the eyes as they are")
    generate.add_argument("--face-box", metavar="X,Y,W,H", type=_face_box, help="where the face is, in pixels")
    generate.add_argument("--face-index", metavar="N", type=int, help="which of several faces, 0 is the largest")
    generate.add_argument("--save-track", metavar="J", help="also write the timed phonemes (.json or .TextGrid)")
    generate.add_argument("--force", action="store_true", help="replace existing files")
    speech = add_speech(generate)
    speech.add_argument("--track", metavar="J", help="timed phonemes that the lips follow (.json or .TextGrid)")
    add_model(generate)

    align = command("align", _align, "print or write the timed phonemes of a recording or a text", ALIGN_EXAMPLES)
    align.add_argument("-o", "--output", metavar="J", help="file to write, .json or .TextGrid (default: print)")
    align.add_argument("--format", choices=("json", "textgrid"), default="json", help="of what is printed")
    align.add_argument("--force", action="store_true", help="replace an existing file")
    align.set_defaults(track=None)
    add_speech(align)
    add_model(align)

    add_model(command("info", _info, "show the model, its size, the licences and the device"))

    demo = command("demo", _demo, "make the astronaut's portrait that scikit-image ships speak a sentence")
    demo.add_argument("-o", "--output", metavar="OUT.mp4", default="demo.mp4", help="(default: demo.mp4)")
    demo.add_argument("--force", action="store_true", help="replace an existing file")
    add_model(demo)
    return parser


def _check_speech_options(args: argparse.Namespace) -> None:
    sources = {"--text": args.text, "--audio": args.audio, "--track": args.track}
    given = [option for option, value in sources.items() if value is not None]
    if not given:
        raise InvalidArgumentError("nothing to say: give --text or --audio")
    if args.text is not None and len(given) > 1:
        raise InvalidArgumentError(f"--text and {given[1]} contradict each other: give one of them")
    if args.transcript is not None and given != ["--audio"]:
        raise InvalidArgumentError("--transcript says what is said in a recording: give it with --audio alone")
    if args.voice is not None and args.text is None:
        raise InvalidArgumentError("--voice is the speaker of a text: give it with --text")


def _load_pipeline(args: argparse.Namespace):
    from transformers.utils import logging

    from avatarsync import AvatarSyncPipeline

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    return AvatarSyncPipeline.from_pretrained(args.model, device=args.device)


def _make_speech(talk, args: argparse.Namespace):
    """The `Speech` of --text or --audio."""
    language = {} if args.language is None else {"language": args.language}
    if args.text is not None:
        return talk.speak(args.text, voice=args.voice, **language)
    return talk.listen(args.audio, transcript=args.transcript, **language)


def _read_speech(track_path: str, audio_path: str | None):
    """The `Speech` of --track, with the sound of --audio or silence."""
    import numpy as np

    from avatarsync.phonemes import PhonemeTrack, Speech
    from avatarsync.phonemes.audio import load_audio

    track = PhonemeTrack.load(track_path)
    if audio_path is None:
        audio, rate = np.zeros(math.ceil(track.duration * SILENT_SAMPLING_RATE), np.float32), SILENT_SAMPLING_RATE
    else:
        audio, rate = load_audio(audio_path)
    return Speech(track, audio, rate, track.language)


def _write_video(stream, path: Path, force: bool) -> None:
    from tqdm import tqdm

    from avatarsync.video import VideoWriter

    with VideoWriter(
        path, stream.fps, stream.height, stream.width, stream.audio, stream.sampling_rate, force=force
    ) as writer:
        # disable=None: no bar where stderr is not a terminal.
        for frame in tqdm(stream, total=stream.num_frames, desc=path.name, unit="frame", disable=None):
            writer.write(frame)
    seconds = float(writer.num_frames / writer.fps)
    print(f"{path}: {seconds:.2f} s, {writer.num_frames} frames of {writer.width}x{writer.height}")


def _generate(args: argparse.Namespace) -> None:
    from avatarsync.schedule import parse_frame_rate
    from avatarsync.video import check_output_path, load_image

    _check_speech_options(args)
    output = check_output_path(args.output, args.force)
    if args.save_track is not None:
        check_output_path(args.save_track, args.force, TRACK_SUFFIXES)
    fps = parse_frame_rate(args.fps)
    image = load_image(args.image)
    speech = None if args.track is None else _read_speech(args.track, args.audio)
    talk = _load_pipeline(args)
    if speech is None:
        speech = _make_speech(talk, args)
    stream = talk.stream(
        image,
        speech=speech,
        fps=fps,
        seed=args.seed,
        motion=args.motion,
        blink=not args.no_blink,
        face_box=args.face_box,
        face_index=args.face_index,
    )
    _write_video(stream, output, args.force)
    if args.save_track is not None:
        stream.track.save(args.save_track)


def _align(args: argparse.Namespace) -> None:
    from avatarsync.video import check_output_path

    _check_speech_options(args)
    if args.output is not None:
        check_output_path(args.output, args.force, TRACK_SUFFIXES)
    track = _make_speech(_load_pipeline(args), args).track
    if args.output is not None:
        track.save(args.output)
    else:
        print(track.to_textgrid() if args.format == "textgrid" else track.to_json())


def _demo(args: argparse.Namespace) -> None:
    from skimage.data import astronaut

    from avatarsync.video import check_output_path

    output = check_output_path(args.output, args.force)
    talk = _load_pipeline(args)
    _write_video(talk.stream(astronaut(), speech=talk.speak(DEMO_TEXT), seed=0), output, args.force)


def _info(args: argparse.Namespace) -> None:
    import platform

    import torch
    import transformers

    model = _load_pipeline(args).model
    print(f"avatarsync    {__version__}")
    print(f"model         {args.model or 'bundled'}")
    total = sum(parameter.numel() for parameter in model.parameters())
    print(f"parameters    {total / 1e6:.2f} M")
    for name, stage in model.named_children():
        print(f"  {name:<20}{sum(parameter.numel() for parameter in stage.parameters()) / 1e6:6.2f} M")
    print(f"device        {model.device}")
    print(f"torch         {torch.__version__}, CUDA {'available' if torch.cuda.is_available() else 'not available'}")
    print(f"transformers  {transformers.__version__}, Python {platform.python_version()}")
    print("licences")
    for name, licence in LICENCES:
        print(f"  {name}: {licence}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 after an error that the user can mend, 130 after Ctrl-C."""
    args = _build_parser().parse_args(arguments)
    try:
        args.run(args)
    except AvatarSyncError as error:
        print(f"avatarsync: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("avatarsync: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
