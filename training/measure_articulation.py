"""Measure how lips form what is said, phoneme by phoneme, in words that the training corpus does not have.

    python training/measure_articulation.py [--image face.jpg] [--text TEXT --language LANGUAGE] [--model FOLDER]

A portrait's landmarks say sentences; nothing is drawn. Prints a Markdown table of visual units: how far the lips are
apart, in percent of the crop's side, how wide the mouth is, in percent of its width at rest, and the phonemes with the
least gaps, each between its neighbours. Lips are looked at 20 ms before a phoneme's centre, since they are 40 ms
early, and at the centre itself of closures, which are not.

What clips of the corpus cannot show is found here: a vowel that is said with shut lips, a /u/ that is not narrow.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from command_line import run_script
from skimage.data import astronaut
from tqdm import tqdm

from avatarsync import AvatarSyncPipeline
from avatarsync.articulators import articulators_at
from avatarsync.lip_edges import lip_gaps, mouth_width
from avatarsync.phonemes import Speech
from avatarsync.processing_avatarsync import BILABIAL
from avatarsync.rendering import FaceRenderer
from avatarsync.schedule import LIP_LEAD
from avatarsync.video import load_image

SENTENCES = {
    "en-us": (
        "Mum, my mother bought a big map of Paris.",
        "Papa and Pam have a black cat and a fat dog.",
        "The bird will come up and work early, father.",
        "She sells sea shells, but the judge measured the sausage.",
        "Think of this thing: five leaves fell over the valley.",
        "Who knew the moon would move so soon? Go home, Joe.",
        "Yes, we want one wise woman, and you enjoy the noise.",
        "They say ten red roses rarely grow there. Now look!",
    ),
    "cmn": ("妈妈骂马吗？", "爸爸跑步，妈妈买苹果。", "绿色的鱼在水里游。", "请把这个杯子放在桌子上。"),
    "fr-fr": ("Maman mange une pomme dans le jardin.", "Une lune brune brûle peu.", "Papa parle beaucoup trop fort."),
}
FPS = 50
NUM_LEAST = 3


@dataclass
class Lips:
    """Lips while one phoneme is said: gap in percent of the crop's side, width in percent of its width at rest."""

    context: str
    gap: float
    width: float


def lips_by_unit(talk: AvatarSyncPipeline, portrait: np.ndarray, speech: Speech) -> dict[str, list[Lips]]:
    """Of each visual unit the lips of its phonemes.

    Args:
        portrait: `(H, W, 3) uint8`.
    """
    model, mapping = talk.model, talk.processor.mapping
    schedule = talk.processor(speech, FPS)
    alignment = model.face_aligner.align(portrait)
    renderer = FaceRenderer(model.visual_tokenizer, portrait, alignment, model.config.crop_strategy, prepare=False)
    times = schedule.frames.times()
    codes = model.generate_codes(
        schedule.unit_ids,
        schedule.durations,
        schedule.keyframe_times,
        times,
        talk.personalise(renderer.reference),
    )
    codes = torch.cat(list(codes))
    renderer.reference = talk.personalise(model.at_rest(renderer.reference, schedule.silent_unit))
    articulators = articulators_at(times, schedule.keyframe_times, schedule.articulators)
    landmarks = renderer.landmarks(codes, torch.from_numpy(articulators))
    gaps, widths = 100 * lip_gaps(landmarks)[:, 4].numpy(), mouth_width(landmarks).numpy()
    widths = 100 * widths / widths[0]
    symbols = ["", *(phoneme.symbol for phoneme in speech.track), ""]
    found = defaultdict(list)
    for index, phoneme in enumerate(speech.track):
        unit = mapping.unit(phoneme.symbol)
        moment = (phoneme.start + phoneme.end) / 2 - (0 if unit == mapping.unit(BILABIAL) else LIP_LEAD / 2)
        context = "{} [{}] {}".format(*symbols[index : index + 3]).strip()
        gap, width = (float(np.interp(moment, times, curve)) for curve in (gaps, widths))
        found[unit].append(Lips(context, gap, width))
    return found


def table(found: dict[str, list[Lips]], units: tuple[str, ...]) -> str:
    """Markdown, a row for each unit that was said, in the order of `units`."""
    lines = ["| unit | cases | gap, % | width, % | least gaps |", "|---|---|---|---|---|"]
    for unit in units:
        lips = sorted(found.get(unit, []), key=lambda one: one.gap)
        if lips:
            gap, width = (np.mean([getattr(one, name) for one in lips]) for name in ("gap", "width"))
            least = ", ".join(f"{one.context} {one.gap:.1f}" for one in lips[:NUM_LEAST])
            lines.append(f"| {unit} | {len(lips)} | {gap:.1f} | {width:.0f} | {least} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image", type=Path, help="portrait (default: scikit-image's astronaut)")
    parser.add_argument("--text", help="what is said (default: sentences in three languages)")
    parser.add_argument("--language", default="en-us", help="of the text")
    parser.add_argument("--model", help="folder of a model (default: the bundled one)")
    args = parser.parse_args(arguments)
    portrait = astronaut() if args.image is None else load_image(args.image)
    talk = AvatarSyncPipeline.from_pretrained(args.model)
    sentences = SENTENCES if args.text is None else {args.language: (args.text,)}
    said = [(language, text) for language, texts in sentences.items() for text in texts]
    found: dict[str, list[Lips]] = defaultdict(list)
    for language, text in tqdm(said, desc="sentences", disable=None):
        for unit, lips in lips_by_unit(talk, portrait, talk.speak(text, language)).items():
            found[unit] += lips
    print(table(found, talk.processor.mapping.units))


if __name__ == "__main__":
    run_script(main)
