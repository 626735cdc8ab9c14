"""Train the phoneme recogniser, which hears what is said where there is no transcript.

    python training/train_phoneme_recognizer.py --words WORDS --recordings CORPUS --out RECOGNIZER

WORDS holds a list of words for each espeak-ng language, such as en-us.txt, the most frequent first: runs of them are
spoken by espeak-ng's voices, whose phonemes are exact. CORPUS are people's recordings or videos with a TextGrid of
phonemes or a transcript beside each. All is learned as other voices would say it, in other rooms
(`sound_augmentation.py`). On the recordings whose names --held_out lists, and on words of another seed, the share of
frames is measured whose phoneme, and whose visual unit, is the right one.
`avatarsync.phonemes.listen(…, recognizer="RECOGNIZER")` listens with the result.
"""

import argparse
from pathlib import Path

import torch
from command_line import run_script
from phoneme_inventory import PHONEMES
from phoneme_recognizer_data import Heard, RecognizerBatches, log_priors, read_words, recordings, spoken_words
from prepare_data import read_held_out
from trained_stages import load_trained
from training_options import build_config, sizes, training_parser
from training_utils import TrainingRun, start_accelerator

from avatarsync.errors import DatasetError, InvalidArgumentError
from avatarsync.modeling_phoneme_recognizer import PhonemeRecognizerConfig, PhonemeRecognizerModel
from avatarsync.phonemes.log_mel import normalized
from avatarsync.phonemes.text import resolve_language

GIVEN_SIZES = ("phonemes", "log_priors", "dilations")
HELD_OUT_SHARE = 0.01  # of the hours of words
# Lips of English are what most will see, and its spelling tells words from each other.
ENGLISH_SHARES = {"en-us": 6.0, "en-gb": 3.0}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = training_parser(
        __doc__, dataset=False, batch_size=32, learning_rate=1.5e-3, weight_decay=0.02, ema_decay=0.998
    )
    add = parser.add_argument
    add("--words", type=Path, required=True, help="folder of LANGUAGE.txt, a word a line, the most frequent first")
    add("--hours", type=float, default=12.0, help="of speech that is made of them")
    add("--recordings", type=Path, nargs="*", default=[], help="folders of recordings with TextGrids or transcripts")
    add("--recordings_share", type=float, default=0.4, help="of the stretches that are learned from")
    add("--language", default="en-us", help="espeak code of the recordings")
    add("--held_out", type=Path, metavar="FILE", help="names of recordings to measure on instead, one a line")
    add("--frames", type=int, default=320, help="of 10 ms, of the stretches that are learned from")
    args = parser.parse_args(argv)
    for folder in (args.words, *args.recordings):
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder: give --words and --recordings folders that exist")
    if args.hours <= 0 or not 0 < args.recordings_share < 1:
        raise InvalidArgumentError("give --hours above 0, and a --recordings_share between 0 and 1")
    if args.frames < 64:
        raise InvalidArgumentError(f"--frames {args.frames}: give at least 64")
    args.language = resolve_language(args.language)
    sizes(args, PhonemeRecognizerConfig, GIVEN_SIZES)
    return args


def build_model(args: argparse.Namespace, priors: list[float]) -> PhonemeRecognizerModel:
    if args.init_from is not None:
        return load_trained(PhonemeRecognizerModel, args.init_from)
    config = build_config(PhonemeRecognizerConfig, args, phonemes=PHONEMES, log_priors=priors)
    return PhonemeRecognizerModel(config)


@torch.no_grad()
def measure(model: PhonemeRecognizerModel, held: dict[str, list[Heard]]) -> dict[str, float]:
    """Of each collection the share of frames whose phoneme is the right one, and whose visual unit is."""
    figures, units = {}, torch.tensor(model.units)
    for name, collection in held.items():
        right, alike, count = 0, 0, 0
        for heard in collection:
            bands = torch.from_numpy(normalized(heard.bands.astype("float32")))[None]
            found = model(bands.to(model.device)).logits[0].argmax(-1).cpu()
            labels = torch.from_numpy(heard.labels).long()
            right += (found == labels).sum().item()
            alike += (units[found] == units[labels]).sum().item()
            count += len(labels)
        figures |= {f"{name}_phonemes": right / count, f"{name}_units": alike / count}
    return figures


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    words, names = read_words(args.words), set(read_held_out(args.held_out) or ())
    accelerator = start_accelerator(args)
    learned, held = [], {}
    if args.recordings:
        people, held_people = recordings(args.recordings, args.language, names)
        if not people:
            raise DatasetError("all of the recordings are held out: leave some to learn from")
        if names and not held_people:
            raise DatasetError(f"--held_out {args.held_out} names none of the recordings: give names without endings")
        learned.append((people, args.recordings_share))
        held |= {"people": held_people} if held_people else {}
    share = 1 - args.recordings_share if learned else 1.0
    learned.append((spoken_words(words, args.hours, ENGLISH_SHARES, args.seed), share))
    held["words"] = spoken_words(words, HELD_OUT_SHARE * args.hours, ENGLISH_SHARES, args.seed + 1)
    model = build_model(args, log_priors(learned))
    batches = RecognizerBatches(learned, args.frames, args.batch_size, args.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), args.learning_rate, betas=(0.9, 0.98), weight_decay=args.weight_decay
    )
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    facts = {
        "Data": f"{args.hours:g} hours of words in {len(words)} languages as espeak-ng speaks them"
        + (f", and {len(learned[0][0])} recordings of people." if args.recordings else "."),
        "Stage": "Phoneme recogniser, for recordings without a transcript.",
    }
    run = TrainingRun(accelerator, args, model, optimizer, facts)
    for batch in run.micro_batches(batches):
        with accelerator.accumulate(prepared):
            loss = prepared(**batch).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            prepared_optimizer.step()
            prepared_optimizer.zero_grad()
        if accelerator.sync_gradients:
            run.step_done({"loss": loss}, lambda: measure(model, held))
    run.finish(lambda: measure(model, held))


if __name__ == "__main__":
    run_script(main)
