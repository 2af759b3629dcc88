"""Growth: a wider and deeper model that computes what the small one does, and can learn more.

In    a trained RedHeartForMultiTask, how many times wider, how many times deeper.
Out   a new model with the same outputs up to rounding.
Run   `python -m training.grow --model DIR --output DIR --width 2`

Width. Every vector of the small model is laid k times beside itself. A linear layer that reads such a vector gets its
weights k times, divided by k (HyperCloning, Samragh et al. 2024, arXiv 2409.12903); norms see the same mean and
variance; heads are copied whole, so that rotary angles and softmax stay. Where a dot product is scaled by the root of
its length, one factor is divided by the root of k. Copies alone would get equal gradients for ever: noise that adds up
to zero over the k copies of an input leaves the function as it is and makes them differ.

Depth. A Pre-LN block whose last layers give zero passes its input on, bit for bit. A Post-LN block ends in a norm: the
block before hands its scale and shift to the new one's last norm and keeps none, the new one's other norm has none,
and a normed vector is normed again, which changes it by rounding and by eps only.

What is read by a text encoder stays as it is, and is laid beside itself where it goes past the input projection;
slots, experts, labels and layers of analyzers stay as many.
"""

import torch
from torch import nn

from .configuration_redheart import RedHeartConfig
from .modeling_blocks import PreNormBlock
from .modeling_head_emotion import SlotAttention
from .modeling_projections import AttentionPooling
from .modeling_redheart import RedHeartForMultiTask

KEPT_SIZES = ("vocab_size", "type_vocab_size")


def grown_config(config: RedHeartConfig, width: int = 1, depth: int = 1) -> RedHeartConfig:
    """`width` times every width and number of heads, `depth` times the blocks; raises ValueError for less than 1."""
    if not all(isinstance(times, int) and times >= 1 for times in (width, depth)):
        raise ValueError(f"width and depth must be whole numbers of at least 1, got {width} and {depth}")
    fields = config.to_dict()
    for name, value in fields.items():
        if name.endswith(("_size", "_sizes", "_heads", "num_filters")) and name not in KEPT_SIZES:
            fields[name] = [width * one for one in value] if isinstance(value, list) else width * value
    return type(config)(**fields | {"num_hidden_layers": depth * config.num_hidden_layers})


def grow(
    model: RedHeartForMultiTask, width: int = 2, depth: int = 1, noise: float = 0.1, seed: int = 0
) -> RedHeartForMultiTask:
    """The grown model, in float32 and with the small one's outputs up to rounding.

    `noise` is the deviation of what tells copies apart, as a part of each weight's own; zero leaves them equal. It
    cancels in exact arithmetic and is rounded like every weight, so that it may not be larger than they are. Raises
    ValueError unless it lies in [0, 1] and `width` and `depth` are whole numbers of at least 1.
    """
    if not 0 <= noise <= 1:
        raise ValueError(f"noise must lie in [0, 1], parts of each weight's own deviation, got {noise}")
    grown = RedHeartForMultiTask(grown_config(model.config, width, depth))
    generator = torch.Generator().manual_seed(seed)
    owners = dict(model.named_modules())
    with torch.no_grad():
        targets = dict(grown.named_parameters()) | dict(grown.named_buffers())
        sources = dict(model.named_parameters()) | dict(model.named_buffers())
        for name, small in sources.items():
            name_in_grown = deeper_name(name, depth)
            owner_name, _, leaf = name.rpartition(".")
            parent = owners[owner_name.rpartition(".")[0]]
            target = targets[name_in_grown]
            target.copy_(widened(small, target.shape, owners[owner_name], parent, owner_name, leaf, noise, generator))
        if depth > 1:
            insert_identities(grown, model, depth)
    return grown.train(model.training)


def deeper_name(name: str, depth: int) -> str:
    """Block i of the small model is block i * depth of the grown one; the blocks between are new."""
    parts = name.split(".")
    if parts[:2] == ["model", "blocks"]:
        parts[2] = str(int(parts[2]) * depth)
    return ".".join(parts)


def widened(small, shape, owner: nn.Module, parent: nn.Module, owner_name: str, leaf: str, noise: float, generator):
    """`small` laid beside itself until it has `shape`, scaled so that the layer computes what it did."""
    times = [new // old for new, old in zip(shape, small.shape, strict=True)]
    if not small.ndim:
        return small
    large = small.repeat(*times)
    if isinstance(owner, nn.Linear) and leaf == "weight":
        large = large / times[1]
        if times[1] > 1 and noise:
            large = large + cancelling_noise(large, small, times[1], noise, generator)
    if isinstance(owner, AttentionPooling):
        large = large / times[1] ** 0.5
    if isinstance(parent, SlotAttention) and owner_name.endswith("q_proj"):
        large = large / times[0] ** 0.5
    return large


def cancelling_noise(large, small, copies: int, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Noise that sums to zero over the `copies` of each input."""
    drawn = torch.randn(len(large), copies, small.shape[1], generator=generator)
    drawn = (drawn - drawn.mean(dim=1, keepdim=True)) * (noise * float(small.std()) / copies)
    return drawn.flatten(1).to(large)


def insert_identities(grown: RedHeartForMultiTask, model: RedHeartForMultiTask, depth: int) -> None:
    """Make every new block pass its input on."""
    blocks = grown.model.blocks
    for index, block in enumerate(blocks):
        if index % depth == 0:
            continue
        block.load_state_dict(blocks[index - index % depth].state_dict())
        for projection in (block.attention.o_proj, block.mlp.down_proj):
            projection.weight.zero_()
            projection.bias.zero_()
        if model.config.block_type == "post_ln_swiglu":
            pass_norm_on(blocks[index - 1], block)


def pass_norm_on(before: PreNormBlock, block: PreNormBlock) -> None:
    """`block` takes over the last norm of the block `before` it, which then only standardises."""
    block.mlp_norm.load_state_dict(before.mlp_norm.state_dict())
    for norm in (before.mlp_norm, block.attention_norm):
        norm.weight.fill_(1.0)
        norm.bias.zero_()
