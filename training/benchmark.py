"""How long the whole system takes, as a ratio to the video's length.

    python training/benchmark.py --threads 2

From a text to a finished mp4 with the bundled weights: speech, face alignment, keyframes, interpolation, rendering,
encoding. 1.0 is real time. Also prints where the time goes. Figures of one run on one machine; compare only those.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from skimage.data import astronaut

from avatarsync import AvatarSyncPipeline
from avatarsync.video import VideoWriter

TEXT = (
    "The quick brown fox jumps over the lazy dog, while many people watch from the big bridge. "
    "Both of them move away before five in the evening."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--image", type=Path, help="portrait (default: scikit-image's astronaut, face enlarged)")
    parser.add_argument("--size", type=int, default=512, help="side of the portrait in pixels")
    parser.add_argument("--fps", default="25")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    if args.image is None:
        # The face of a head-and-shoulders portrait, not the small one of the full picture.
        picture = Image.fromarray(astronaut()).crop((110, 0, 350, 240))
    else:
        picture = Image.open(args.image).convert("RGB")
    picture = picture.resize((args.size, args.size), Image.Resampling.LANCZOS)
    start = time.perf_counter()
    talk = AvatarSyncPipeline.from_pretrained()
    print(f"loading the model: {time.perf_counter() - start:.2f} s (once)")
    ratios = []
    for run in range(args.runs + 1):
        marks = [time.perf_counter()]
        speech = talk.speak(TEXT)
        marks.append(time.perf_counter())
        stream = talk.stream(picture, speech=speech, fps=args.fps)
        marks.append(time.perf_counter())
        encoding = 0.0
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "benchmark.mp4"
            with VideoWriter(
                output, stream.fps, stream.height, stream.width, stream.audio, stream.sampling_rate
            ) as writer:
                for frame in stream:
                    before = time.perf_counter()
                    writer.write(frame)
                    encoding += time.perf_counter() - before
                before = time.perf_counter()
            encoding += time.perf_counter() - before
        marks.append(time.perf_counter())
        seconds = stream.num_frames / float(stream.fps)
        if run == 0:
            continue  # warm-up
        speaking, preparing, drawing = (b - a for a, b in zip(marks, marks[1:], strict=False))
        ratios.append((marks[-1] - marks[0]) / seconds)
        print(
            f"run {run}: {ratios[-1]:.3f} × the video's {seconds:.2f} s  (speech {speaking:.2f} s, portrait "
            f"{preparing:.2f} s, keyframes to pixels {drawing - encoding:.2f} s, encoding {encoding:.2f} s)"
        )
    print(f"ratio to the video's length: {statistics.median(ratios):.3f}, {args.size} px, {args.threads} threads")


if __name__ == "__main__":
    main()
