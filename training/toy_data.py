"""Draw a toy training set: two speakers with a few short sentences each, and some portraits.

    python training/toy_data.py OUT

The speakers are scikit-image's astronaut and somebody made of her by squeezing, mirroring and dyeing; the bundled
weights make them speak with two voices of espeak-ng. For tests and for trying the scripts out: nothing can be learned
from it. Writes OUT/videos/SPEAKER/CLIP.mp4 with the words beside it in CLIP.txt, and OUT/portraits/NAME.png.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from skimage.data import astronaut

from avatarsync import AvatarSyncPipeline

SENTENCES = ("Bob may go.", "We map a farm.", "Mama, hello.", "Two blue apples.")
VOICES = {"anna": "en-us", "bert": "en-gb"}
SIZE = 200  # side of the pictures: small, to be quick


def face() -> Image.Image:
    """The astronaut's head and shoulders."""
    return Image.fromarray(astronaut()[0:256, 96:352]).resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def somebody_else(picture: Image.Image, squeeze: float = 0.88, hue: int = 12) -> Image.Image:
    """Another face of the same one: narrower, mirrored, of another colour."""
    narrow = ImageOps.mirror(picture).resize((round(SIZE * squeeze), SIZE), Image.Resampling.LANCZOS)
    padded = ImageOps.pad(narrow, (SIZE, SIZE), color=(90, 100, 110))
    channels = list(padded.convert("HSV").split())
    channels[0] = channels[0].point(lambda value: (value + hue) % 256)
    return Image.merge("HSV", channels).convert("RGB")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=len(SENTENCES), help="of each speaker")
    args = parser.parse_args(argv)

    talk = AvatarSyncPipeline.from_pretrained()
    for speaker, picture in {"anna": face(), "bert": somebody_else(face())}.items():
        folder = args.out / "videos" / speaker
        folder.mkdir(parents=True, exist_ok=True)
        for index, sentence in enumerate(SENTENCES[: args.clips]):
            if not (folder / f"clip{index}.mp4").exists():
                video = talk(np.asarray(picture), text=sentence, language=VOICES[speaker], seed=index)
                video.save(folder / f"clip{index}.mp4")
            (folder / f"clip{index}.txt").write_text(sentence + "\n")
    folder = args.out / "portraits"
    folder.mkdir(parents=True, exist_ok=True)
    for index, hue in enumerate((0, 10, 25, 240)):
        somebody_else(face(), squeeze=0.85 + 0.05 * index, hue=hue).save(folder / f"portrait{index}.png")


if __name__ == "__main__":
    main()
