"""Train FaceAlignerModel: first its detector, then its landmark head, each for a share of the minutes.

    python training/train_face_aligner.py --labels LABELS --portraits DIR [DIR ...] --videos DIR [DIR ...] --out OUT \
        --head detector --max_minutes 10
    python training/train_face_aligner.py … --head landmarks --max_minutes 25

LABELS is what `prepare_data.py` wrote from the same folders. Prints held-out figures (every 25th portrait, the last 40
clips): how often the face is found, and the mean landmark error in % of the eye distance, over all points, lips and
eyelids. Writes OUT/landmarks.png, held-out faces with their points. Goes on from OUT when that exists.
"""

import argparse
import json
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
from avatarsync.errors import AvatarSyncError
from avatarsync.image_processing_face import INNER_LIPS, LEFT_EYELIDS, OUTER_LIPS, RIGHT_EYELIDS, transform_points
from avatarsync.modeling_face_aligner import FaceAlignerModel


def held_out(args) -> list[tuple[np.ndarray, np.ndarray]]:
    """(picture, landmarks) of the held-out portraits and of one frame in three of every held-out clip."""
    pairs = []
    for path in split_portraits(args.portraits)[1]:
        label = args.labels / "portraits" / f"{path.stem}.npz"
        if label.exists():
            pairs.append((np.array(Image.open(path).convert("RGB")), read_labels(label)[0]))
    for path in split_clips(args.videos)[1][::2]:
        label = args.labels / "clips" / f"{path.stem}.npz"
        if label.exists():
            indices = np.array([12, 37, 62])
            pairs += zip(read_frames(path, indices), read_labels(label)[indices], strict=True)
    return pairs


def evaluate(model: FaceAlignerModel, pairs: list, sheet: Path | None = None) -> dict[str, float]:
    errors, seconds, tiles = [], [], []
    for image, landmarks in pairs:
        start = time.perf_counter()
        try:
            face = model.align(image)
        except AvatarSyncError:
            face = None
        seconds.append(time.perf_counter() - start)
        error = None if face is None else error_in_eye_distances(face.landmarks, landmarks)
        # A face somewhere else in the picture is not the face.
        errors.append(error if error is not None and error.mean() < 0.3 else None)
        if sheet is not None and len(tiles) < 24 and len(seconds) % 5 == 1:
            tiles.append(draw(image, face))
    found = np.array([error for error in errors if error is not None])
    if sheet is not None:
        rows = [np.concatenate(tiles[i : i + 8], 1) for i in range(0, len(tiles) // 8 * 8, 8)]
        Image.fromarray(np.concatenate(rows)).save(sheet)
    false_alarms = sum(len(model.detect(faceless_picture(name))) for name in HELD_OUT_FACELESS)
    if not len(found):
        return {"found": 0.0, "false_alarms": false_alarms}
    parts = {"all": slice(None), "lips": list(OUTER_LIPS + INNER_LIPS), "lids": list(RIGHT_EYELIDS + LEFT_EYELIDS)}
    figures = {f"error_{name}_%": round(100 * float(found[:, index].mean()), 3) for name, index in parts.items()}
    milliseconds = round(1000 * float(np.median(seconds)), 1)
    return {"found": len(found) / len(errors), **figures, "ms": milliseconds, "false_alarms": false_alarms}


def draw(image: np.ndarray, face) -> np.ndarray:
    if face is None:
        return np.zeros((256, 256, 3), np.uint8)
    from avatarsync.image_processing_face import pose_driven_matrix, warp_image

    matrix = pose_driven_matrix(face.landmarks, 256)
    tile = Image.fromarray(warp_image(image, matrix, 256))
    pen = ImageDraw.Draw(tile)
    for x, y in transform_points(face.landmarks, matrix):
        pen.point((x, y), fill=(0, 255, 0))
    return np.array(tile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--portraits", type=Path, nargs="+", required=True)
    parser.add_argument("--videos", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="file that keeps the cut-out faces between runs")
    parser.add_argument("--head", choices=("detector", "landmarks"), required=True)
    parser.add_argument("--batch_size", type=int, default=24)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--max_minutes", type=float, default=20)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    faces = load_faces(args.labels, args.portraits, args.videos, args.cache)
    sampler = FaceSampler(faces, seed=args.seed + int(time.time()))
    pairs = held_out(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if (args.out / "config.json").exists():
        model = FaceAlignerModel.from_pretrained(args.out)
    else:
        model = FaceAlignerModel(FaceAlignerConfig())
    trained = model.detector if args.head == "detector" else model.landmarker
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=args.learning_rate, weight_decay=1e-3)
    config, step, history = model.config, 0, []
    start = last_save = time.monotonic()
    bar = tqdm(disable=None)
    while (elapsed := (time.monotonic() - start) / 60) < args.max_minutes:
        rate = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * elapsed / args.max_minutes))
        optimizer.param_groups[0]["lr"] = args.learning_rate * rate * min(1, (step + 1) / 100)
        if args.head == "detector":
            batch = sampler.detector_batch(args.batch_size, config.detector_size)
        else:
            batch = sampler.landmark_batch(args.batch_size, config.landmark_size)
        model.eval()
        trained.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 5.0)
        optimizer.step()
        step += 1
        bar.update()
        if step % 100 == 0:
            history.append({"step": step, "minutes": round(elapsed, 2), "loss": round(loss.item(), 4)})
            print(json.dumps(history[-1]), flush=True)
        if time.monotonic() - last_save > 300:
            model.eval()
            model.save_pretrained(args.out)
            print(json.dumps({"step": step} | evaluate(model, pairs)), flush=True)
            last_save = time.monotonic()
    model.eval()
    model.save_pretrained(args.out)
    print(json.dumps({"step": step} | evaluate(model, pairs, args.out / "landmarks.png")), flush=True)
    (args.out / f"history_{args.head}.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
