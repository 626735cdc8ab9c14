"""Train the timestamp-aware interpolator, on real keyframes and on those that the keyframe generator predicts.

    python training/train_interpolation.py --labels LABELS --tracks TRACKS --tokenizer TOKENIZER \
        --keyframes KEYFRAMES --out OUT --max_minutes 8

Each example is a pair of adjacent keyframes and the real frames around and between them. Half of the pairs have
predicted keyframes: the interpolator then learns what real faces do where the generator would have them go.
The loss is the model's own in code space plus the landmarks' that the frozen tokenizer decodes from its codes.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from motion_data import CLOSED_SHARE, SILENT_ID, Clip, correlations, load_clips, portrait_codes
from tqdm import tqdm

from avatarsync.configuration_avatarsync import InterpolationConfig
from avatarsync.modeling_interpolation import InterpolationModel
from avatarsync.modeling_keyframes import KeyframeGeneratorModel
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel
from avatarsync.schedule import locate


@torch.no_grad()
def predict_keyframes(generator, tokenizer, clips: list[Clip], references: torch.Tensor) -> list[torch.Tensor]:
    """Codes `(T_s, K, D)` of each clip's keyframes, as the generator makes them at inference."""
    predicted = []
    for index, clip in enumerate(tqdm(clips, desc="predicting keyframes", disable=None)):
        reference = tokenizer.quantize(references[index % len(references)][None]).ids
        condition = torch.ones(1, len(clip.unit_ids), 1)
        ids = generator.generate(clip.unit_ids[None], clip.durations[None], condition, reference).codes[0]
        predicted.append(tokenizer.quantizer.ids_to_codes(ids))
    return predicted


def counts(clip: Clip, located, frame: int) -> bool:
    """Whether a frame is one to learn from: not where nobody speaks and yet the lips are open."""
    left, right, _, _ = (values[frame] for values in located)
    silent = clip.unit_ids[left] == SILENT_ID and clip.unit_ids[right] == SILENT_ID
    gap = clip.landmarks[:, 14, 1] - clip.landmarks[:, 13, 1]
    return not silent or bool(gap[frame] <= CLOSED_SHARE * gap.quantile(0.9))


@torch.no_grad()
def evaluate(model, tokenizer, clips: list[Clip], keyframes: list[torch.Tensor]) -> dict[str, float]:
    model.eval()
    learned, linear = [], []
    for clip, codes in zip(clips, keyframes, strict=True):
        left, right, t, interval = locate(np.arange(len(clip.codes)) / clip.fps, clip.keyframes)
        relative = torch.from_numpy(t).float()[:, None]
        share = relative[..., None]
        frames = model(
            codes[left], codes[right], clip.unit_ids[left], clip.unit_ids[right],
            torch.from_numpy(interval).float(), relative,
        ).codes[:, 0]  # fmt: skip
        learned.append(tokenizer.expression(frames))
        linear.append(tokenizer.expression(codes[left] * (1 - share) + codes[right] * share))
    model.train()
    out = {f"learned_{key}": value for key, value in correlations(learned, clips).items()}
    return out | {f"linear_{key}": value for key, value in correlations(linear, clips).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--keyframes", type=Path, required=True, help="trained keyframe generator")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--predicted_share", type=float, default=0.6)
    parser.add_argument("--landmark_weight", type=float, default=20.0)
    parser.add_argument("--batch_size", type=int, default=128, help="frames")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--max_minutes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    random = np.random.default_rng(args.seed)
    tokenizer = VisualTokenizerModel.from_pretrained(args.tokenizer).eval().requires_grad_(False)
    generator = KeyframeGeneratorModel.from_pretrained(args.keyframes).eval()
    clips, held = load_clips(args.labels, args.tracks, tokenizer, args.keyframes / "codes.pt")
    portraits = portrait_codes(args.labels, tokenizer)
    predicted = predict_keyframes(generator, tokenizer, clips, portraits)
    held_predicted = predict_keyframes(generator, tokenizer, held, portraits)
    args.out.mkdir(parents=True, exist_ok=True)
    if (args.out / "config.json").exists():
        model = InterpolationModel.from_pretrained(args.out)
    else:
        config = InterpolationConfig(code_size=tokenizer.config.code_bits, grid_size=tokenizer.config.grid_size)
        model = InterpolationModel(config)
    model.train()

    # Every frame of every clip is an example: the pair it lies in, where in it, and its real codes and landmarks.
    real = [tokenizer.quantize(clip.codes[clip.keyframe_indices]).codes for clip in clips]
    located = [locate(np.arange(len(clip.codes)) / clip.fps, clip.keyframes) for clip in clips]
    examples = np.array(
        [
            (i, frame)
            for i, clip in enumerate(clips)
            for frame in range(len(clip.codes))
            if counts(clip, located[i], frame)
        ]
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.01)
    step, history, start, last = 0, [], time.monotonic(), time.monotonic()
    bar = tqdm(disable=None)
    while (elapsed := (time.monotonic() - start) / 60) < args.max_minutes:
        rate = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * elapsed / args.max_minutes))
        optimizer.param_groups[0]["lr"] = args.learning_rate * rate * min(1, (step + 1) / 100)
        chosen = examples[random.integers(len(examples), size=args.batch_size)]
        use = random.random(args.batch_size) < args.predicted_share
        rows = []
        for (i, frame), from_generator in zip(chosen, use, strict=True):
            left, right, t, interval = (values[frame] for values in located[i])
            codes, units = (predicted if from_generator else real)[i], clips[i].unit_ids
            rows.append((codes[left], codes[right], units[left], units[right], interval, t))
        first, second, first_unit, second_unit, interval, times = zip(*rows, strict=True)
        labels = torch.stack([clips[i].codes[frame] for i, frame in chosen])
        landmarks = torch.stack([clips[i].landmarks[frame] for i, frame in chosen])
        with torch.autocast("cpu", torch.bfloat16):
            out = model(
                torch.stack(first), torch.stack(second), torch.stack(first_unit), torch.stack(second_unit),
                torch.tensor(interval, dtype=torch.float32), torch.tensor(times, dtype=torch.float32)[:, None],
                labels=labels[:, None],
            )  # fmt: skip
        error = (tokenizer.expression(out.codes[:, 0]) - landmarks).abs() * tokenizer.landmark_weights[:, None]
        loss = out.loss + args.landmark_weight * error.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        bar.update()
        if step % 50 == 0:
            history.append({"step": step, "minutes": round(elapsed, 2), "loss": loss.item()})
            print(json.dumps(history[-1]), flush=True)
        if time.monotonic() - last > 120:
            model.save_pretrained(args.out)
            print(json.dumps({"step": step} | evaluate(model, tokenizer, held, held_predicted)), flush=True)
            last = time.monotonic()
    model.save_pretrained(args.out)
    print(json.dumps({"step": step} | evaluate(model, tokenizer, held, held_predicted)), flush=True)
    (args.out / "history.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
