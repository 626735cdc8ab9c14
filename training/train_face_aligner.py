"""Train `FaceAlignerModel`: distil MediaPipe's landmarks into a small detector and a small landmark regressor.

    python training/train_face_aligner.py --labels LABELS --portraits DIR [DIR ...] --videos DIR [DIR ...] --out OUT \\
        --head detector --max_minutes 12
    python training/train_face_aligner.py … --head landmarks --max_minutes 30

LABELS is what `prepare_data.py` wrote from the same folders. OUT is a checkpoint for `FaceAlignerModel` (the moving
average of the weights), rewritten every two minutes; training starts from it when it exists. OUT/detector.pt and
OUT/landmarker.pt hold a run's state: with `--resume` an interrupted run goes on where it stopped. `--max_minutes 0`
only measures.

Prints held-out figures (every 25th portrait, the last 40 clips; faces of at least 64 pixels): how often the face is
found, the mean landmark error in % of the eye distance over all points, lips and eyelids, and the time taken.
Writes OUT/held_out.png: the six worst portraits first, then others, then video frames. bf16 autocast is worth 1.7× on
CPUs with AVX512-BF16; elsewhere say `--no-bf16`.
"""

import argparse
import copy
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from face_aligner_data import (
    HELD_OUT_FACELESS,
    FaceSampler,
    error_in_eye_distances,
    faceless_picture,
    load_faces,
    read_frames,
    read_labels,
    split_clips,
    split_portraits,
)
from PIL import Image, ImageDraw
from tqdm import tqdm

from avatarsync.configuration_avatarsync import FaceAlignerConfig
from avatarsync.errors import FaceNotFoundError, FaceTooSmallError, MultipleFacesError
from avatarsync.face_mesh import INNER_LIPS, LEFT_EYE_CONTOUR, OUTER_LIPS, RIGHT_EYE_CONTOUR
from avatarsync.image_processing_face import (
    landmark_box,
    overlap,
    pose_driven_matrix,
    transform_points,
    warp_image,
    widen_matrix,
)
from avatarsync.modeling_face_aligner import MIN_FACE_WIDTH, FaceAlignerModel

CHECKPOINT_MINUTES = 2
EMA_DECAY = 0.998
REGIONS = {
    "all": list(range(468)),
    "lips": list(OUTER_LIPS + INNER_LIPS),
    "eyelids": list(RIGHT_EYE_CONTOUR + LEFT_EYE_CONTOUR),
}


def train_head(model: FaceAlignerModel, averaged: FaceAlignerModel, sampler: FaceSampler, args) -> None:
    """Train `model.detector` or `model.landmarker` until `args.max_minutes`; `averaged` takes its moving average."""
    name = "detector" if args.head == "detector" else "landmarker"
    head, averaged_head = getattr(model, name), getattr(averaged, name)
    optimizer = torch.optim.AdamW(head.parameters(), lr=args.learning_rate, weight_decay=0.01)
    state_path, elapsed, step = args.out / f"{name}.pt", 0.0, 0
    if args.resume and state_path.exists():
        state = torch.load(state_path, weights_only=True)
        head.load_state_dict(state["head"])
        averaged_head.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        elapsed, step = state["elapsed"], state["step"]

    def save() -> None:
        state = {"head": head.state_dict(), "averaged": averaged_head.state_dict(), "elapsed": elapsed, "step": step}
        torch.save(state | {"optimizer": optimizer.state_dict()}, state_path.with_suffix(".part"))
        os.replace(state_path.with_suffix(".part"), state_path)
        averaged.save_pretrained(args.out)

    model.train()
    running, last, saved = None, time.monotonic(), elapsed
    while elapsed < args.max_minutes * 60:
        for group in optimizer.param_groups:
            warm_up = min(1.0, (step + 1) / 200)
            progress = elapsed / (args.max_minutes * 60)
            group["lr"] = args.learning_rate * warm_up * (0.5 + 0.5 * math.cos(math.pi * progress))
        if name == "detector":
            batch = sampler.detector_batch(args.batch_size, model.config.detector_size)
        else:
            batch = sampler.landmark_batch(args.batch_size, model.config.landmark_size)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            output = model(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 5.0)
        optimizer.step()
        step += 1
        # A short memory at first, or the average would still be mostly the start.
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, value in zip(averaged_head.state_dict().values(), head.state_dict().values(), strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)
        losses = {
            key: float(output[key].detach())
            for key in ("detector_loss", "landmark_loss", "presence_loss")
            if key in output
        }
        running = losses if running is None else {key: 0.98 * running[key] + 0.02 * losses[key] for key in losses}
        now = time.monotonic()
        elapsed, last = elapsed + now - last, now
        if step % 100 == 0:
            shown = "  ".join(f"{key} {value:.4f}" for key, value in running.items())
            print(f"{name} step {step}  {elapsed / 60:.1f} min  {shown}", flush=True)
        if elapsed - saved > CHECKPOINT_MINUTES * 60:
            save()
            saved = elapsed
    save()


def align_or_none(model: FaceAlignerModel, image: np.ndarray):
    """The largest face, and how many milliseconds it took to find and align it."""
    start = time.perf_counter()
    try:
        face = model.align(image)
    except MultipleFacesError:
        face = model.align(image, face_index=0)
    except (FaceNotFoundError, FaceTooSmallError):
        face = None
    return face, (time.perf_counter() - start) * 1000


def draw_face(image: np.ndarray, landmarks: np.ndarray, size: int = 360) -> np.ndarray:
    """A crop with landmarks drawn on it, lips and eyelids in red."""
    matrix = widen_matrix(pose_driven_matrix(landmarks, size), size, 1.25)
    crop = Image.fromarray(warp_image(image, matrix, size))
    pen = ImageDraw.Draw(crop)
    marked = set(REGIONS["lips"] + REGIONS["eyelids"])
    for index, point in enumerate(transform_points(landmarks, matrix).tolist()):
        x, y = point
        radius, colour = (1, (255, 40, 40)) if index in marked else (0.5, (80, 255, 80))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(crop)


def evaluate(model: FaceAlignerModel, args: argparse.Namespace) -> None:
    """Print detection rate, landmark errors and time on pictures that training never saw; draw some of them."""
    examples: dict[str, list] = {"portraits": [], "video frames": []}
    for path in split_portraits(args.portraits)[1]:
        label = args.labels / "portraits" / f"{path.stem}.npz"
        if label.exists():
            examples["portraits"].append((np.array(Image.open(path).convert("RGB")), read_labels(label)[0]))
    for path in split_clips(args.videos)[1]:
        label = args.labels / "clips" / f"{path.stem}.npz"
        if label.exists():
            landmarks = read_labels(label)
            chosen = np.linspace(0, len(landmarks) - 1, 5)[1:-1].round().astype(int)
            examples["video frames"] += zip(read_frames(path, chosen), landmarks[chosen], strict=True)

    sheet = []
    for kind, pairs in examples.items():
        # Smaller ones are refused on purpose.
        pairs = [pair for pair in pairs if landmark_box(pair[1])[2] >= MIN_FACE_WIDTH]
        errors, times = [], []
        for image, labels in tqdm(pairs, desc=kind, disable=None):
            face, milliseconds = align_or_none(model, image)
            times.append(milliseconds)
            if face is not None and overlap(face.box, landmark_box(labels)) > 0.5:
                errors.append(error_in_eye_distances(face.landmarks, labels))
                sheet.append((errors[-1].mean(), kind, draw_face(image, face.landmarks)))
        print(f"{kind}: found {len(errors)} of {len(pairs)} ({len(errors) / len(pairs):.1%})", end="")
        for region, indices in REGIONS.items() if errors else ():
            print(f"; {region} {100 * np.mean([error[indices].mean() for error in errors]):.2f} %", end="")
        print(f" of the eye distance; {np.median(times):.0f} ms (median), {torch.get_num_threads()} threads")
    alarms = [name for name in HELD_OUT_FACELESS if align_or_none(model, faceless_picture(name))[0] is not None]
    print(f"pictures without a face: {len(alarms)} false alarms in {len(HELD_OUT_FACELESS)} {alarms or ''}")

    # The worst portraits first, then every sixth of the rest, then some frames.
    portraits = sorted((entry for entry in sheet if entry[1] == "portraits"), key=lambda entry: -entry[0])
    frames = [entry for entry in sheet if entry[1] != "portraits"]
    shown = (portraits[:6] + portraits[6::6] + frames[:: max(1, len(frames) // 8)])[:24]
    shown = [picture for _, _, picture in shown]
    shown += [np.zeros_like(shown[0])] * (-len(shown) % 6)
    rows = [np.concatenate(shown[i : i + 6], axis=1) for i in range(0, len(shown), 6)]
    Image.fromarray(np.concatenate(rows)).save(args.out / "held_out.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=Path, required=True, help="what prepare_data.py wrote")
    parser.add_argument("--portraits", type=Path, nargs="+", required=True, help="folders of the labelled pictures")
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="folders of the labelled videos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="file that keeps the cut-out faces between runs; OUT/faces.npz")
    parser.add_argument("--head", choices=("detector", "landmarks"), required=True)
    parser.add_argument("--max_minutes", type=float, default=30)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    if (args.out / "config.json").exists():
        model = FaceAlignerModel.from_pretrained(args.out)
    else:
        model = FaceAlignerModel(FaceAlignerConfig())
    averaged = copy.deepcopy(model).eval()
    if args.max_minutes > 0:
        faces = load_faces(args.labels, args.portraits, args.videos, args.cache or args.out / "faces.npz")
        # Another seed after a resume, or the same examples would come again.
        sampler = FaceSampler(faces, seed=args.seed + (int(time.time()) if args.resume else 0))
        train_head(model, averaged, sampler, args)
    evaluate(averaged, args)


if __name__ == "__main__":
    main()
