"""The variants of each study, as command lines of the training scripts.

A stage's options may name folders in braces: `{data}`, `{face_centric_data}`, `{tokenizer}`, `{keyframes}` are the
arguments of `ablate.py`, `{run}` is the folder of the variant and its seed. What all variants of a study have in
common (`ablate.settings_of`) may be named likewise.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One training run: a script, its folder within the variant's, its options, and its share of --steps."""

    script: str
    folder: str
    options: tuple[str, ...]
    steps: float = 1.0


@dataclass(frozen=True)
class Variant:
    """`label` names the row of the table; no stages: nothing is trained."""

    name: str
    label: str
    stages: tuple[Stage, ...] = ()
    data: str = "{data}"


@dataclass(frozen=True)
class Study:
    """`needs`: arguments of `ablate.py` without which it cannot run. `columns`: figures of the table, in order."""

    name: str
    title: str
    variants: tuple[Variant, ...]
    needs: tuple[str, ...]
    columns: tuple[str, ...]


def keyframe_stage(*options: str) -> Stage:
    return Stage("train_keyframes.py", "keyframes", ("--tokenizer", "{tokenizer}", "--phase", "1", *options))


def attention(name: str, label: str, mode: str, past: int = 0, future: int = 0) -> Variant:
    options = ["--attention_mode", mode]
    if mode == "window":
        options += ["--past_units", str(past), "--future_units", str(future)]
    return Variant(name, label, (keyframe_stage(*options),))


def losses(number: int, label: str, lpips: int, identity: int, facial: int) -> Variant:
    weights = ("--lambda_lpips", str(lpips), "--lambda_identity", str(identity), "--lambda_facial", str(facial))
    networks = ("--perceptual", "{loss_perceptual}", "--pictures_per_clip", "{pictures_per_clip}")
    options = ("--tokenizer", "{tokenizer}", "--phase", "2", "--init_from", "{keyframes}", *weights, *networks)
    return Variant(f"exp{number}", f"{number}: {label}", (Stage("train_keyframes.py", "keyframes", options),))


def quantizer(kind: str, label: str) -> Variant:
    options = ("--phase", "expression", "--quantizer", kind, "--portrait_share", "{portrait_share}")
    return Variant(kind, label, (Stage("train_tokenizer.py", "tokenizer", options),))


def cropping(name: str, label: str, data: str) -> Variant:
    expression = ("--phase", "expression", "--portrait_share", "0")
    paint = ("--phase", "paint", "--portrait_share", "0", "--smile_share", "0", "--init_from", "{run}/codes")
    keyframes = ("--tokenizer", "{run}/tokenizer", "--phase", "1", "--batch_size", "8", "--learning_rate", "2e-3")
    stages = (
        Stage("train_tokenizer.py", "codes", expression),
        Stage("train_tokenizer.py", "tokenizer", paint, 0.5),
        Stage("train_keyframes.py", "keyframes", keyframes, 0.25),
    )
    return Variant(name, label, stages, data)


MOTION = ("lip opening r", "mouth width r")
PICTURES = ("Fréchet distance", "Fréchet video distance", "LPIPS", "PSNR", "SSIM")
UNSEEN = ("gap of /m b p/, % of the crop", "gap of open vowels, %")
STUDIES = {
    study.name: study
    for study in (
        Study(
            "attention",
            "Attention modes (the paper's Table 2)",
            (
                attention("full", "Non-Causal (full)", "full"),
                attention("causal", "Causal Acc. (causal)", "causal"),
                attention("limited_history", "Lim. Hist. (limited_history)", "limited_history"),
                attention("one_to_one", "One-to-One (one_to_one)", "one_to_one"),
                attention("window_2_1", "Window, 2 before and 1 after", "window", 2, 1),
                attention("window_2_2", "Window, 2 before and 2 after", "window", 2, 2),
            ),
            ("data", "tokenizer"),
            (*MOTION, "held-out loss", *PICTURES, *UNSEEN),
        ),
        Study(
            "interpolation",
            "The interpolator against straight lines and the nearest keyframe",
            (
                Variant("learned", "Interpolator (selective state space)"),
                Variant("linear", "Straight lines between the codes"),
                Variant("nearest", "The nearest keyframe's code"),
            ),
            ("data", "tokenizer", "keyframes", "interpolation"),
            (*MOTION, "gain of the opening", "change from frame to frame", *PICTURES),
        ),
        Study(
            "quantizer",
            "Lookup-free against vector quantisation",
            (quantizer("lfq", "LFQ"), quantizer("vq", "VQ")),
            ("data",),
            ("lip error, % of the crop", "lip opening r", "mouth width r", "mouth PSNR over copying", "codes in use"),
        ),
        Study(
            "losses",
            "Loss terms (the paper's Table 4)",
            (
                losses(1, "CE", 0, 0, 0),
                losses(2, "CE + LPIPS", 1, 0, 0),
                losses(5, "CE + Identity", 0, 1, 0),
                losses(6, "CE + Facial", 0, 0, 1),
                losses(3, "CE + LPIPS + Identity", 1, 1, 0),
                losses(4, "CE + LPIPS + Facial", 1, 0, 1),
                losses(7, "CE + Identity + Facial", 0, 1, 1),
                losses(8, "CE + LPIPS + Identity + Facial", 1, 1, 1),
            ),
            ("data", "tokenizer", "keyframes"),
            ("Fréchet distance", "LPIPS", "PSNR", "SSIM", *MOTION, "held-out loss"),
        ),
        Study(
            "cropping",
            "Cropping strategies (the paper's Table 3)",
            (
                cropping("face_centric", "Face-Centric Cropping", "{face_centric_data}"),
                cropping("pose_driven", "Pose-Driven Landmark Cropping", "{data}"),
            ),
            ("data", "face_centric_data"),
            ("ISS", *MOTION, "LPIPS", "PSNR", "SSIM"),
        ),
    )
}
