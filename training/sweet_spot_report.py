"""The sweet spots of a run as text.

In    sweet_spot_analysis.json as a dictionary.
Out   a table of modules, what each verdict means, the checkpoints that are named.
Run   through training/sweet_spot.py
"""

from typing import Any

from training.sweet_spot_curve import AT_REST, FEW, FLAT, LEVEL, MOVING, RISING, SWEET, UNMOVED

MEANS = {
    SWEET: ("정점", "the module was best there, and is worse at the end by more than chance"),
    RISING: ("상승 중", "it was best at the last checkpoint: longer training may help it"),
    LEVEL: ("수렴", "it rose and then stayed: no checkpoint is better than the end by more than chance"),
    FLAT: ("평탄", "no checkpoint differs from the end by more than chance"),
    FEW: ("체크포인트 부족", "too few checkpoints to say anything"),
    UNMOVED: ("변화 없음", "its tensors never changed"),
    AT_REST: ("이동 정지", "judged by movement alone: it hardly moved from there on"),
    MOVING: ("이동 중", "judged by movement alone: it moved to the end"),
}
"""Verdict -> its Korean name, what it means."""


def report_of(found: dict[str, Any]) -> str:
    lines = ["Sweet spots (모듈별 정점)", ""]
    lines += [
        f"{len(found['seen'])} checkpoints, {found['rows']:,} rows of dev's choosing half, {found['samples']:,} "
        f"resamples; the other modules are held at {found['reference']}, the best whole checkpoint.",
        "",
        f"{'checkpoint':<44} {'epoch':>7} {'score':>7}  95 % interval",
    ]
    for fact in found["seen"]:
        low, high = fact["interval"]
        rounded = "  weights in bfloat16" if fact["precision"] == "bfloat16" else ""
        lines.append(
            f"{fact['checkpoint']:<44} {fact['epoch']:>7.2f} {fact['score']:>7.4f}  [{low:.4f}, {high:.4f}]{rounded}"
        )
    lines += ["", f"{'module':<22} {'signal':<24} {'verdict':<20} {'epoch':>6} {'confidence':>10}"]
    for module, of in found["modules"].items():
        signal = f"{of['signal']} ({', '.join(of['tasks'])})" if of["signal"] == "score" else of["signal"]
        epoch = "-" if of["epoch"] is None else f"{of['epoch']:.2f}"
        confidence = "-" if of["confidence"] is None else f"{of['confidence']:.2f}"
        lines.append(f"{module:<22} {signal:<24} {of['verdict']:<20} {epoch:>6} {confidence:>10}")
    lines += ["", "Why:", *(f"  {module}: {of['why']}" for module, of in found["modules"].items()), ""]
    met = {of["verdict"] for of in found["modules"].values()}
    lines += [f"{verdict} ({korean}): {meaning}." for verdict, (korean, meaning) in MEANS.items() if verdict in met]
    named = ", ".join(found["checkpoints"]) or "none"
    return "\n".join([*lines, "", f"Checkpoints named: {named}", ""])
