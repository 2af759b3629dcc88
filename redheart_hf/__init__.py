"""Red Heart: a text in Korean or English goes in; emotion, Bentham ethics and regret come out.

In    `from redheart_hf import RedHeartForMultiTask`
Out   the public classes; importing one also registers them with the Auto classes of Transformers.
Run   `RedHeartForMultiTask.from_pretrained("outputs/main/final")`

Names are loaded when first used, so that `redheart_hf.labels` can be read without importing torch.
"""

from importlib import import_module

_HOME_OF = {
    "RedHeartConfig": ".configuration_redheart",
    "RedHeartModel": ".modeling_redheart",
    "RedHeartForMultiTask": ".modeling_redheart",
    "RedHeartPipeline": ".pipeline_redheart",
    "preset_config": ".presets",
    "PRESETS": ".presets",
}

__all__ = ["PRESETS", "RedHeartConfig", "RedHeartForMultiTask", "RedHeartModel", "RedHeartPipeline", "preset_config"]
__version__ = "0.1.0"


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name], __name__), name)
    if name.startswith("RedHeart"):
        _register()
    if name == "RedHeartPipeline":
        _register_pipeline(value)
    return value


def _register() -> None:
    """Teach the Auto classes our model type, so that a saved folder loads without remote code."""
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    from .configuration_redheart import RedHeartConfig
    from .modeling_redheart import RedHeartForMultiTask, RedHeartModel

    AutoConfig.register("redheart", RedHeartConfig, exist_ok=True)
    AutoModel.register(RedHeartConfig, RedHeartModel, exist_ok=True)
    AutoModelForSequenceClassification.register(RedHeartConfig, RedHeartForMultiTask, exist_ok=True)


def _register_pipeline(kind) -> None:
    """Teach `transformers.pipeline` the task red-heart."""
    from transformers import AutoModelForSequenceClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    if "red-heart" not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            "red-heart", pipeline_class=kind, pt_model=AutoModelForSequenceClassification, type="text"
        )
