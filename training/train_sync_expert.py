"""Train the sync expert, which tells by how many frames lips and sound are apart; a small stand-in for SyncNet.

    python training/train_sync_expert.py --data DATA --videos VIDEOS --out EXPERT --max_train_steps 1500

DATA is what `prepare_data.py` made of VIDEOS, whose sound is read again. Each mouth window of 0.2 s has to find its
own sound among those up to 15 frames away, and each sound its mouth. On the held-out clips, the sound as it is and
moved by several frames, the offset is looked for as SyncNet's protocol does; what counts is whether it is right
within one frame. `avatarsync.sync.load_sync_network("expert:EXPERT")` reads the result.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from command_line import run_script
from model_card import dataset_facts
from sync_data import SyncBatches, SyncClip, cepstral_statistics, load_sync_clips, plain_mouths
from trained_stages import load_trained
from training_options import build_config, sizes, training_parser
from training_utils import TrainingRun, start_accelerator

from avatarsync.data.dataset import Rows, load
from avatarsync.errors import DatasetError, InvalidArgumentError
from avatarsync.modeling_sync_expert import CEPSTRA, CEPSTRA_PER_FRAME, FRAMES, SyncExpertConfig, SyncExpertModel
from avatarsync.sync import MAX_OFFSET, distance_and_confidence, offset_distances

SHIFTS = (-12, -7, -3, 0, 3, 7, 12)  # frames by which the held-out sound is late
SHORTEST = 40  # frames of a stretch: offsets of 15 both ways are then found in it
GIVEN_SIZES = ("cepstral_mean", "cepstral_deviation")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = training_parser(__doc__, batch_size=8, learning_rate=1e-3, weight_decay=0.05, ema_decay=0.99)
    parser.add_argument("--videos", type=Path, required=True, help="the folder that prepare_data.py was given")
    parser.add_argument("--clip_frames", type=int, default=60, help="of the stretches that are trained on")
    args = parser.parse_args(argv)
    if args.clip_frames < SHORTEST:
        raise InvalidArgumentError(f"--clip_frames {args.clip_frames}: give at least {SHORTEST}")
    if not args.videos.is_dir():
        raise DatasetError(f"{args.videos} is not a folder: give --videos as prepare_data.py had them")
    sizes(args, SyncExpertConfig, GIVEN_SIZES)
    return args


def build_model(args: argparse.Namespace, clips: list[SyncClip]) -> SyncExpertModel:
    if args.init_from is not None:
        return load_trained(SyncExpertModel, args.init_from)
    mean, deviation = cepstral_statistics(clips)
    return SyncExpertModel(build_config(SyncExpertConfig, args, cepstral_mean=mean, cepstral_deviation=deviation))


@torch.no_grad()
def embed(model: SyncExpertModel, clip: SyncClip) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings `(N, D)` of a clip's windows of mouths and of sound, N = T - 5 as in SyncNet's protocol."""
    count = len(clip) - FRAMES
    mouths = plain_mouths(clip).unfold(0, FRAMES, 1)[:count].permute(0, 3, 1, 2).to(model.device)
    sounds = torch.from_numpy(clip.cepstra).unfold(0, CEPSTRA, CEPSTRA_PER_FRAME)[:count].to(model.device)
    return model.embed_mouth(mouths).float().cpu(), model.embed_sound(sounds).float().cpu()


def found_offsets(model: SyncExpertModel, clip: SyncClip) -> tuple[np.ndarray, float, float]:
    """Offsets found for each of SHIFTS, and distance and confidence without a shift."""
    seen, heard = embed(model, clip)
    offsets, distance, confidence = [], 0.0, 0.0
    for shift in SHIFTS:
        late = max(shift, 0)
        early = max(-shift, 0)
        # Windows that both still have: lips t with sound t - shift.
        pair = seen[late : len(seen) - early], heard[early : len(heard) - late]
        found = distance_and_confidence(offset_distances(*pair))
        # Sound window j of the pair was window j + early, lips window i was i + late.
        offsets.append(found[2] - (late - early))
        if shift == 0:
            distance, confidence = found[0], found[1]
    return np.array(offsets), distance, confidence


def measure(model: SyncExpertModel, clips: list[SyncClip]) -> dict[str, float]:
    """Held-out figures, over clips and shifts: shares of offsets that are right, and as far as one frame off."""
    found = [found_offsets(model, clip) for clip in clips]
    errors = np.abs(np.stack([offsets for offsets, _, _ in found]))
    return {
        "offset_exact": float(np.mean(errors == 0)),
        "offset_within_1": float(np.mean(errors <= 1)),
        "unshifted_within_1": float(np.mean(errors[:, SHIFTS.index(0)] <= 1)),
        "distance": float(np.mean([distance for _, distance, _ in found])),
        "confidence": float(np.mean([confidence for _, _, confidence in found])),
        "clips": len(clips),
    }


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    data = load(args.data)
    if data.clips is None:
        raise DatasetError(f"{args.data} holds no clips: give prepare_data.py --videos")
    accelerator = start_accelerator(args)
    side = sizes(args, SyncExpertConfig, GIVEN_SIZES).get("side", SyncExpertConfig().side)
    splits = {}
    for split in ("train", "test"):
        rows, sources = Rows(data.clips[split]), data.clips[split].select_columns("source")["source"]
        shortest = args.clip_frames if split == "train" else 2 * MAX_OFFSET
        splits[split] = load_sync_clips(rows, list(sources), args.videos, side, shortest)
    model = build_model(args, splits["train"])
    batches = SyncBatches(splits["train"], args.clip_frames, args.batch_size, args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, weight_decay=args.weight_decay)
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    facts = dataset_facts(args.data, len(splits["train"]), 0, data.settings)
    run = TrainingRun(accelerator, args, model, optimizer, facts | {"Stage": "Sync expert, for evaluation alone."})

    figures = {}

    def evaluate() -> dict[str, float]:
        figures.update(measure(model, splits["test"]))
        return figures

    for batch in run.micro_batches(batches):
        with accelerator.accumulate(prepared):
            loss = prepared(**batch).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            prepared_optimizer.step()
            prepared_optimizer.zero_grad()
        if accelerator.sync_gradients:
            run.step_done({"loss": loss}, evaluate)
    run.finish(evaluate)
    if accelerator.is_main_process:
        # Not before: a run that goes on compares its config with the one it began with.
        model.config.accuracy = round(figures["offset_within_1"], 4)
        model.config.save_pretrained(args.out)


if __name__ == "__main__":
    run_script(main)
