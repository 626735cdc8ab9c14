"""Which data and models a study was run on: digests that change with what the folders hold, wherever they are."""

import hashlib
from pathlib import Path

DATA_FOLDERS = ("clips", "portraits", "reenacted")
CHUNK = 1 << 20


def digest_of(folder: Path) -> str:
    """Sixteen digits of a dataset that prepare_data.py wrote, or of a trained model."""
    digest = hashlib.sha256()
    if (folder / "schema.json").exists():
        digest.update((folder / "schema.json").read_bytes())
        # Names, sizes and the state, which is another whenever rows are written, tell datasets apart without reading
        # gigabytes; `datasets` leaves caches beside them.
        for part in DATA_FOLDERS:
            for file in sorted((folder / part).rglob("*")):
                if file.is_file() and not file.name.startswith(("cache-", ".", "tmp")):
                    digest.update(f"{file.relative_to(folder).as_posix()} {file.stat().st_size}\n".encode())
                    digest.update(file.read_bytes() if file.name == "state.json" else b"")
        return digest.hexdigest()[:16]
    for file in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        digest.update(file.name.encode())
        with file.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]
