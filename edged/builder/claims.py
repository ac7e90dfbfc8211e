"""Compare the size of a model that a configuration claims with the weights that are there.

Transformers makes a model of the claimed size before it reads a weight: a wrong number takes all
memory of the machine, or hours.
"""

from collections.abc import Collection
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from edged.errors import BuildError

# What there are as many of as modules with weights of their own.
_COUNTS = ("num_hidden_layers", "num_experts", "num_local_experts")
_HARMLESS = 100_000_000


def check_claims(config: PretrainedConfig, sizes: Collection[int], source: Path) -> None:
    """Check that a configuration is roughly that of the weights; takes less than a second.

    Args:
        config: Of the model.
        sizes: The number of elements of each tensor.
        source: The file or folder, for messages.

    Raises:
        BuildError: The model would be far larger than its weights.
    """
    text = config.get_text_config()
    for name in _COUNTS:
        count = getattr(text, name, None)
        if isinstance(count, int) and count > len(sizes):
            raise BuildError(
                f"{source}: {name} is {count}, and there are {len(sizes)} tensors: the "
                "configuration does not belong to these weights"
            )
    # Without memory for its weights.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    claimed = sum(parameter.numel() for parameter in model.parameters())
    if claimed > max(2 * sum(sizes), _HARMLESS):
        raise BuildError(
            f"{source}: the configuration is that of a model of {claimed} parameters, and there "
            f"are {sum(sizes)}: it does not belong to these weights"
        )
