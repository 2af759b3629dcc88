"""Serve the page: type a text, a choice or a dialogue in Korean or English and see what a model says of it.

In    --model DIR, the folder final/ of a run, or --repo-id org/name of a hub directory (--hub DIR); maybe --run DIR, a
      training run whose curves are shown too, and --similar INDEX (training/similar.py).
Out   a page at http://127.0.0.1:7860, for this machine alone unless --host says otherwise.
Run   python -m demo --model outputs/main/final
      python -m demo --repo-id my-lab/red-heart-tiny --hub ~/hub --port 8000 --run outputs/main

Nothing is loaded from the network, nothing that is typed is kept, and no question is answered twice as often as
--per-minute allows. With --host 0.0.0.0 anybody who reaches this machine can ask; put a server with TLS before it.
Needs the extra demo: pip install -c constraints.txt -e '.[train,demo,explain]'

Exit codes: 0 ended by Ctrl-C, 1 a fault of the program, 2 something you can mend.
"""

import argparse
import os
import tempfile
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

from preprocessing.errors import UserError, run
from training.hub_names import check_repo_id

THREADS = 2  # questions that are computed at the same time


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--model", type=Path, metavar="DIR", help="model folder with its tokenizer")
    place.add_argument("--repo-id", metavar="ORG/NAME", help="a model published in --hub")
    parser.add_argument("--hub", type=Path, metavar="DIR", help="hub directory of --repo-id")
    parser.add_argument("--revision", default="main", help="its tag or version (%(default)s)")
    parser.add_argument("--run", type=Path, metavar="RUN_DIR", help="show this run's curves on a page of their own")
    parser.add_argument("--similar", type=Path, metavar="INDEX", help="show the nearest texts of an index")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="(%(default)s)")
    parser.add_argument("--per-minute", type=int, default=60, help="questions a visitor may ask (%(default)s)")
    parser.add_argument("--most-characters", type=int, default=4000, help="of what is typed at once (%(default)s)")
    arguments = parser.parse_args()
    if (arguments.repo_id is None) != (arguments.hub is None):
        raise UserError("--repo-id is a name in a hub directory: give --hub with it, and no --hub without it")
    for name in ("per_minute", "most_characters"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(arguments, name)}")
    if not 0 < arguments.port < 65536:
        raise UserError(f"--port must lie in 1 to 65535, got {arguments.port}")
    return arguments


def model_folder(arguments: argparse.Namespace) -> Path:
    if arguments.model is not None:
        return arguments.model
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                check_repo_id(arguments.repo_id),
                cache_dir=arguments.hub,
                revision=arguments.revision,
                local_files_only=True,
            )
        )
    except OSError as error:
        raise UserError(f"{arguments.hub} has no {arguments.repo_id} at {arguments.revision}: {error}") from error


def curves_of(run_dir: Path) -> str:
    from training.curves import draw_run

    with tempfile.TemporaryDirectory() as folder:
        return draw_run(run_dir, Path(folder))[-1].read_text(encoding="utf-8")


def main() -> None:
    arguments = parse_arguments()
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            f"the page needs the extra demo: pip install -c constraints.txt -e '.[demo]' ({error})"
        ) from None
    from demo.draw import CSS
    from demo.page import Settings, build
    from redheart_hf import RedHeartPipeline
    from training.loading import load_model

    model, tokenizer = load_model(model_folder(arguments))
    ask = RedHeartPipeline(model=model.eval(), tokenizer=tokenizer, task="red-heart")
    settings = Settings(
        most_characters=arguments.most_characters, per_minute=arguments.per_minute, index=arguments.similar
    )
    page = build(ask, settings, curves_of(arguments.run) if arguments.run else None)
    fonts = ["system-ui", "Noto Sans KR", "Apple SD Gothic Neo", "Malgun Gothic", "sans-serif"]
    page.queue(max_size=256, default_concurrency_limit=THREADS)
    page.launch(
        server_name=arguments.host,
        server_port=arguments.port,
        share=False,
        show_error=False,
        max_file_size="1kb",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        theme=gradio.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )


if __name__ == "__main__":
    run(main)
