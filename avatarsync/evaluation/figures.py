"""The figures in the order of the table, what they are called there, and which way is better."""

from dataclasses import dataclass

from .measuring import Networks


@dataclass(frozen=True)
class Figure:
    """`key` in the metrics' results; `better`: "↑", "↓", or the value that is best."""

    key: str
    label: str
    better: str
    form: str

    def show(self, value: float | None) -> str:
        return "" if value is None else f"{value:{self.form}}"


def figures_of(networks: Networks) -> list[Figure]:
    """All that can be measured with these networks; those that stand in for another carry their own names."""
    figures = [Figure("psnr", "PSNR, dB", "↑", ".2f"), Figure("ssim", "SSIM", "↑", ".4f")]
    if networks.lpips is not None:
        figures.append(Figure(networks.lpips.name, networks.lpips.name, "↓", ".4f"))
    for network in (networks.fid, networks.fvd):
        if network is not None:
            figures.append(Figure(network.figure, network.figure, "↓", ".4g"))
    if networks.sync is not None:
        distance, confidence = networks.sync.figures
        figures += [
            Figure(distance, distance, "↓", ".3f"),
            Figure(confidence, confidence, "↑", ".3f"),
            Figure("sync_offset_within_1", "best offset of the sound within ±1 frame", "↑", ".0%"),
        ]
    if networks.identity is not None:
        key = f"ISS/{networks.identity.name}"
        figures.append(Figure(key, key, "↓", ".4f"))
    for curve, name in (("opening", "lip opening"), ("width", "mouth width")):
        figures += [
            Figure(f"{curve}_r", f"{name}, Pearson r", "↑", ".3f"),
            Figure(f"{curve}_gain", f"{name}, gain", "1", ".2f"),
            Figure(f"{curve}_lag", f"{name}, lag in frames", "0", "+.2f"),
            Figure(f"{curve}_lag_within_1", f"{name}, lag within ±1 frame", "↑", ".0%"),
        ]
    for kind, name in (("bilabials", "/m b p/"), ("silences", "silences")):
        figures.append(Figure(f"{kind}_shut", f"{name} that are shut", "↑", ".0%"))
    return [*figures, Figure("flicker_over_real", "flicker over the real video's", "1", ".2f")]
