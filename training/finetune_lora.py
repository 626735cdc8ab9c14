"""Make an adapter of one person: LoRA weights of at most 3 MB that give the model that person's teeth, lips and lids.

    python training/finetune_lora.py --videos FOOTAGE --out ADAPTER
    python training/finetune_lora.py --pictures PICTURES --out ADAPTER

FOOTAGE is 30 seconds to 10 minutes of one person speaking, with transcripts beside the files where there are some;
PICTURES are a handful of the same face, some with open lips. The last fifth is held out, and says by how much the
adapter is better than the base. docs/fine_tuning.md explains what is learned and how to use it.
"""

import argparse
import shutil
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

import torch
from command_line import run_script
from finetuning import adapting, footage, measure, stages
from finetuning.card import adapter_name, push_to_hub, write_card
from finetuning.faces import Faces, choose_references, load_faces, resting_face_by
from hub_uploads import check_upload, hub_name, uploading
from landmarkers import BUNDLED, open_landmarker
from motion_data import load_clips
from output_folders import check_new, check_writable, whole_folder
from PIL import Image

from avatarsync import AvatarSyncModel, AvatarSyncPipeline
from avatarsync.adapters import PersonReferences, base_digest, require_peft
from avatarsync.data import dataset
from avatarsync.data.expressions import resting_face
from avatarsync.errors import DatasetError, InvalidArgumentError, OutputError
from avatarsync.identity import load_face_embedding
from avatarsync.perceptual import load_perceptual
from avatarsync.phonemes.text import resolve_language

MAX_FOOTAGE_SECONDS = 150.0
VALIDATION_SHARE = 0.12  # of the frames that are learned from: by these it is decided when to stop
# Of what is left of --max_minutes: the painter gets the first share, keyframes this much of the rest.
PAINTER_SHARE, KEYFRAME_SHARE = 0.65, 0.5
TRAINING_DISTANCE, MEASURING_DISTANCE = "st-lpips-alexnet", "st-lpips"  # not the one that was optimised
ADAPTER_LIMIT = 3_000_000


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--videos", type=Path, nargs="+", default=[], help="folders or files: one person speaking")
    add("--pictures", type=Path, nargs="+", default=[], help="instead: folders or files with pictures of one person")
    add("--out", type=Path, required=True, help="folder of the adapter, new")
    add("--base", help="folder or Hub id of the model that it is for; default: the bundled one")
    add("--language", default="en-us", help="espeak code of what is spoken")
    add(
        "--landmarker", default=BUNDLED, help=f"MediaPipe's face_landmarker.task, or {BUNDLED}: the base's own aligner"
    )
    add("--max_minutes", type=float, default=15.0, help="time for everything; fewer steps where they do not fit")
    add("--steps", type=int, default=300, help="of the painter")
    add("--keyframe_steps", type=int, default=60)
    add("--interpolation_steps", type=int, default=120, help="of the interpolator, and of the expression decoder")
    add("--batch_size", type=int, default=16)
    add("--learning_rate", type=float, default=1e-3)
    add("--keyframe_learning_rate", type=float, default=2e-4)
    add("--interpolation_learning_rate", type=float, default=5e-4)
    add("--mixed_precision", choices=("no", "bf16", "fp16"), default="no", help="bf16: faster where a CPU has it")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0)
    add("--lpips", help="ONNX file of LPIPS to measure with, instead of " + MEASURING_DISTANCE)
    add("--work", type=Path, help="keep the prepared footage in this folder; another run on it begins there")
    add("--push_to_hub", action="store_true", help="upload the adapter when done")
    add("--hub_model_id", help="name on the Hub, such as me/avatarsync-anna; default: OUT's name")
    args = parser.parse_args(argv)
    if bool(args.videos) == bool(args.pictures):
        raise InvalidArgumentError("give footage of one person: either --videos or --pictures")
    for name in ("steps", "keyframe_steps", "interpolation_steps", "batch_size"):
        if getattr(args, name) < 1:
            raise InvalidArgumentError(f"--{name} {getattr(args, name)}: give at least 1")
    for name in ("learning_rate", "keyframe_learning_rate", "interpolation_learning_rate"):
        if not getattr(args, name) > 0:
            raise InvalidArgumentError(f"--{name} {getattr(args, name)}: give more than 0")
    if not args.max_minutes > 0:
        raise InvalidArgumentError(f"--max_minutes {args.max_minutes}: give more than 0")
    if args.landmarker != BUNDLED:
        open_landmarker(args.landmarker)  # raises before the work begins
    check_new(args.out, "--out")
    if args.work is not None:
        check_work(args.work, args.out)
    check_upload(args)
    args.language = resolve_language(args.language)
    return args


def check_work(work: Path, out: Path) -> None:
    """Make sure that nothing but footage that was prepared before is in `work`, and that both can be written.

    Raises:
        OutputError: other files are in it, or it cannot be written, or it keeps `out` from being new.
    """
    if out.resolve() in (work.resolve(), *work.resolve().parents):
        raise OutputError(f"--work {work} lies in --out {out}, which must be new: give a folder elsewhere")
    check_writable(work, "--work")
    if work.is_dir() and any(work.iterdir()):
        ours = (work / "schema.json").exists() and "footage" in dataset.read_settings(work)
        if not ours:
            raise OutputError(f"--work {work} holds other files: give a new folder, or one of an earlier --work")


def base_name(args: argparse.Namespace) -> str:
    """What the adapter says it is for: a Hub id, or the name of a folder."""
    if args.base is None:
        return "the bundled weights"
    return Path(args.base).resolve().name if Path(args.base).is_dir() else args.base


def say(text: str) -> None:
    print(text, flush=True)


def part(faces: Faces, chosen: slice) -> Faces:
    return Faces(*(getattr(faces, field.name)[chosen] for field in fields(Faces)))


def open_distance(lpips: str | None) -> tuple[str, measure.PictureDistance]:
    """What measures how alike two mouths look, and its name."""
    if lpips:
        from evaluation.lpips import Lpips, check_lpips

        check_lpips(lpips)
        network = Lpips(lpips)
        return network.name, network
    network = load_perceptual(MEASURING_DISTANCE).eval()

    @torch.no_grad()
    def distance(real, drawn) -> float:
        pair = [torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in (drawn, real)]
        return network(*pair).item()

    return network.name, distance


def learn(model: AvatarSyncModel, faces: Faces, clips: list, references: PersonReferences, until: float, args):
    """Train stage after stage; what does not pay is taken out again.

    Returns:
        What the card says of each, and the references, which know what to tell the keyframe generator.
    """
    said: dict[str, str] = {}

    def run(stage: adapting.Stage, share: float) -> None:
        now = time.monotonic()
        steps, before, after = adapting.train(model, stage, args.mixed_precision, now + share * (until - now))
        model.eval()
        if steps:
            said[stage.name] = f"{steps} steps, validation {before:.4f} → {after:.4f}"
        else:
            said[stage.name] = f"left out: the base is as good, or nearly ({before:.4f}, {after:.4f} at best)"
        say(f"  {stage.name}: {said[stage.name]}")

    count = int(len(faces) * (1 - VALIDATION_SHARE))
    perceptual = load_perceptual(TRAINING_DISTANCE).to(model.device).eval()
    learned, judged = part(faces, slice(0, count)), part(faces, slice(count, None))
    speaking = len(clips) >= stages.MIN_CLIPS
    run(stages.painter_stage(model, learned, judged, perceptual, args), PAINTER_SHARE if speaking else 1.0)
    if not speaking:
        for name in (adapting.KEYFRAMES, adapting.INTERPOLATION, adapting.LIPS):
            adapting.take_out(model, name)
        say("  how the lips move stays the base's: there is too little speech to learn from")
        return said, references
    codes = references.codes(model.visual_tokenizer).cpu()
    run(stages.keyframe_stage(model, clips, codes, args), KEYFRAME_SHARE)
    references = replace(references, speaking=stages.choose_speaking_reference(model, clips, codes))
    told = torch.stack([clip.told for clip in clips])
    if references.speaking is not None:
        told = codes[references.speaking][None]
    for stage, share in zip(stages.frame_stages(model, clips, told, args), (0.5, 1.0), strict=True):
        run(stage, share)
    return said, references


def save(model: AvatarSyncModel, references: PersonReferences, sheet: Image.Image, card: str, args) -> int:
    """Write --out, whole or not at all; returns its bytes."""
    model.peft_config[adapting.ADAPTER].base_model_name_or_path = base_name(args)
    with whole_folder(args.out) as partial:
        model.save_pretrained(partial)
        references.save(partial)
        sheet.save(partial / "comparison.png")
        (partial / "README.md").write_text(card, encoding="utf-8")
        for file in partial.iterdir():
            file.chmod(0o644)
        size = sum(file.stat().st_size for file in partial.iterdir())
        if size > ADAPTER_LIMIT:
            raise OutputError(f"the adapter has {size / 1e6:.1f} MB, more than {ADAPTER_LIMIT / 1e6:.0f}")
    return size


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    require_peft()
    begun = time.monotonic()
    distance_name, distance = open_distance(args.lpips)
    sources = footage.find_videos(args.videos, args.language) if args.videos else footage.find_pictures(args.pictures)
    seconds, unreadable = None, []
    if args.videos:
        sources, seconds, unreadable = footage.readable(sources)
    embedding = load_face_embedding().eval()

    pipeline = AvatarSyncPipeline.from_pretrained(args.base, device=args.device)
    model = pipeline.model
    digest, base = base_digest(model), base_name(args)
    say(f"base: {base} ({digest}); looking whether the footage shows one person")
    footage.check_person(footage.sample_frames(sources, seconds), model.face_aligner, embedding)

    scratch = Path(tempfile.mkdtemp(prefix="avatarsync-")) if args.work is None else args.work
    try:
        crop_size = model.config.visual_tokenizer_config.crop_size
        film = footage.prepare(
            sources, seconds, model.face_aligner, args.landmarker, crop_size, MAX_FOOTAGE_SECONDS, scratch
        )
        for line in unreadable + film.left_out:
            say(f"  left out: {line}")
        resting = resting_face(film.rows.all_landmarks())
        faces = load_faces(film.rows, resting, model.visual_tokenizer)
        references = choose_references(faces, resting, digest, base)
        held = load_faces(film.held_out, resting, model.visual_tokenizer, references.pixels[0])
        clips, held_clips = ([], [])
        if args.videos:
            clips, held_clips = (speech_of(model, rows, name, scratch) for rows, name in
                                 ((film.rows, "train"), (film.held_out, "test")))  # fmt: skip
        say(f"{len(faces)} frames to learn from, {len(held)} held out; prepared in {time.monotonic() - begun:.0f} s")
        cases = measure.cases_of(held, held_clips, references)
        measuring = time.monotonic()
        before = measure.measure(model, held, cases, None, distance, embedding)
        # What is left, less another measurement.
        measuring, limit = time.monotonic() - measuring, 60 * args.max_minutes
        until = begun + max(limit - measuring, 0.5 * limit)

        adapting.add_lora(model, args.seed)
        said, references = learn(model, faces, clips, references, until, args)
        if not adapting.lora_parameters(model):
            raise DatasetError("nothing was learned that the base does not know: give more footage, or more --steps")
        after = measure.measure(model, held, cases, references, distance, embedding)
        minutes = (time.monotonic() - begun) / 60
        lines = list(measure.table(before.figures, after.figures))
        say("held out, base → adapted:\n" + "\n".join(f"  {line}" for line in lines))

        made_for = f"{base} (digest `{digest}`)"
        card = write_card(adapter_name(args), made_for, film, len(faces), said, lines, distance_name, minutes, args)
        if args.landmarker != BUNDLED:
            resting = resting_face_by(model.face_aligner, film.rows, crop_size)
            references = replace(references, resting_landmarks=resting)
        size = save(model, references, measure.sheet(held, cases, before, after), card, args)
    finally:
        if args.work is None:
            shutil.rmtree(scratch, ignore_errors=True)
    say(f"{args.out}: {size / 1e6:.2f} MB, {minutes:.1f} minutes; look at {args.out / 'comparison.png'}")
    if args.push_to_hub:
        with uploading(args):
            name = push_to_hub(args.out, hub_name(args))
        say(f"uploaded: {name}")


def speech_of(model: AvatarSyncModel, rows, name: str, folder: Path) -> list:
    """The clips of some rows in which something is said."""
    try:
        return load_clips(model.visual_tokenizer, rows, name, folder)
    except DatasetError:
        return []


if __name__ == "__main__":
    run_script(main)
