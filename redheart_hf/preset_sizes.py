"""The numbers behind the presets: what each changes in RedHeartConfig, whose defaults are redheart-330m.

In    nothing.
Out   PRESETS: name -> fields.
Run   `python -m redheart_hf.presets` shows what they weigh.

Backbones are given by the systems they belong to; widths of heads and analyzers fill up to the total in the name.
"""

from typing import Any

TINY = {
    "vocab_size": 4096,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "task_size": 96,
    "task_projection_size": 112,
    "task_specialization_size": 80,
    "task_attention_size": 80,
    "num_task_attention_heads": 4,
    "emotion_trunk_sizes": [192],
    "moe_intermediate_size": 64,
    "emotion_level_size": 128,
    "emotion_culture_size": 96,
    "emotion_attention_size": 96,
    "ethics_trunk_sizes": [192],
    "ethics_expert_sizes": [128],
    "regret_trunk_sizes": [192],
    "regret_view_sizes": [128],
    "surd_trunk_sizes": [192],
    "surd_term_sizes": [128],
    "analyzer_size": 96,
    "num_analyzer_heads": 4,
    "num_emotion_analyzer_layers": 1,
    "emotion_analyzer_intermediate_size": 192,
    "num_ethics_analyzer_layers": 1,
    "ethics_analyzer_intermediate_size": 192,
    "num_regret_analyzer_layers": 1,
    "regret_analyzer_intermediate_size": 192,
    "num_surd_analyzer_layers": 1,
    "surd_analyzer_intermediate_size": 192,
    "num_filters": 64,
    "filter_mixer_size": 96,
    "affect_observer_sizes": [128],
    "memory_slots": 256,
}

# The stable kind: Post-LN, SwiGLU, He initialisation, little dropout.
STABLE = {
    "block_type": "post_ln_swiglu",
    "initialization": "he",
    "hidden_dropout": 0.02,
    "attention_dropout": 0.02,
    "layer_norm_eps": 1e-6,
}

# Heads of half the weight: 40M instead of 80M.
HALF_HEADS = {
    "emotion_trunk_sizes": [1024, 1024],
    "moe_intermediate_size": 512,
    "emotion_level_size": 768,
    "emotion_culture_size": 960,
    "emotion_attention_size": 768,
    "ethics_trunk_sizes": [1024, 1024],
    "ethics_expert_sizes": [1536, 640],
    "regret_trunk_sizes": [1024, 1024],
    "regret_view_sizes": [1792, 1216],
    "surd_trunk_sizes": [1024, 1024],
    "surd_term_sizes": [2048, 2304],
}
HALF_ANALYZERS = {
    "num_emotion_analyzer_layers": 2,
    "num_ethics_analyzer_layers": 2,
    "num_regret_analyzer_layers": 2,
    "num_surd_analyzer_layers": 1,
}

# 60 layers in front of the smallest heads: the model that killed a machine of 62 GB.
SMALL_HEADS = {
    "task_size": 256,
    "task_projection_size": 256,
    "task_specialization_size": 256,
    "task_attention_size": 256,
    "emotion_trunk_sizes": [512],
    "moe_intermediate_size": 256,
    "emotion_level_size": 512,
    "emotion_culture_size": 512,
    "emotion_attention_size": 256,
    "ethics_trunk_sizes": [512],
    "ethics_expert_sizes": [512],
    "regret_trunk_sizes": [512],
    "regret_view_sizes": [512],
    "surd_trunk_sizes": [512],
    "surd_term_sizes": [512],
    "modules": ["surd_head"],
}

LEGACY_MODULES = ["surd_head", "emotion_analyzer", "ethics_analyzer", "regret_analyzer", "surd_analyzer"]


def backbone(hidden_size: int, layers: int, heads: int, intermediate_size: int) -> dict[str, int]:
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate_size,
    }


def analyzers(emotion: int, ethics: int, regret: int, surd: int) -> dict[str, int]:
    """Inner widths of the four analyzers' layers."""
    return {
        "emotion_analyzer_intermediate_size": emotion,
        "ethics_analyzer_intermediate_size": ethics,
        "regret_analyzer_intermediate_size": regret,
        "surd_analyzer_intermediate_size": surd,
    }


# redheart-330m with every width doubled, as `training.grow --width 2` makes it; slots and layers stay as many.
GROWN = {
    **backbone(1536, 6, 24, 6144),
    "task_size": 1024,
    "task_projection_size": 1280,
    "task_specialization_size": 960,
    "task_attention_size": 960,
    "num_task_attention_heads": 16,
    "emotion_trunk_sizes": [4096, 3072],
    "moe_intermediate_size": 2048,
    "emotion_level_size": 2752,
    "emotion_culture_size": 3840,
    "emotion_attention_size": 2048,
    "ethics_trunk_sizes": [4096, 3072],
    "ethics_expert_sizes": [5376, 1728],
    "regret_trunk_sizes": [4096, 3072],
    "regret_view_sizes": [6144, 2688],
    "surd_trunk_sizes": [4096, 3072],
    "surd_term_sizes": [6144, 6016],
    "analyzer_size": 1536,
    "num_analyzer_heads": 24,
    **analyzers(9984, 8320, 9984, 10368),
    "num_filters": 3456,
    "filter_mixer_size": 3200,
    "affect_observer_sizes": [4096, 3776],
}

PRESETS: dict[str, dict[str, Any]] = {
    "redheart-tiny": TINY,
    "redheart-tiny-stable": TINY | STABLE,
    "redheart-200m": {
        **backbone(640, 10, 10, 2560),
        **HALF_HEADS,
        **HALF_ANALYZERS,
        "num_filters": 1536,
        "filter_mixer_size": 1280,
        "affect_observer_sizes": [1024, 1024],
    },
    "redheart-330m": {},
    "redheart-730m": {**backbone(1280, 18, 20, 5120), **analyzers(7936, 6784, 7936, 8576)},
    "redheart-800m": {
        **backbone(1024, 24, 16, 4096),
        "analyzer_size": 1024,
        "num_analyzer_heads": 16,
        **analyzers(9088, 8256, 9088, 9280),
    },
    "redheart-1.3b": GROWN,
    "redheart-4.3b": {
        **STABLE,
        **backbone(2560, 32, 40, 10240),
        "analyzer_size": 1536,
        "num_analyzer_heads": 24,
        **analyzers(10880, 10048, 10880, 11008),
    },
    "redheart-6.8b": {**backbone(3072, 60, 48, 12288), **SMALL_HEADS},
    "redheart-legacy-200m": {
        **backbone(768, 12, 12, 3072),
        **HALF_HEADS,
        **HALF_ANALYZERS,
        **analyzers(3392, 2560, 3392, 3584),
        "modules": LEGACY_MODULES,
    },
    "redheart-legacy-320m": {
        **backbone(1024, 12, 16, 4096),
        **HALF_ANALYZERS,
        **analyzers(4224, 3392, 4224, 4416),
        "modules": LEGACY_MODULES,
    },
    "redheart-legacy-800m": {
        **backbone(1280, 24, 20, 5120),
        **analyzers(7936, 7104, 7936, 8128),
        "modules": LEGACY_MODULES,
    },
}
