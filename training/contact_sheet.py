"""Frames of a generated video on one picture, with the visual unit and the phoneme that is spoken under each, and for
Mandarin the syllable in pinyin (the paper's Figure 6).

    python training/contact_sheet.py --text "Hello, it is good to see you." --out sheet.png
    python training/contact_sheet.py --image face.jpg --text "你好" --language cmn --out sheet.png

To be looked at after every training run and every change to rendering.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pinyin_syllables import pinyin_of
from skimage.data import astronaut

from avatarsync import AvatarSyncPipeline
from avatarsync.image_processing_face import pose_driven_matrix, warp_image
from avatarsync.video import load_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image", type=Path, nargs="*", help="portraits (default: scikit-image's astronaut)")
    parser.add_argument("--text", default="Hello, it is good to see you.")
    parser.add_argument("--language", default="en-us")
    parser.add_argument("--model", help="folder of a model (default: the bundled one)")
    parser.add_argument("--tile", type=int, default=160)
    parser.add_argument("--columns", type=int, default=12)
    parser.add_argument("--whole", action="store_true", help="show whole pictures, not the face alone")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    talk = AvatarSyncPipeline.from_pretrained(args.model)
    mapping = talk.processor.mapping
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 11)  # has IPA
    speech = talk.speak(args.text, args.language)
    labels = [f"{mapping.unit(phoneme.symbol)}  {phoneme.symbol}" for phoneme in speech.track]
    if args.language == "cmn":
        syllables = pinyin_of(args.text, speech.track)
        labels = [f"{label}  {syllable}" for label, syllable in zip(labels, syllables, strict=True)]
    rows = []
    for portrait in [load_image(path) for path in args.image] if args.image else [astronaut()]:
        matrix = pose_driven_matrix(talk.model.face_aligner.align(portrait).landmarks, args.tile)
        frames = list(talk.stream(portrait, speech=speech, motion="still", blink=False))
        tiles = []
        for phoneme, label in zip(speech.track, labels, strict=True):
            frame = frames[min(len(frames) - 1, round((phoneme.start + phoneme.end) / 2 * 25))]
            if args.whole:
                tile = Image.fromarray(frame)
                tile = tile.resize((args.tile, round(args.tile * tile.height / tile.width)), Image.Resampling.LANCZOS)
            else:
                tile = Image.fromarray(warp_image(frame, matrix, args.tile))
            labelled = Image.new("RGB", (tile.width, tile.height + 16), "white")
            labelled.paste(tile, (0, 0))
            ImageDraw.Draw(labelled).text((4, tile.height + 1), label, font=font, fill="black")
            tiles.append(np.array(labelled))
        blank = np.full_like(tiles[0], 255)
        while len(tiles) % args.columns:
            tiles.append(blank)
        rows += [np.concatenate(tiles[i : i + args.columns], 1) for i in range(0, len(tiles), args.columns)]
    Image.fromarray(np.concatenate(rows)).save(args.out)
    print(f"{args.out}: {len(rows)} rows of {args.columns}")


if __name__ == "__main__":
    main()
