"""Train the timestamp-aware interpolator, first on real keyframes, then on those that the generator predicts.

    python training/train_interpolation.py --data DATA --tokenizer TOKENIZER --keyframes KEYFRAMES --out INTERPOLATION

Each example is a moment between two adjacent keyframes and the real frame of that moment. For the first
--real_keyframes_share of the steps both keyframes are real ones; after that most are predicted: the interpolator then
learns what real faces do where the generator would have them go. The loss is the model's own in code space plus the
landmarks' that the frozen tokenizer decodes from its codes.
"""

import argparse

import numpy as np
import torch
from command_line import run_script
from model_card import dataset_facts
from motion_data import Clip, correlations, load_clips, portrait_codes
from numbered_batches import NumberedBatches
from tokenizer_data import load_rows
from tqdm import tqdm
from trained_stages import load_trained
from training_options import build_config, sizes, training_parser
from training_utils import TrainingRun, start_accelerator

from avatarsync.configuration_avatarsync import InterpolationConfig
from avatarsync.data.dataset import load
from avatarsync.errors import CheckpointError
from avatarsync.expected_keyframes import expected_keyframes
from avatarsync.modeling_interpolation import InterpolationModel
from avatarsync.modeling_keyframes import KeyframeGeneratorModel
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel, mouth_widths

SHOWN_FRAMES = 12
GIVEN_SIZES = ("code_size", "grid_size")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = training_parser(__doc__, batch_size=128, learning_rate=1e-3)
    parser.add_argument("--tokenizer", required=True, help="trained visual tokenizer")
    parser.add_argument("--keyframes", required=True, help="trained keyframe generator")
    parser.add_argument("--real_keyframes_share", type=float, default=0.3, help="of the steps, real keyframes alone")
    parser.add_argument("--predicted_share", type=float, default=0.7, help="of the examples after that")
    parser.add_argument("--landmark_weight", type=float, default=20.0, help="of decoded landmarks against codes")
    parser.add_argument("--width_weight", type=float, default=20.0, help="of the decoded mouth's width")
    args = parser.parse_args(argv)
    sizes(args, InterpolationConfig, GIVEN_SIZES)
    return args


@torch.no_grad()
def predict_keyframes(generator, tokenizer, clips: list[Clip], references: torch.Tensor) -> list[torch.Tensor]:
    """Codes `(T_s, K, D)` of each clip's keyframes, as the pipeline shows them."""
    predicted, device = [], tokenizer.device
    for index, clip in enumerate(tqdm(clips, desc="predicting keyframes", disable=None)):
        reference = tokenizer.quantizer.codes_to_ids(references[index % len(references)][None].to(device))
        condition = torch.ones(1, len(clip.unit_ids), 1, device=device)
        units = clip.unit_ids[None].to(device), clip.durations[None].to(device)
        encoded = generator.encode(*units, condition, reference)
        predicted.append(expected_keyframes(generator, tokenizer, encoded).cpu())
    return predicted


def real_keyframes(tokenizer, clips: list[Clip]) -> list[torch.Tensor]:
    """Codes `(T_s, K, D)` of each clip's own keyframes, discrete."""
    quantizer, device = tokenizer.quantizer, tokenizer.device
    keyframes = [clip.codes[clip.keyframe_indices].to(device) for clip in clips]
    return [quantizer.ids_to_codes(quantizer.codes_to_ids(codes)).detach().cpu() for codes in keyframes]


class FrameBatches(NumberedBatches):
    """Moments between keyframes; not those where nobody speaks and yet the lips are open.

    `self[i]` draws predicted keyframes from number `first_predicted` on.
    """

    def __init__(
        self,
        clips: list[Clip],
        real: list[torch.Tensor],
        predicted: list[torch.Tensor],
        predicted_share: float,
        first_predicted: int,
        batch_size: int,
        seed: int,
    ):
        super().__init__(seed)
        self.clips, self.keyframes = clips, (real, predicted)
        self.predicted_share, self.first_predicted, self.batch_size = predicted_share, first_predicted, batch_size
        self.located = [clip.located_frames for clip in clips]
        examples = []
        for index, clip in enumerate(clips):
            frames = clip.learnable_frames
            examples.append(np.stack([np.full(len(frames), index), frames], 1))
        self.examples = np.concatenate(examples)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        self.share = self.predicted_share if number >= self.first_predicted else 0.0
        return super().__getitem__(number)

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Keyword arguments of `InterpolationModel.forward`, and `expressions` `(B, 468, 2)` of the true frames."""
        chosen = self.examples[random.integers(len(self.examples), size=self.batch_size)]
        use_predicted = random.random(self.batch_size) < self.share
        rows = []
        for (index, frame), predicted in zip(chosen, use_predicted, strict=True):
            left, right, t, interval = (values[frame] for values in self.located[index])
            codes, clip = self.keyframes[int(predicted)][index], self.clips[index]
            rows.append((codes[left], codes[right], clip.unit_ids[left], clip.unit_ids[right],
                         torch.tensor(interval, dtype=torch.float32), torch.tensor([t], dtype=torch.float32),
                         clip.codes[frame][None], clip.expressions[frame]))  # fmt: skip
        names = ("start_codes", "end_codes", "start_units", "end_units", "interval", "times", "labels", "expressions")
        return {name: torch.stack(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


class HeldOut:
    def __init__(self, tokenizer: VisualTokenizerModel, clips: list[Clip], predicted: list[torch.Tensor], rows):
        self.tokenizer, self.clips, self.predicted, self.rows = tokenizer, clips, predicted, rows

    def codes(self, model: InterpolationModel, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes `(T, K, D)` of every frame of a clip, by the model and by straight lines."""
        clip, device = self.clips[index], self.tokenizer.device
        left, right, t, interval = (torch.from_numpy(values) for values in clip.located_frames)
        keyframes = self.predicted[index]
        start, end, t = keyframes[left].to(device), keyframes[right].to(device), t.float().to(device)[:, None]
        units = clip.unit_ids[left].to(device), clip.unit_ids[right].to(device)
        learned = model(start, end, *units, interval.float().to(device), t).codes[:, 0]
        return learned, start * (1 - t[..., None]) + end * t[..., None]

    def evaluate(self, model: InterpolationModel) -> dict[str, float]:
        """Correlations of lip opening and width from predicted keyframes: learned, and joined by straight lines."""
        expressions = {"learned": [], "linear": []}
        for index in range(len(self.clips)):
            for name, codes in zip(expressions, self.codes(model, index), strict=True):
                expressions[name].append(self.tokenizer.expression(codes).cpu())
        out = {}
        for name, values in expressions.items():
            out |= {f"{name}_{key}": value for key, value in correlations(values, self.clips).items()}
        return out

    def sheet(self, model: InterpolationModel) -> np.ndarray:
        """Consecutive frames: real ones above, generated ones on the clip's first frame below."""
        rows, device = [], self.tokenizer.device
        for index in range(min(3, len(self.clips))):
            clip = self.clips[index]
            first = int(clip.gaps.argmax()) - SHOWN_FRAMES // 2
            frames = np.arange(first, first + SHOWN_FRAMES).clip(0, len(clip.codes) - 1)
            rows.append(np.concatenate([self.rows.crop(clip.row, int(frame)) for frame in frames], 1))
            pixels = torch.from_numpy(self.rows.crop(clip.row, 0)).permute(2, 0, 1)[None].to(device) / 127.5 - 1
            landmarks = torch.from_numpy(np.array(self.rows.landmarks(clip.row)[:1])).float().to(device)
            reference = self.tokenizer.prepare_reference(pixels, landmarks).expand(SHOWN_FRAMES)
            codes = self.codes(model, index)[0][torch.from_numpy(frames).to(device)]
            decoded = self.tokenizer.decode(codes, reference).pixels
            pictures = ((decoded + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
            rows.append(np.concatenate(list(pictures), 1))
        return np.concatenate(rows)


def build_model(args: argparse.Namespace, tokenizer: VisualTokenizerModel) -> InterpolationModel:
    if args.init_from is not None:
        return load_trained(InterpolationModel, args.init_from)
    grid, size = tokenizer.config.grid_size, tokenizer.config.code_bits
    return InterpolationModel(build_config(InterpolationConfig, args, code_size=size, grid_size=grid))


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    accelerator = start_accelerator(args)
    data = load(args.data)
    train_rows, portraits, _ = load_rows(data, "train", args.data)
    held_rows = load_rows(data, "test", args.data)[0]
    tokenizer = load_trained(VisualTokenizerModel, args.tokenizer).eval().requires_grad_(False)
    generator = load_trained(KeyframeGeneratorModel, args.keyframes).eval()
    if generator.config.codebook_size != tokenizer.config.codebook_size:
        raise CheckpointError(f"{args.keyframes} was trained on another tokenizer than {args.tokenizer}: give its own")
    model = build_model(args, tokenizer)

    tokenizer.to(accelerator.device), generator.to(accelerator.device)
    cache = args.data / "cache"
    with accelerator.main_process_first():
        clips = load_clips(tokenizer, train_rows, "train", cache)
        held = load_clips(tokenizer, held_rows, "test", cache)
        references = portrait_codes(tokenizer, portraits, clips, cache)
    predicted = predict_keyframes(generator, tokenizer, clips, references)
    held_out = HeldOut(tokenizer, held, predict_keyframes(generator, tokenizer, held, references), held_rows)
    micro_batches = args.gradient_accumulation_steps * accelerator.num_processes
    first_predicted = int(args.real_keyframes_share * args.max_train_steps) * micro_batches
    batches = FrameBatches(
        clips, real_keyframes(tokenizer, clips), predicted, args.predicted_share, first_predicted, args.batch_size,
        args.seed,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, weight_decay=args.weight_decay)
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    facts = dataset_facts(args.data, len(train_rows), len(portraits or ()), data.settings)
    run = TrainingRun(accelerator, args, model, optimizer, facts | {"Stage": "Timestamp-aware interpolation."})

    weights = tokenizer.landmark_weights[:, None]
    for batch in run.micro_batches(batches):
        true = batch.pop("expressions")
        with accelerator.accumulate(prepared):
            result = prepared(**batch)
            expression = tokenizer.expression(result.codes[:, 0])
            landmark_loss = ((expression - true).abs() * weights).mean()
            width_loss = (mouth_widths(expression) - mouth_widths(true)).abs().mean()
            loss = result.loss + args.landmark_weight * landmark_loss + args.width_weight * width_loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            prepared_optimizer.step()
            prepared_optimizer.zero_grad()
        if accelerator.sync_gradients:
            losses = {"loss": loss, "code_loss": result.loss, "landmarks": landmark_loss, "width": width_loss}
            run.step_done(losses, lambda: held_out.evaluate(model), lambda: held_out.sheet(model))
    run.finish(lambda: held_out.evaluate(model), lambda: held_out.sheet(model))


if __name__ == "__main__":
    run_script(main)
