"""Export with Optimum and compare with the torch model. Runs in ``child``.

Rule: fp32, not optimized, because the export is the reference of all later comparisons.
"""

import gc
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from optimum.exporters.onnx import onnx_export_from_model
from optimum.exporters.tasks import TasksManager
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from edged.builder.child import OnProgress, one_line
from edged.builder.claims import check_claims
from edged.builder.hffolder import tensor_sizes
from edged.engine.loading import load_graph
from edged.errors import BuildError

# Largest logit difference, as a fraction of the largest logit.
TOLERANCE = 1e-3

_TASK = "text-generation-with-past"
_STEPS = 3
_PROMPT_LEN = 24
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)


def export_checkpoint(on_progress: OnProgress, checkpoint: str, folder: str) -> dict[str, Any]:
    """Export the Hugging Face folder ``checkpoint`` into the empty folder ``folder``.

    Returns:
        ``max_abs_diff`` and ``logit_scale``, as ``export.Export`` names them.

    Raises:
        BuildError: Optimum does not support the model, or the export's logits differ.
    """
    source, target = Path(checkpoint), Path(folder)
    on_progress(0, _STEPS)
    token_ids, reference = _export(source, target, on_progress)
    gc.collect()
    found = _run(target / "model.onnx", token_ids)
    scale = float(np.abs(reference).max())
    difference = float(np.abs(found - reference).max())
    if not difference <= TOLERANCE * scale:
        raise BuildError(
            f"the export is not the same model: its logits differ by {difference:.4g} at a "
            f"scale of {scale:.4g} (allowed {TOLERANCE * scale:.4g})"
        )
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    on_progress(3, _STEPS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak resident memory: {peak} bytes", flush=True)
    return {"max_abs_diff": difference, "logit_scale": scale}


def _export(
    source: Path, target: Path, on_progress: OnProgress
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Export; return token ids and the torch model's logits for them.

    Raises:
        BuildError: Transformers or Optimum does not support the model.
    """
    try:
        _check_family(source)
        model = _load(source)
        token_ids, reference = _reference(model)
        on_progress(1, _STEPS)
        # Without a path Optimum does not rewrite the tokenizer, which is copied unchanged instead.
        model.config.name_or_path = ""
        # No merged decoder: its If branches crash ONNX Runtime's prepacking (onnxruntime#31137).
        onnx_export_from_model(
            model, target, task=_TASK, no_post_process=True, do_validation=False, device="cpu"
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        kind = json.loads((source / "config.json").read_bytes()).get("model_type")
        raise BuildError(f"Optimum cannot export a {kind} model: {one_line(error)}") from error
    on_progress(2, _STEPS)
    return token_ids, reference


def _check_family(source: Path) -> None:
    """Check that Optimum supports the model, before its weights are read.

    Raises:
        ValueError: Optimum has no export with a KV cache for it.
    """
    kind = AutoConfig.from_pretrained(source, local_files_only=True).model_type
    known = TasksManager.get_supported_tasks_for_model_type(
        kind, "onnx", library_name="transformers"
    )
    if _TASK not in known:
        raise ValueError(f"it knows no {_TASK} for it")


def _load(source: Path) -> Any:  # noqa: ANN401 - transformers is untyped
    """Load the torch model.

    Raises:
        BuildError: Weights are damaged or missing, have other shapes, or are far fewer.
    """
    config = AutoConfig.from_pretrained(source, local_files_only=True)
    check_claims(config, tensor_sizes(source), source)
    # torch's fast attention silently ignores a soft cap; the eager one applies it.
    is_capped = getattr(config, "attn_logit_softcapping", None) is not None
    model, info = AutoModelForCausalLM.from_pretrained(
        source,
        attn_implementation="eager" if is_capped else None,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        # Transformers would initialize missing weights at random and only warn: checked below.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    for problem, key in (("missing", "missing_keys"), ("of another shape", "mismatched_keys")):
        if names := info[key]:
            raise BuildError(
                f"{source}: weights are {problem}: {', '.join(sorted(names)[:5])}; "
                "config.json does not belong to these weights"
            )
    model.eval()
    model.config.use_cache = True
    return model


def _reference(model: Any) -> tuple[NDArray[np.int64], NDArray[np.float32]]:  # noqa: ANN401 - transformers is untyped
    """Run fixed random tokens in torch: all but the last in one pass, the last with the cache."""
    size = model.get_input_embeddings().weight.shape[0]
    token_ids = np.random.default_rng(0).integers(0, size, _PROMPT_LEN + 1)
    tensor = torch.from_numpy(token_ids)[None]
    with torch.inference_mode():
        cache = DynamicCache(config=model.config)
        first = model(tensor[:, :-1], past_key_values=cache, use_cache=True)
        last = model(tensor[:, -1:], past_key_values=first.past_key_values, use_cache=True)
    logits = torch.cat([first.logits[0], last.logits[0]]).float().numpy()
    return token_ids, logits


def _run(model_path: Path, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Run the same passes in the engine."""
    graph = load_graph(model_path, is_fused=False, max_model_len=len(token_ids))
    first = graph.forward(token_ids[:-1], 0, all_rows=True).copy()
    last = graph.forward(token_ids[-1:], len(token_ids) - 1, all_rows=True)
    return np.concatenate([first, last])
