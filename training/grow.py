"""Makes a wider or deeper model of a trained one, which answers as it did and has room to learn more.

In    --model DIR (a model folder), --width K (every width times K), --depth K (blocks times K).
Out   --output DIR: the grown model with its tokenizer, config and thresholds; how far its answers moved is printed.
Run   python -m training.grow --model outputs/main/final --output outputs/grown --width 2
      accelerate launch training/train.py RECIPE --start_from outputs/grown --output_dir outputs/more
      (a RECIPE that says nothing of sizes under `model`)

Width is exact for both kinds of block; depth is exact in Pre-LN blocks, bit for bit, and in Post-LN blocks up to the
eps of a norm (redheart_hf/growth.py says why). Copies are told apart by noise that cancels; --noise 0 leaves them
equal, and then they stay so where there is no dropout. A result that answers differently is not saved.

Exit codes: 0 done, 1 a fault of the program, 2 something you can mend.
"""

import argparse
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from preprocessing.errors import UserError, run
from preprocessing.folders import write_folder
from redheart_hf import RedHeartForMultiTask
from redheart_hf.growth import grow, grown_config
from training.inference import evaluation_mode
from training.loading import load_model
from training.report import with_section
from training.run_facts import check_memory
from training.tokenizer_files import save_tokenizer

TEXTS = (
    "I told my manager the truth about the delay, and now I wish I had done it a week earlier.",
    "친구에게 빌린 돈을 아직 갚지 못했는데, 오늘도 연락을 피하고 말았다.",
    "Thank you so much, this made my day!",
    "할머니 손을 잡고 병원 복도를 걷는 동안 아무 말도 하지 않았다.",
)
TOLERANCE, LIMIT = 1e-5, 1e-4  # 1e-5 of the largest answer, or of one: large logits round coarsely; never above LIMIT
CARD = """\
## Growth

Grown from `{grown_from}`, whose card this is so far: every width {width} times, blocks {depth} times as many;
{after:,} parameters from {before:,} (`python -m training.grow`). It answers as that model does, within
{distance:.0e}, and has learned nothing since: the figures above are that model's.
"""


def answers(model: RedHeartForMultiTask, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Everything the heads say of TEXTS, in one row."""
    inputs = tokenizer(list(TEXTS), padding=True, truncation=True, max_length=model.config.max_length)
    with evaluation_mode(model):
        output = model(**{name: torch.tensor(ids, device=model.device) for name, ids in inputs.items()})
    heads = (output.emotion, output.ethics, output.regret, output.surd, output.dynamics)
    parts = [part for head in heads if head is not None for part in head.values()]
    return torch.cat([part.float().flatten() for part in parts])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model to grow")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must not exist")
    parser.add_argument("--width", type=int, default=1, help="times every width and number of heads (%(default)s)")
    parser.add_argument("--depth", type=int, default=1, help="times the number of blocks (%(default)s)")
    parser.add_argument(
        "--noise", type=float, default=0.1, help="what tells copies apart, in deviations (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise UserError(f"{arguments.output} exists already; give another folder, or remove it")
    if min(arguments.width, arguments.depth) < 1 or arguments.width * arguments.depth == 1:
        raise UserError(f"--width {arguments.width} --depth {arguments.depth} would not grow anything; give one of 2")
    if not 0 <= arguments.noise <= 1:
        raise UserError(f"--noise must lie in 0..1, got {arguments.noise}")
    if not 0 <= arguments.seed < 2**63:
        raise UserError(f"--seed must lie in 0..2^63 - 1, got {arguments.seed}")
    return arguments


def check_growth(model: RedHeartForMultiTask, arguments: argparse.Namespace) -> None:
    """Raises UserError when what was asked for cannot be built, or not in this machine's memory."""
    if arguments.depth > 1 and not len(model.model.blocks):
        raise UserError(f"{arguments.model} has no block to put others behind; --depth cannot grow it")
    try:
        check_memory(grown_config(model.config, arguments.width, arguments.depth))
    except ValueError as error:
        raise UserError(f"{arguments.model} cannot grow so: {error}; try --depth alone") from error


def main() -> None:
    arguments = parse_arguments()
    model, tokenizer = load_model(arguments.model)
    check_growth(model, arguments)
    grown = grow(model.cpu(), arguments.width, arguments.depth, arguments.noise, arguments.seed)
    before = answers(model, tokenizer)
    distance = float((answers(grown, tokenizer) - before).abs().max())
    allowed = min(LIMIT, TOLERANCE * max(1.0, float(before.abs().max())))
    if not distance < allowed:
        remedy = "give less --noise" if arguments.noise else "please report this: without noise it is a fault of ours"
        raise UserError(
            f"with --noise {arguments.noise} the grown model's answers differ by {distance:.2e}, more than the "
            f"{allowed:.2e} of rounding; nothing was saved, {remedy}"
        )

    sizes = {"before": model.num_parameters(), "after": grown.num_parameters(), "distance": distance}

    def write(folder: Path) -> None:
        grown.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        if (arguments.model / "README.md").is_file():
            section = CARD.format(**vars(arguments), grown_from=arguments.model.resolve().name, **sizes)
            card = with_section((arguments.model / "README.md").read_text(encoding="utf-8"), section)
            (folder / "README.md").write_text(card, encoding="utf-8")

    write_folder(arguments.output, write, {"grown_from": arguments.model.name})
    print(
        f"{arguments.output}: {sizes['after']:,} parameters from {sizes['before']:,}; "
        f"answers moved by {distance:.1e} at most"
    )


if __name__ == "__main__":
    run(main)
