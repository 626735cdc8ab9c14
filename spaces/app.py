"""AvatarSync's web demo: `python app.py`, then open the address that it prints."""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Serve AvatarSync's web demo.")
    parser.add_argument("--model", default=os.environ.get("AVATARSYNC_MODEL"), help="folder or Hub id of a model")
    parser.add_argument("--device", default=os.environ.get("AVATARSYNC_DEVICE", "cpu"), help="cpu, cuda … (cpu)")
    parser.add_argument(
        "--adapters", default=os.environ.get("AVATARSYNC_ADAPTERS"), help="an adapter, or a folder of them"
    )
    parser.add_argument("--host", default=None, help="address to serve on; 0.0.0.0 is all (default: this computer)")
    parser.add_argument("--port", type=int, default=None, help="port to serve on (default: the first free from 7860)")
    args = parser.parse_args(arguments)

    # Gradio keeps uploads here; the folder goes when the demo ends or is ended, whatever the sweeps have left.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="avatarsync-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        from rendering_jobs import Studio, find_adapters

        from avatarsync import AvatarSyncError, AvatarSyncPipeline

        try:
            talk = AvatarSyncPipeline.from_pretrained(args.model, device=args.device)
            studio = Studio(talk, find_adapters(args.adapters))
        except AvatarSyncError as error:
            sys.exit(f"avatarsync: error: {error}")
        try:
            from interface import Demo
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            sys.exit('avatarsync: error: the demo needs gradio: pip install "avatarsync[demo]"')
        examples = Path(folder) / "examples"
        examples.mkdir()
        Demo(studio, examples).launch(server_name=args.host, server_port=args.port)


if __name__ == "__main__":
    main()
