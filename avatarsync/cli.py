"""The command line: `avatarsync generate | align | evaluate | info | demo`.

Everything goes through the pipeline that Python users call. Bad input ends in one line on stderr and exit status 2,
Ctrl-C in 130, SIGTERM in 143; no half-written file is left behind.
"""

import argparse
import contextlib
import math
import os
import re
import signal
import sys
import threading
import warnings
from pathlib import Path

from avatarsync.errors import AvatarSyncError, AvatarSyncWarning, InvalidArgumentError
from avatarsync.version import __version__

TRACK_SUFFIXES = (".json", ".textgrid")
SILENT_SAMPLING_RATE = 16000
DEMO_TEXT = "Hello, it is good to see you. A moment ago I was only a picture."

DESCRIPTION = """\
Make a portrait speak: a picture and a text, or a voice, become a video.

Give pictures and voices only of people who agreed to it. Every video says in its metadata that it is synthetic."""

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

EVALUATE_EXAMPLES = """\
clips are found by name: NAME.mp4, the real video; beside it, where they exist, NAME.wav (else the video's own sound),
NAME.png (the portrait, else the first frame), NAME.txt (what is said), NAME.json or NAME.TextGrid (timed phonemes)

examples:
  let the model say what real people said, from one frame of them, and compare
    avatarsync evaluate clips -o report --plots
  the same, beside what two other systems made of these clips (hallo/NAME.mp4, echomimic/NAME.mp4)
    avatarsync evaluate clips -o report --against hallo echomimic
  compare videos that were generated already: pairs/generated/NAME.mp4 with pairs/real/NAME.mp4
    avatarsync evaluate pairs -o report
  the published networks (docs/feature_networks.md says how their files are converted)
    avatarsync evaluate clips -o report --lpips lpips_squeezenet.safetensors --fid inception:fid.safetensors \\
      --fvd i3d:i3d.safetensors --sync syncnet:syncnet_v2.safetensors --identity arcface:arcface_r50.safetensors"""

LICENCES = (
    ("avatarsync", "Apache-2.0"),
    ("espeak-ng (speech and phonemes)", "GPL-3.0-or-later, loaded at run time from espeakng-loader"),
    ("pocketsphinx (phonemes of recordings)", "BSD-2-Clause"),
    ("FFmpeg and x264 (video files)", "LGPL-3.0-or-later and GPL-2.0-or-later, loaded at run time from PyAV"),
)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, as every other error."""

    def error(self, message: str):
        if found := re.match("argument (--text|--transcript): expected one argument", message):
            message += f": what begins with a dash is written with an equals sign, {found.group(1)}=-Hello"
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
    generate.add_argument(
        "--articulation", metavar="X", type=float, default=1.0, help="how far lips go, 0.25 to 2 (default: 1)"
    )
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

    evaluate = command(
        "evaluate", _evaluate, "measure a model, or generated videos, against real ones", EVALUATE_EXAMPLES
    )
    evaluate.add_argument("folder", metavar="FOLDER", help="clips, or pairs in subfolders real and generated")
    evaluate.add_argument("-o", "--output", metavar="OUT", required=True, help="new folder for the report")
    evaluate.add_argument("--against", metavar="DIR", nargs="+", default=[], help="other systems' videos of the clips")
    evaluate.add_argument("--limit", metavar="N", type=int, help="at most so many clips, the first by name")
    evaluate.add_argument("--language", metavar="L", default="en-us", help="of the transcripts (default: en-us)")
    evaluate.add_argument("--plots", action="store_true", help="draw the opening of the lips, generated over real")
    networks = evaluate.add_argument_group("what looks at them (none: not measured)")
    networks.add_argument(
        "--lpips", metavar="N", default="st-lpips-alexnet", help="st-lpips-alexnet, st-lpips or the path of LPIPS v0.1"
    )
    networks.add_argument("--fid", metavar="N", default="st-lpips-alexnet", help="inception:PATH, or names as --lpips")
    networks.add_argument("--fvd", metavar="N", default="st-lpips-alexnet", help="i3d:PATH, or names as --lpips")
    networks.add_argument("--sync", metavar="N", default="expert", help="syncnet:PATH, expert or expert:FOLDER")
    networks.add_argument(
        "--identity",
        metavar="N",
        default="dlib",
        help="dlib, arcface:PATH, facenet:PATH, facenet512:PATH, vgg-face:PATH",
    )
    add_model(evaluate)

    info = command("info", _info, "show the model, its size, the licences and the device")
    info.add_argument("--languages", action="store_true", help="list the languages of --language instead")
    info.add_argument("--voices", action="store_true", help="list the voices of --voice instead")
    add_model(info)

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
    if args.track is not None and args.language is not None:
        raise InvalidArgumentError(
            "--language belongs to --text or --audio: a track already has its phonemes, leave it out"
        )


def _silence_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _load_pipeline(args: argparse.Namespace):
    from avatarsync import AvatarSyncPipeline

    _silence_transformers()
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
    from avatarsync.pipelines.talking_head import check_options
    from avatarsync.schedule import parse_frame_rate
    from avatarsync.video import check_output_path, load_image

    _check_speech_options(args)
    output = check_output_path(args.output, args.force)
    if args.save_track is not None:
        check_output_path(args.save_track, args.force, TRACK_SUFFIXES)
    fps = parse_frame_rate(args.fps)
    check_options(seed=args.seed, motion=args.motion, articulation=args.articulation)
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
        articulation=args.articulation,
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
        print(f"{args.output}: {len(track)} phonemes, {track.duration:.2f} s")
    else:
        print(track.to_textgrid() if args.format == "textgrid" else track.to_json())


def _evaluate(args: argparse.Namespace) -> None:
    from avatarsync.evaluation import Networks, evaluate, find_material
    from avatarsync.evaluation.material import check_new_folder
    from avatarsync.evaluation.report import check_plots
    from avatarsync.phonemes.text import resolve_language

    output = check_new_folder(args.output)
    material = find_material(args.folder, args.against, args.limit, need_sound=args.sync != "none")
    if args.model is not None and not material.generate:
        raise InvalidArgumentError("pairs are compared as they are: leave out --model")
    resolve_language(args.language)
    if args.plots:
        check_plots()
    _silence_transformers()
    networks = Networks.load(args.lpips, args.fid, args.fvd, args.sync, args.identity)
    talk = _load_pipeline(args) if material.generate else None
    report = evaluate(material, output, networks, talk, args.language, args.plots, args.device)
    print(report)
    print(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")


def _demo(args: argparse.Namespace) -> None:
    from skimage.data import astronaut

    from avatarsync.video import check_output_path

    output = check_output_path(args.output, args.force)
    talk = _load_pipeline(args)
    _write_video(talk.stream(astronaut(), speech=talk.speak(DEMO_TEXT), seed=0), output, args.force)


def _info(args: argparse.Namespace) -> None:
    import platform

    from avatarsync.phonemes import languages, voices

    if args.languages or args.voices:
        print("\n".join(languages() * args.languages + voices() * args.voices))
        return

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


def _in_options(message: str, args: argparse.Namespace) -> str:
    """A message in one line, with the names of Python's arguments as options."""

    def option(found: re.Match) -> str:
        name, values = found.groups()
        return f"--{name}".replace("_", "-") + (f" {values.replace(' ', '')}" if values else "")

    # `face_index=` and `face_box=(x, y)`, but not within a path, which may look like that.
    names = "|".join(vars(args))
    message = re.sub(rf"(?<![^\s(])({names})=(?:\(([^)]*)\)|(?=[\s,;:.)]|$))", option, message)
    return " ".join(message.split())


def _end(signal_number: int, frame) -> None:
    """End by an exception, so that what is half written is removed."""
    sys.exit(128 + signal_number)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 after an error that the user can mend, 130 after Ctrl-C, 141
    where nobody reads on."""
    for stream in (sys.stdout, sys.stderr):
        # Phonemes are no ASCII: files get UTF-8, whatever the locale, and terminals what they can show.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", **({} if stream.isatty() else {"encoding": "utf-8"}))
    main_thread = threading.current_thread() is threading.main_thread()
    mindful = main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if mindful:
        signal.signal(signal.SIGTERM, _end)
    try:
        status = _run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Python would complain once more when it closes the stream.
        with contextlib.suppress(AttributeError, OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 128 + 13
    finally:
        if mindful:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run(arguments: list[str] | None) -> int:
    args = _build_parser().parse_args(arguments)
    show_others = warnings.showwarning

    def show(message, category, *where) -> None:
        if issubclass(category, AvatarSyncWarning):
            print(f"avatarsync: warning: {_in_options(str(message), args)}", file=sys.stderr)
        else:
            show_others(message, category, *where)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", AvatarSyncWarning)
            warnings.showwarning = show
            args.run(args)
    except AvatarSyncError as error:
        print(f"avatarsync: error: {_in_options(str(error), args)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("avatarsync: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
