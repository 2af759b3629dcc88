"""What loading a published model takes of memory, beside what its weights are.

In    --preset (redheart-4.3b: 8.7 GB of disk and of memory) and --output, a folder for its weights, made where there
      are none: as initialised, in bfloat16 and shards of 2 GB.
Out   a line a way of loading: GB of weights, the most that was resident, what of it was no file's page, and their
      ratios to the weights; the interpreter with its libraries, as it stood before, is taken off.
Run   OMP_NUM_THREADS=1 python benchmarks/loading.py --output outputs/loading
      sudo python benchmarks/loading.py --output outputs/loading --limit 1.1

Each way is a process of its own that loads the model and then reads every weight, looked at every 5 ms. Weights in the
precision of their file are not copied: they are pages of it, which count as resident once read. --limit puts each into
a control group of so many times its weights beside the interpreter, files' pages included; who loads there has shown
that it needs no more.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from preprocessing.memory_room import PROC, numbers_in
from redheart_hf import RedHeartForMultiTask, preset_config
from tests.control_group import ROOT, Group

WAYS = {"bf16": {"dtype": torch.bfloat16}, "auto": {"dtype": "auto"}, "device_map": {"device_map": "auto"}}
WAYS["device_map"]["dtype"] = "auto"
LEFT = 1 << 30
"""Bytes a control group has beside the weights, for the interpreter and the libraries' pages."""


def own_bytes() -> tuple[int, int]:
    """Resident, and of that what is no file's page."""
    found = numbers_in(PROC / "self" / "status")
    return found["VmRSS"], found["RssAnon"]


def load(way: str, folder: Path) -> dict[str, int]:
    before, most, ended = own_bytes(), [0, 0], threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            most[:] = map(max, most, own_bytes())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    model = RedHeartForMultiTask.from_pretrained(folder, **WAYS[way]).eval()
    with torch.no_grad():
        assert all(torch.isfinite(parameter.sum()) for parameter in model.parameters())
    ended.set()
    watcher.join()
    size = sum(part.nbytes for part in [*model.parameters(), *model.buffers()])
    return {"weights": size, "resident": most[0] - before[0], "anonymous": most[1] - before[1]}


def made(preset: str, folder: Path) -> Path:
    """The folder, there only once all of it is."""
    if not folder.exists():
        model = RedHeartForMultiTask._from_config(preset_config(preset), dtype=torch.bfloat16)
        model.save_pretrained(folder.with_suffix(".partial"), max_shard_size="2GB")
        folder.with_suffix(".partial").rename(folder)
    return folder


def measured(way: str, folder: Path, limit: float | None) -> dict[str, int]:
    command = [sys.executable, __file__, "--output", str(folder), "--way", way]
    if limit is None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    else:
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        place = Path("/sys/fs/cgroup/memory")
        version = 1 if place.is_dir() else 2
        group = Group((place if version == 1 else place.parent) / f"redheart-loading-{os.getpid()}", version)
        group.folder.mkdir()
        try:
            done = group.run(int(limit * size) + LEFT, command)
        finally:
            group.folder.rmdir()
    if done.returncode:
        sys.exit(f"{way}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="redheart-4.3b")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--limit", type=float, help="of a control group, as a multiple of the weights")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(load(options.way, options.output)))
        return
    folder = options.output.absolute() / options.preset
    maker = [
        sys.executable,
        "-c",
        "import sys; from benchmarks.loading import made, Path; made(sys.argv[1], Path(sys.argv[2]))",
    ]
    subprocess.run([*maker, options.preset, str(folder)], cwd=ROOT, check=True)
    print("| way | weights, GB | resident | without files' pages |\n|---|---:|---:|---:|")
    for way in WAYS:
        found = measured(way, folder, options.limit)
        cells = [
            f"{found[kind] / 1e9:.2f} ({found[kind] / found['weights']:.3f} ×)" for kind in ("resident", "anonymous")
        ]
        print(f"| {way} | {found['weights'] / 1e9:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
