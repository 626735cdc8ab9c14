"""How it was measured: what goes with the figures so that they can be compared. No path of a machine is in it."""

import hashlib
import sys
from importlib import metadata
from pathlib import Path

from ..distribution_features import CLIP_FRAMES
from ..pipelines.talking_head import AvatarSyncPipeline
from ..sync import FPS, MAX_OFFSET
from ..version import __version__
from .material import OURS, REAL, Case, Material
from .measuring import Networks

SEED = 0
PACKAGES = ("torch", "transformers", "numpy", "scipy", "av", "evaluate", "datasets")
NETWORK_PURPOSES = {
    "lpips": "perceptual distance",
    "fid": "distribution of pictures",
    "fvd": f"distribution of pieces of {CLIP_FRAMES} frames",
    "sync": "lips and sound",
    "identity": "identity",
}


def describe(
    material: Material,
    measured: int,
    networks: Networks,
    talk: AvatarSyncPipeline | None,
    language: str,
    figures: dict[str, dict[str, float]],
) -> dict[str, str]:
    """The protocol by keyword.

    Args:
        measured: how many of the clips were.
        talk: the model that was run; None of pairs.
        language: of the transcripts.
        figures: by system, with the numbers of examples.
    """
    first = figures[material.systems[0]]
    protocol = {"clips": f"{measured}: {_describe_cases(material.cases, language)}"}
    if talk is not None:
        protocol[OURS] = (
            f"{_describe_model(talk)}; {FPS} frames a second, seed {SEED}, blinks and subtle motion of the head"
        )
    protocol |= {
        "frames": f"whole pictures at the real video's size, {FPS} a second, from where the sound starts; generated "
        "videos as their files hold them, compression included, from their first frame; as many as both have",
        "PSNR, SSIM": "PSNR of the mean squared error of all frames; SSIM with Wang et al.'s Gaussian window, mean "
        "over frames",
        "landmarks": "AvatarSync's bundled face aligner on all sides, frame by frame",
        "lips": "distances 13-14 and 61-291 over that of the eye centres; r, gain (ratio of standard deviations) and "
        "best of lags -5 … 5 frames (positive: generated is late) of each clip, then mean over clips",
        "closures": "share of the /m b p/ whose opening is at most 25 %, and of silences of 0.2 s and more whose is "
        "at most 15 % of the clip's 90th percentile; clips with a transcript or a phoneme track alone: "
        f"{_closures(first)}",
        "flicker": "mean squared second difference in time of all pixels, over the real video's",
    }
    if networks.sync is not None:
        protocol["sync"] = (
            f"SyncNet's protocol: windows of 5 frames, 0.2 s, offsets of -{MAX_OFFSET} … {MAX_OFFSET} frames; "
            "distance: the least mean distance, confidence: median less it, mean over clips"
        )
        accuracy = networks.sync.accuracy
        if accuracy is not None:
            protocol["sync"] += (
                f"; this network tells {accuracy:.1%} of the offsets of held-out clips of its training data within "
                "one frame"
            )
    if networks.fid is not None or networks.fvd is not None:
        sizes = {
            what: first.get(f"{key}_examples_generated") for key, what in (("fid", "pictures"), ("fvd", "pieces"))
        }
        counts = [f"{size} {what}" for what, size in sizes.items() if size is not None]
        protocol["distributions"] = (
            f"Fréchet distance of {' and '.join(counts)} a side; it falls with their number, so compare equal numbers"
        )
    for name, purpose in NETWORK_PURPOSES.items():
        network = getattr(networks, name)
        protocol[f"network, {purpose}"] = "none" if network is None else f"{network.name}, {network.source}"
    protocol[f"column {REAL}"] = "the real videos, measured as the generated ones are"
    return protocol | {"versions": _versions()}


def _describe_cases(cases: list[Case], language: str) -> str:
    counts = {
        "with a recording of its own (else the video's sound)": sum(not case.own_sound for case in cases),
        "with a portrait of its own (else the first frame)": sum(case.reference is not None for case in cases),
        f"with a transcript ({language})": sum(case.track is None and case.transcript is not None for case in cases),
        "with timed phonemes": sum(case.track is not None for case in cases),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "videos alone"


def _closures(figures: dict[str, float]) -> str:
    counts = [figures.get(f"{kind}_count", 0) for kind in ("bilabials", "silences")]
    return f"{counts[0]} and {counts[1]} cases"


def _describe_model(talk: AvatarSyncPipeline) -> str:
    folder = Path(talk.model.config._name_or_path)
    weights = folder / "model.safetensors"
    parameters = sum(parameter.numel() for parameter in talk.model.parameters()) / 1e6
    digest = f"sha256 {hashlib.sha256(weights.read_bytes()).hexdigest()}" if weights.is_file() else "from the Hub"
    return f"{folder.name}, {parameters:.2f} M parameters, {digest}"


def _versions() -> str:
    versions = [f"avatarsync {__version__}", f"python {sys.version.split()[0]}"]
    return ", ".join([*versions, *(f"{name} {metadata.version(name)}" for name in PACKAGES)])
