"""Which layers stay in full precision when bitsandbytes loads a model in 4 or 8 bits.

In    a model (on `meta` will do), a BitsAndBytesConfig.
Out   the config with the names of those layers added to its `llm_int8_skip_modules`.
Run   `RedHeartForMultiTask.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True))`

Converted are plain `nn.Linear` layers: attention and feed-forward of blocks, encoder, analyzers and experts, where
nearly all weights are. Kept are
  * the layers that give the answers (AnswerLinear): a few thousand weights each, whose rounding would be in the answer
    itself, with nothing after it that could make up for it;
  * layers of fewer than SMALL weights, whose memory is not worth their rounding;
  * layers whose input is no multiple of BLOCK, which the 4-bit kernels cannot lay into blocks;
  * keys and values of the regret analyzer, whose weights are also used apart from the layer (modeling_analyzers.py).
"""

import copy
from typing import Any

from torch import nn

SMALL, BLOCK = 1 << 14, 64
USED_APART = ("k_proj", "v_proj")


def kept_in_full(model: nn.Module, bits: int) -> list[str]:
    """Names of plain linear layers that are not converted."""
    kept = []
    for name, module in model.named_modules():
        if type(module) is not nn.Linear:
            continue
        apart = "regret_analyzer" in name.split(".") and name.endswith(USED_APART)
        unfit = bits == 4 and module.in_features % BLOCK
        if apart or unfit or module.in_features * module.out_features < SMALL:
            kept.append(name)
    return kept


def with_kept(model: nn.Module, quantization_config: Any) -> Any:
    """A copy of `quantization_config` that keeps those too; one of another library as it is."""
    if not (
        getattr(quantization_config, "load_in_4bit", False) or getattr(quantization_config, "load_in_8bit", False)
    ):
        return quantization_config
    changed = copy.deepcopy(quantization_config)
    kept = kept_in_full(model, 4 if changed.load_in_4bit else 8)
    changed.llm_int8_skip_modules = [*(changed.llm_int8_skip_modules or []), *kept]
    return changed
