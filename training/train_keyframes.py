"""Train the keyframe generator (FKG), phase 1: cross-entropy of the tokens (Eq. 6).

    python training/train_keyframes.py --labels LABELS --tracks TRACKS --tokenizer TOKENIZER --out OUT \
        --attention_mode window --past_units 2 --future_units 1 --max_minutes 10

LABELS is what `prepare_data.py` wrote, TRACKS what `align_clips.py` wrote, TOKENIZER a trained visual tokenizer.
Prints the held-out clips' correlation of lip opening and mouth width, keyframes joined by straight lines.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from motion_data import Clip, correlations, load_clips, portrait_codes
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from avatarsync.configuration_avatarsync import KeyframeGeneratorConfig
from avatarsync.modeling_keyframes import KeyframeGeneratorModel
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel, lip_openings
from avatarsync.phonemes import VisualMapping, speak
from avatarsync.schedule import locate, timed_units

UNSEEN_SENTENCES = (
    "Papa map. Bob, mama, mop.",
    "Many people came to my mother's apple farm before the morning.",
    "The quick brown fox jumps over the lazy dog.",
    "Hello, it is good to see you. A moment ago I was only a picture.",
)
OPEN_UNITS = ("AA", "AE", "AO", "AW", "AY", "EH")


def collate(clips: list[Clip], tokenizer: VisualTokenizerModel, references: torch.Tensor) -> dict[str, torch.Tensor]:
    """Keyword arguments of `KeyframeGeneratorModel.forward`."""
    indices = [clip.keyframe_indices for clip in clips]
    ids = [tokenizer.quantize(clip.codes[i]).ids for clip, i in zip(clips, indices, strict=True)]
    return {
        "unit_ids": pad_sequence([clip.unit_ids for clip in clips], True),
        "durations": pad_sequence([clip.durations for clip in clips], True, 0.1),
        "condition": pad_sequence([clip.openness[i, None] for clip, i in zip(clips, indices, strict=True)], True),
        "reference_codes": tokenizer.quantize(references).ids,
        "unit_mask": pad_sequence([torch.ones(len(clip.unit_ids), dtype=torch.bool) for clip in clips], True),
        "labels": pad_sequence(ids, True),
    }


def disturb_context(batch: dict[str, torch.Tensor], num_units: int, share: float) -> torch.Tensor:
    """Replace a share of the units by others at random, in place; returns which frames keep their own unit `(B, T_s)`.

    Few sentences have few contexts. Frames that must come out right among strange neighbours rely on their own unit
    first, and so on unseen words.
    """
    units, mask = batch["unit_ids"], batch["unit_mask"]
    replaced = torch.rand(units.shape) < share
    batch["unit_ids"] = torch.where(replaced, torch.randint(num_units, units.shape), units)
    return mask & ~replaced


@torch.no_grad()
def evaluate(model, tokenizer, clips: list[Clip], references: torch.Tensor) -> dict[str, float]:
    model.eval()
    losses, out = [], {}
    expressions = {"greedy": [], "expected": []}
    for clip, reference in zip(clips, references, strict=False):
        batch = collate([clip], tokenizer, reference[None])
        losses.append(model(**batch).loss.item())
        batch.pop("labels"), batch.pop("unit_mask")
        # Eyes are steered at inference, so the condition is "open".
        batch["condition"] = torch.ones_like(batch["condition"])
        generated = model.generate(**batch)
        left, right, t, _ = locate(np.arange(len(clip.codes)) / clip.fps, clip.keyframes)
        t = torch.from_numpy(t).float()[:, None, None]
        for name, codes in (
            ("greedy", tokenizer.quantizer.ids_to_codes(generated.codes[0])),
            ("expected", tokenizer.quantizer.expected_codes_factorised(generated.logits[0])),
        ):
            expressions[name].append(tokenizer.expression(codes[left] * (1 - t) + codes[right] * t))
    for name, values in expressions.items():
        out |= {f"{name}_{key}": value for key, value in correlations(values, clips).items()}
    out |= unseen_words(model, tokenizer, references)
    model.train()
    return {"held_loss": float(np.mean(losses))} | out


@torch.no_grad()
def unseen_words(model, tokenizer, references: torch.Tensor) -> dict[str, float]:
    """Inner-lip gap, in % of the crop's side, per kind of unit in sentences whose words the corpus does not have."""
    mapping = VisualMapping.default()
    gaps = {"closed": [], "silent": [], "open": []}
    for sentence in UNSEEN_SENTENCES:
        speech = speak(sentence)
        units = timed_units(speech.track, mapping, speech.duration)
        ids = torch.tensor([unit.unit_id for unit in units])
        durations = torch.tensor([unit.duration for unit in units])
        reference = tokenizer.quantize(references[:1]).ids
        codes = model.generate(ids[None], durations[None], torch.ones(1, len(ids), 1), reference).codes[0]
        opening = lip_openings(tokenizer.expression(tokenizer.quantizer.ids_to_codes(codes)))[:, 4] * 100
        for index, gap in zip(ids.tolist(), opening.tolist(), strict=True):
            name = mapping.units[index]
            kind = "closed" if name == "M" else "silent" if name == "SIL" else "open" if name in OPEN_UNITS else None
            if kind:
                gaps[kind].append(gap)
    return {f"unseen_{kind}_gap": float(np.mean(values)) for kind, values in gaps.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--attention_mode", default="window")
    parser.add_argument("--past_units", type=int, default=2)
    parser.add_argument("--future_units", type=int, default=1)
    parser.add_argument("--context_noise", type=float, default=0.2, help="share of units replaced in training")
    parser.add_argument("--batch_size", type=int, default=12)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--max_minutes", type=float, default=10)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    random = np.random.default_rng(args.seed + int(time.time()))
    tokenizer = VisualTokenizerModel.from_pretrained(args.tokenizer).eval().requires_grad_(False)
    args.out.mkdir(parents=True, exist_ok=True)
    clips, held = load_clips(args.labels, args.tracks, tokenizer, args.out / "codes.pt")
    portraits = portrait_codes(args.labels, tokenizer)
    if (args.out / "config.json").exists():
        model = KeyframeGeneratorModel.from_pretrained(args.out)
    else:
        config = KeyframeGeneratorConfig(
            codebook_size=tokenizer.config.codebook_size,
            num_tokens=tokenizer.config.num_tokens,
            attention_mode=args.attention_mode,
            past_units=args.past_units,
            future_units=args.future_units,
        )
        model = KeyframeGeneratorModel(config)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.05, betas=(0.9, 0.98))
    step, history, start, last = 0, [], time.monotonic(), time.monotonic()
    bar = tqdm(disable=None)
    while (elapsed := (time.monotonic() - start) / 60) < args.max_minutes:
        rate = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * elapsed / args.max_minutes))
        optimizer.param_groups[0]["lr"] = args.learning_rate * rate * min(1, (step + 1) / 100)
        chosen = [clips[i] for i in random.integers(len(clips), size=args.batch_size)]
        # References are mostly other people, as in use: what they look like must not matter to the motion.
        references = portraits[random.integers(len(portraits), size=args.batch_size)].clone()
        for i in np.flatnonzero(random.random(args.batch_size) < 0.3):
            other = clips[random.integers(len(clips))]
            references[i] = other.codes[random.integers(len(other.codes))]
        batch = collate(chosen, tokenizer, references)
        labels = batch["labels"]
        counts = disturb_context(batch, model.config.num_units, args.context_noise)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            logits = model(**batch).logits
        loss = F.cross_entropy(logits[:, :, :, 0][counts].flatten(0, 1).float(), labels[counts].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        bar.update()
        if step % 50 == 0:
            history.append({"step": step, "minutes": round(elapsed, 2), "loss": loss.item()})
            print(json.dumps(history[-1]), flush=True)
        if time.monotonic() - last > 150:
            model.save_pretrained(args.out)
            print(json.dumps({"step": step} | evaluate(model, tokenizer, held, portraits)), flush=True)
            last = time.monotonic()
    model.save_pretrained(args.out)
    print(json.dumps({"step": step} | evaluate(model, tokenizer, held, portraits)), flush=True)
    (args.out / "history.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
