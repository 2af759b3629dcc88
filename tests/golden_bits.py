"""Golden files that several machines have recorded: what must come out bit for bit on each of them.

In    a golden file's `machines`: what `numerics` says of a machine, as a line -> a checksum of what came out there.
Out   the checksum of the machine at hand, or a skipped test that says how to record it; `machines` with it added.
Run   through tests/test_model_protection.py and tests/test_train_golden.py; alone it prints this machine's line:
      OMP_NUM_THREADS=1 PYTHONPATH=. python tests/golden_bits.py
"""

import argparse
import hashlib
import json
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import torch

from training.run_facts import numerics


def this_machine() -> str:
    """Everything bits depend on, in one line: with another processor, thread or version it is another machine."""
    return ", ".join(f"{name} {value}" for name, value in sorted(numerics(torch.device("cpu")).items()))


def checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def bits_on_record(golden: dict[str, Any], test_file: str) -> Any:
    """What this machine has on record; where it has nothing, the test that asks is skipped and says what to run."""
    machine = this_machine()
    if machine not in golden["machines"]:
        pytest.skip(
            f"no bits are on record for this machine ({machine}); to record them, from a tree whose tests pass: "
            f"OMP_NUM_THREADS=1 PYTHONPATH=. python tests/{Path(test_file).name} --add-machine"
        )
    return golden["machines"][machine]


def with_this_machine(machines: dict[str, Any], bits: Any) -> dict[str, Any]:
    """`machines` and this one; ends the program where it is there already with other bits, which would be lost."""
    machine = this_machine()
    if machines.get(machine, bits) != bits:
        raise SystemExit(f"{machine} has other bits on record: find out what moved them, or record all anew")
    return dict(sorted((machines | {machine: bits}).items()))


def asked_to_add() -> bool:
    """Whether the command line says --add-machine; without it everything is to be recorded anew."""
    parser = argparse.ArgumentParser(description="Writes a golden file anew, with this machine's bits alone.")
    parser.add_argument("--add-machine", action="store_true", help="keep it, and add the bits of this machine")
    return parser.parse_args().add_machine


def write_golden(path: Path, **parts: str) -> None:
    """One JSON object; `parts` are its values as JSON text, so that each may be laid out for its reader."""
    path.parent.mkdir(exist_ok=True)
    body = ",\n".join(f"{json.dumps(name)}: {text}" for name, text in parts.items())
    path.write_text("{\n" + indent(body, "  ") + "\n}\n", encoding="utf-8")
    print(f"{path} written for {this_machine()}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(this_machine())
