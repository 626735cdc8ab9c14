"""How long it takes to change the speaker, and whether the base is the same afterwards.

    python training/benchmark_identity.py ADAPTER [ADAPTER …] [--model FOLDER]

Prints milliseconds, the median of ten times each, and frames per second with and without an identity.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from command_line import run_script
from skimage.data import astronaut

from avatarsync import AvatarSyncPipeline
from avatarsync.adapters import base_digest

ROUNDS = 10


def milliseconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begun)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("adapters", nargs="+", help="folders or Hub ids that finetune_lora.py made")
    parser.add_argument("--model", help="folder or Hub id of the base; default: the bundled one")
    args = parser.parse_args(argv)
    talk = AvatarSyncPipeline.from_pretrained(args.model)
    digest, speech = base_digest(talk.model), talk.speak("Hello, it is good to see you.")

    def draw() -> np.ndarray:
        return talk(astronaut(), speech=speech).frames

    base = draw()
    names = [f"speaker{index}" for index in range(len(args.adapters))]
    times: dict[str, list[float]] = {"load": [], "set": [], "unload": []}
    for _ in range(ROUNDS):
        for name, adapter in zip(names, args.adapters, strict=True):
            times["load"].append(milliseconds(lambda name=name, adapter=adapter: talk.load_identity(adapter, name)))
        for name in [None, *names]:
            times["set"].append(milliseconds(lambda name=name: talk.set_identity(name)))
        times["unload"].append(milliseconds(talk.unload_identity))
    for action, values in times.items():
        print(f"{action + '_identity':16} {statistics.median(values):6.1f} ms, at most {max(values):.1f}")
    same = np.array_equal(draw(), base) and base_digest(talk.model) == digest
    print("unloaded: " + ("the base, bit for bit" if same else "NOT the base"))
    without = milliseconds(draw)
    talk.load_identity(args.adapters[0], names[0])
    draw()
    print(f"{1000 * len(base) / without:.1f} frames/s without an identity, "
          f"{1000 * len(base) / milliseconds(draw):.1f} with one")  # fmt: skip


if __name__ == "__main__":
    run_script(main)
