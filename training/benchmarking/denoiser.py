"""What a user would have picked instead: the UNet of Stable Diffusion 1.5, with which Hallo, EchoMimic and V-Express
denoise every frame. diffusers' own class with that checkpoint's sizes and random weights: time does not depend on
them. One pass is timed; what a second of video takes is extrapolated from it.

Left out, in the others' favour: their reference and audio networks, motion modules, image decoder, and the frames that
their windows share and draw twice.
"""

import torch

from .setting import Setting, Stopwatch

# Of the published checkpoint stable-diffusion-v1-5; what is not named is the class's default.
CONFIG = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
CONTEXT_TOKENS = 77
# Defaults of the published inference scripts: steps, passes a step (2: with and without the condition), frames/s.
SYSTEMS = {
    "Hallo": {"steps": 40, "guidance_passes": 2, "fps": 25, "source": "configs/inference/default.yaml"},
    "EchoMimic": {"steps": 30, "guidance_passes": 2, "fps": 24, "source": "infer_audio2vid.py"},
    "V-Express": {"steps": 25, "guidance_passes": 2, "fps": 30, "source": "inference.py"},
}


def random_unet(config: dict) -> torch.nn.Module:
    """The UNet with weights of small noise, without the minutes that its own initialisation takes."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    unet = unet.to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in unet.parameters():
        parameter.normal_(0.0, 0.02, generator=generator)
    return unet


@torch.inference_mode()
def denoiser(setting: Setting, passes: int = 1, config: dict = CONFIG) -> dict:
    """Seconds of one pass for one frame of 512 px, and of a second of video by each system, extrapolated."""
    unet = random_unet(config)
    side = config["sample_size"]
    sample, step = torch.randn(1, config["in_channels"], side, side), torch.tensor(500)
    context = torch.randn(1, CONTEXT_TOKENS, config["cross_attention_dim"])
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    unet(sample, step, context)  # warm-up: memory is touched, kernels are chosen
    watch = Stopwatch.start()
    for _ in range(passes):
        unet(sample, step, context)
    wall, cpu = (seconds / passes for seconds in watch.read())
    systems = {}
    for name, system in SYSTEMS.items():
        count = system["steps"] * system["guidance_passes"]
        systems[name] = system | {
            "passes_per_frame": count,
            "seconds_per_frame_extrapolated": count * wall,
            "ratio_extrapolated": count * wall * system["fps"],
        }
    return {"parameters": parameters, "seconds_per_pass": wall, "cpu_per_pass": cpu, "systems": systems}
