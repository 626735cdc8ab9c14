"""Compute the neutral face and the mesh's triangles from the training clips of one speaker.

    python training/build_face_mesh.py --data DATA --speaker s1 --out avatarsync/tables/face_mesh.safetensors

The neutral face is the mean over frames with closed lips and open eyes. The triangulation is the Delaunay one of the
same face with its mouth opened (lips and eyelids would otherwise be connected across their gap); triangles whose
corners all lie on the inner lips, or on one eye's lids, are the interiors.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from command_line import run_script
from safetensors.torch import save_file
from scipy.spatial import Delaunay

from avatarsync.data.dataset import Rows, load
from avatarsync.errors import InvalidArgumentError
from avatarsync.face_mesh import (
    EYE_INTERIOR,
    FADE_RINGS,
    INNER_LIPS,
    LEFT_EYE_CONTOUR,
    MOUTH_INTERIOR,
    RIGHT_EYE_CONTOUR,
    SKIN,
    add_fade_rings,
)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="dataset that prepare_data.py wrote")
    parser.add_argument("--speaker", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    data = load(args.data)
    rows = Rows(data.clips["train"]) if data.clips else None
    own = [i for i, speaker in enumerate(rows.speakers) if speaker == args.speaker] if rows else []
    if not own:
        known = ", ".join(sorted(set(rows.speakers))) if rows else "none"
        raise InvalidArgumentError(f"the dataset has no clips of {args.speaker}; it has those of {known}")
    landmarks = np.concatenate([rows.landmarks(i) for i in own])
    lips = np.linalg.norm(landmarks[:, 13] - landmarks[:, 14], axis=-1)
    eyes = np.linalg.norm(landmarks[:, 159] - landmarks[:, 145], axis=-1)
    neutral = landmarks[(lips < np.quantile(lips, 0.15)) & (eyes > np.quantile(eyes, 0.5))].mean(0)
    opened = landmarks[lips > np.quantile(lips, 0.97)].mean(0)
    vertices = add_fade_rings(torch.from_numpy(opened)).numpy()
    triangles = Delaunay(vertices).simplices
    kinds = np.full(len(triangles), SKIN)
    for kind, contour in (
        (MOUTH_INTERIOR, INNER_LIPS),
        (EYE_INTERIOR, RIGHT_EYE_CONTOUR),
        (EYE_INTERIOR, LEFT_EYE_CONTOUR),
    ):
        kinds[np.isin(triangles, contour).all(1)] = kind
    # Give every triangle the same orientation, so that a folded one shows by its sign.
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    triangles[area < 0] = triangles[area < 0][:, ::-1]
    # Skin last: where triangles overlap, the rasteriser lets the later one win.
    order = np.argsort(kinds == SKIN, kind="stable")
    triangles, kinds = triangles[order], kinds[order]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "neutral_landmarks": torch.from_numpy(neutral.astype(np.float32)),
            "triangles": torch.from_numpy(triangles.astype(np.int16)),
            "triangle_kinds": torch.from_numpy(kinds.astype(np.uint8)),
        },
        args.out,
    )
    counts = [int((kinds == kind).sum()) for kind in (SKIN, MOUTH_INTERIOR, EYE_INTERIOR)]
    print(f"{len(vertices)} vertices with {len(FADE_RINGS)} rings, triangles: skin, mouth, eyes = {counts}")


if __name__ == "__main__":
    run_script(main)
