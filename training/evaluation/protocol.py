"""The protocol that goes with the figures: data, networks, formulas, versions. No path of this machine is in it."""

import argparse
import hashlib
import importlib.metadata
import sys
from pathlib import Path

from avatarsync import AvatarSyncPipeline
from avatarsync.version import __version__

from . import tokenizer
from .clips import FPS, MAX_LAG
from .motion import EYE_MARGIN, HEAD_MARGIN, MOUTH_MARGIN, STILL_LIPS
from .portraits import SENTENCE, TOOTHY_GAP

PACKAGES = ("torch", "transformers", "numpy", "av", "mediapipe", "onnxruntime")


def describe_model(model: str | None, talk: AvatarSyncPipeline) -> str:
    folder = Path(talk.model.config._name_or_path)
    weights = folder / "model.safetensors"
    parameters = sum(parameter.numel() for parameter in talk.model.parameters()) / 1e6
    digest = f"sha256 {hashlib.sha256(weights.read_bytes()).hexdigest()}" if weights.is_file() else "from the Hub"
    return f"{'bundled' if model is None else Path(model).name}, {parameters:.2f} M parameters, {digest}"


def describe(
    args: argparse.Namespace,
    talk: AvatarSyncPipeline,
    networks: dict[str, str],
    clips: int,
    portraits: int,
) -> dict[str, str]:
    """The protocol by keyword.

    Args:
        networks: what measured landmarks, LPIPS and identity.
        clips, portraits: how many were measured.
    """
    versions = [f"avatarsync {__version__}", f"python {sys.version.split()[0]}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    protocol = {"model": describe_model(args.model, talk), **networks}
    if clips:
        told = "sound alone, the words untold" if args.voice_alone else "sound and transcript, aligned by avatarsync"
        protocol["clips"] = (
            f"{clips} of the last {args.last} by name of {args.videos.name}; reference: the first frame; the clip's "
            f"{told}; {FPS} fps, seed 0, temperature 0, blinks on; real frames: "
            f"the ones nearest to k/{FPS} s; nothing is cut off at either end"
        )
        protocol["lips"] = (
            "distances 13-14 and 61-291 in units of the distance of the eye centres, in each frame; landmarks of each "
            "frame for itself, as for all measures (MediaPipe's image mode; smoothed: its video mode, which delays); "
            f"r over all frames of a clip, then mean over clips; best of lags -{MAX_LAG} … {MAX_LAG}, positive: "
            "generated is late; gain: ratio of standard deviations"
        )
        protocol["mouth region"] = (
            f"bounding box of the outer lips, real landmarks, wider by {MOUTH_MARGIN:.0%} of its width on all sides, "
            "native pixels; PSNR of the mean squared error of all frames but the reference, per clip; LPIPS per "
            "frame, boxes below 32 px continued by their edge; head held still: generated with motion 'still', and "
            "real frames brought to the place, turn and size that eyes and nose have in the reference, since heads "
            "move as they like"
        )
        protocol["sharpness"] = (
            "variance of the 4-neighbour Laplacian of BT.601 luma in each frame's own mouth region; each generated "
            "frame against the real frame of the nearest lip opening; ratio of the means"
        )
        protocol["flicker"] = (
            "mean squared second difference over time of RGB, everything but the mouth region of all frames"
        )
    if portraits:
        protocol["portraits"] = (
            f"{portraits}: every {args.every}th by name of {', '.join(folder.name for folder in args.portraits)}; "
            f'each says "{SENTENCE}" (espeak-ng, its own phoneme times, silence about it); '
            f"toothy: own inner-lip gap above {TOOTHY_GAP}"
        )
    if clips or portraits:
        protocol["closure"] = (
            "inner-lip gap of the frame nearest to the centre of each /m b p/, and of each silence of 0.2 s or more, "
            "over the 90th percentile of the same generated video; shares of all cases. It depends on what is said: "
            "where little but closures is, the percentile is low and the shares with it"
        )
        protocol["still lips"] = (
            f"frames about which no landmark of the lips' rims nor the chin moves on the head by {STILL_LIPS} eye "
            "distances within three frames, unsmoothed landmarks (still gap: the inner-lip gap alone does not); "
            "second difference over the box of the face oval without the eyes (wider by "
            f"{EYE_MARGIN:.0%} of their width)"
        )
        protocol["outside"] = (
            "pixels of all frames that differ from the input beyond the ellipse about the head in which the renderer "
            f"may move anything, larger by {HEAD_MARGIN - 1:.0%}"
        )
    if args.data:
        protocol["tokenizer"] = (
            f"crops and landmarks of the test splits of {args.data.name}; speaker: every "
            f"{tokenizer.EVERY_NTH_FRAME}th frame of the held-out clips on the first; "
            f"unseen: held-out portraits reenacted by {tokenizer.DRIVERS_PER_PORTRAIT} random frames of them each "
            "(seed 0), whose mouths they show, on the portrait; codes quantised; mouth region and PSNR as above, "
            "per clip or portrait"
        )
    return protocol | {"versions": ", ".join(versions)}
