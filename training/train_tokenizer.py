"""Train the visual tokenizer.

    python training/train_tokenizer.py --labels LABELS --out OUT --phase expression --max_minutes 15
    python training/train_tokenizer.py --labels LABELS --out OUT --phase paint --max_minutes 30

Phase `expression` trains encoder, quantizer and expression decoder by the landmarks that each picture's expression is
known to have (cheap: no pixels are drawn); phase `paint` then freezes them, so that the codes stay what the keyframe
generator learns, and trains the painter. LABELS is what `prepare_data.py` wrote. Goes on from OUT when that exists.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from face_data import Faces, TokenizerBatches, split_names
from PIL import Image
from tqdm import tqdm

from avatarsync.configuration_avatarsync import VisualTokenizerConfig
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel, cut


@torch.no_grad()
def evaluate(model: VisualTokenizerModel, clips: Faces, portraits: Faces, count: int = 64) -> dict[str, float]:
    """Held-out: error of the expression in % of the crop (lips), openings' correlation, mouth PSNR over copying."""
    model.eval()
    out = {}
    for name, share in (("speaker", 0.0), ("portraits", 1.0)):
        batch = TokenizerBatches(clips, portraits, count, seed=1, portrait_share=share).batch()
        result = model(**{key: batch[key] for key in PAINT_INPUTS if key != "quantize"})
        window, side = model.mouth_window(batch["reference_landmarks"]), model.config.painter_size
        real = cut(batch["labels"], window, side)

        def psnr(pixels, real=real, window=window, side=side):
            error = ((cut(pixels, window, side) - real) / 2).square().mean((1, 2, 3))
            return -10 * torch.log10(error)

        gain = psnr(result.decoded.pixels) - psnr(batch["reference_pixel_values"])
        lips = (result.decoded.expression - batch["label_expression"])[:, [13, 14, 61, 291, 0, 17]]
        openings = [e[:, 14, 1] - e[:, 13, 1] for e in (result.decoded.expression, batch["label_expression"])]
        out[f"{name}_lip_error"] = lips.norm(dim=-1).mean().item() * 100
        out[f"{name}_opening_r"] = torch.corrcoef(torch.stack(openings))[0, 1].item()
        out[f"{name}_psnr_gain"] = gain.mean().item()
        out[f"{name}_codes_used"] = len(result.ids.unique()) / result.ids.numel()
    model.train()
    return out


@torch.no_grad()
def sheet(model: VisualTokenizerModel, clips: Faces, portraits: Faces, path: Path) -> None:
    """Rows of encoded | reference | wanted | decoded, held-out faces."""
    model.eval()
    batch = TokenizerBatches(clips, portraits, 12, seed=3, portrait_share=0.75).batch()
    inputs = ("pixel_values", "reference_pixel_values", "reference_landmarks")
    decoded = model(**{key: batch[key] for key in inputs}).decoded.pixels
    columns = [batch["pixel_values"], batch["reference_pixel_values"], batch["labels"], decoded]
    rows = torch.cat([torch.cat(list(column), 1) for column in columns], 2)  # (3, 12·S, 4·S)
    half = rows.shape[1] // 2
    rows = torch.cat([rows[:, :half], rows[:, half:]], 2)
    pixels = ((rows + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)
    model.train()


def references_as_inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the encoder learns from: a quarter of the pictures are references, whose expression it must know too."""
    swap = (torch.rand(len(batch["pixel_values"])) < 0.25) & batch["reference_expression_known"]
    pixels = torch.where(swap[:, None, None, None], batch["reference_pixel_values"], batch["pixel_values"])
    expression = torch.where(swap[:, None, None], batch["reference_expression"], batch["label_expression"])
    return {"pixel_values": pixels, "label_expression": expression, "quantize": batch["quantize"]}


PAINT_INPUTS = (
    "pixel_values",
    "reference_pixel_values",
    "reference_landmarks",
    "labels",
    "label_landmarks",
    "label_expression",
    "quantize",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--phase", choices=("expression", "paint"), required=True)
    parser.add_argument("--quantizer", choices=("lfq", "vq"), default="lfq")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--max_minutes", type=float, default=15)
    parser.add_argument("--continuous_share", type=float, default=0.5, help="of phase expression, before quantising")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    train_clips, held_clips = split_names(args.labels, "clips")
    train_portraits, held_portraits = split_names(args.labels, "portraits")
    clips, portraits = Faces.load(train_clips), Faces.load(train_portraits)
    held = Faces.load(held_clips), Faces.load(held_portraits)
    args.out.mkdir(parents=True, exist_ok=True)
    if (args.out / "config.json").exists():
        model = VisualTokenizerModel.from_pretrained(args.out)
    else:
        model = VisualTokenizerModel(VisualTokenizerConfig(quantizer=args.quantizer))
    model.train()
    paint = args.phase == "paint"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("painter.") == paint)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    history = []
    start = last_save = time.monotonic()
    batches = iter(TokenizerBatches(clips, portraits, args.batch_size, seed=args.seed + int(time.time())))
    bar = tqdm(disable=None)
    step = 0
    while (elapsed := (time.monotonic() - start) / 60) < args.max_minutes:
        progress = elapsed / args.max_minutes
        rate = args.learning_rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * progress)))
        optimizer.param_groups[0]["lr"] = rate
        batch = next(batches)
        batch = {key: batch[key] for key in PAINT_INPUTS} if paint else references_as_inputs(batch)
        # Quantisation, and its entropy and commitment terms, before the codes carry motion would collapse them.
        continuous = not paint and progress < args.continuous_share
        if continuous:
            batch["quantize"] = torch.zeros(args.batch_size, dtype=torch.bool)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            result = model(**batch)
        # With frozen codes only the painter's loss has a gradient.
        loss = result.pixel_loss if paint else result.expression_loss if continuous else result.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step += 1
        bar.update()
        if step % 50 == 0:
            entry = {
                "step": step,
                "minutes": round(elapsed, 2),
                "loss": loss.item(),
                "expression": result.expression_loss.item(),
            }
            if step % 200 == 0:
                entry |= evaluate(model, *held)
            history.append(entry)
            print(json.dumps(entry), flush=True)
        if time.monotonic() - last_save > 180:
            model.save_pretrained(args.out)
            sheet(model, *held, args.out / "sheet.png")
            last_save = time.monotonic()
    model.save_pretrained(args.out)
    sheet(model, *held, args.out / "sheet.png")
    print(json.dumps({"step": step} | evaluate(model, *held)))
    (args.out / f"history_{args.phase}.json").write_text(json.dumps(history, indent=1))


if __name__ == "__main__":
    main()
