"""The GPU of this machine; and one that is only pretended, so that a plan can be made where there is none.

In    nothing.
Out   a torch.device that tensors of a plan can be on.
Run   through training/memory_plan.py

torch lets a backend be written in Python (its PrivateUse1 key). Ours has no kernels at all: fake tensors need none.
They keep their shapes, types and places, and an operation on fake tensors of two places is refused as on a real GPU: a
plan also shows that a placement holds together, but for the batch's own tensors, which are real. What a GPU's autocast
casts is registered here by its own list (aten/src/ATen/autocast_mode.h). It is for a process that plans, never for one
that trains.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils import backend_registration

PRETENDED = "gpu"
LOWER = "linear matmul mm addmm bmm baddbmm addbmm addmv mv conv1d prelu scaled_dot_product_attention"
"""Operations that autocast on a GPU computes in the lower precision."""
WHOLE = (
    "softmax.int log_softmax.int layer_norm exp log log1p pow.Tensor_Scalar pow.Tensor_Tensor rsqrt reciprocal "
    "softplus sum sum.dim_IntList prod cumsum norm.Scalar mse_loss l1_loss smooth_l1_loss huber_loss "
    "cosine_similarity binary_cross_entropy_with_logits"
)
"""Those that it computes in float32."""


def planned_gpu() -> torch.device:
    """The GPU at hand, else the pretended one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else pretended_gpu()


@cache
def pretended_gpu() -> torch.device:
    backend_registration._setup_privateuseone_for_python_backend(PRETENDED, backend_module=PretendedModule())
    rest = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    rest.fallback(torch.library.fallthrough_kernel)
    library = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
    for names, lower in ((LOWER, True), (WHOLE, False)):
        for name in names.split():
            library.impl(name, casting(operator_of(name), lower))
    PretendedModule.registered = (rest, library)  # what they registered holds as long as they do
    return torch.device(PRETENDED, 0)


def operator_of(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def casting(operator: Any, lower: bool) -> Callable[..., Any]:
    """`operator` on floating tensors cast as autocast casts them."""

    def cast(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(cast, value))
        if not (isinstance(value, torch.Tensor) and value.is_floating_point() and value.device.type != "cpu"):
            return value
        return value.to(torch.get_autocast_dtype(PRETENDED) if lower else torch.float32)

    own = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, "AutocastPrivateUse1"))  # noqa: B009, not in its stubs

    def computed(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(own):
            return operator(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})

    return computed


class PretendedModule(backend_registration._DummyBackendModule):
    """What torch asks of a device's module; there is one device, and nothing is random on it."""

    registered: tuple[torch.library.Library, ...]

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed: int) -> None:
        """Nothing is drawn there."""
