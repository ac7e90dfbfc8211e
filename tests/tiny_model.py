"""Write a toy but genuine decoder bundle: real input and output names, random weights, no torch.

Both graph forms compute the same function of the same weights, so one can be held against the
other. ``onnx`` is imported when a bundle is written, never when this module is imported.
"""

from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import edged
from edged.bundle.folder import write_manifest
from edged.bundle.manifest import (
    FORMAT,
    MODEL,
    MODEL_DATA,
    TOKENIZER,
    GraphKind,
    Manifest,
    ModelFacts,
    ModelLimits,
    Quality,
    QualityLimits,
    Source,
)
from tests.tiny_graphs import FusedForm, PortableForm, TinyConfig, import_onnx, tiny_weights

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Token ids 0, 1 and 2."""
STOP_TOKEN_ID = 2
MAX_MODEL_LEN = TinyConfig().max_model_len
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MERGES = (
    *("t h", "th e", "i n", "e r", "a n", "o n", "r e", "i s", "o u", "in g", "an d", "l l"),
    *("Ġ t", "Ġt he", "Ġ a", "Ġ s", "Ġ w", "Ġ c", "Ġ i", "Ġi s", "Ġ o", "Ġo f", "h e", "Ġ b"),
    *("ð Ł", "ðŁ ĺ", "ã ģ", "Ã ©", "e n", "a t", "o r", "e s", '" :', "Ġ Ġ"),
)


def write_tiny_bundle(
    folder: Path,
    *,
    fused: bool = True,
    seed: int = 0,
    chat_template: str | None = CHAT_TEMPLATE,
    config: TinyConfig = TinyConfig(),  # noqa: B008 - frozen
) -> Path:
    """Write the four files of a bundle into ``folder`` (made when missing) and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_model(folder / MODEL, config, fused=fused, seed=seed)
    write_tiny_tokenizer(folder / TOKENIZER)
    graph = GraphKind.FUSED if fused else GraphKind.PORTABLE
    parameters = (folder / MODEL_DATA).stat().st_size // 4
    facts = ModelFacts(
        "llama", parameters, config.vocab_size, config.num_layers, config.kv_bytes_per_token
    )
    manifest = tiny_manifest(facts, graph=graph, chat_template=chat_template)
    write_manifest(folder, replace(manifest, limits=ModelLimits(config.max_model_len)))
    return folder


def write_tiny_model(path: Path, config: TinyConfig, *, fused: bool = True, seed: int = 0) -> None:
    """Write the graph to ``path`` and its weights beside it."""
    onnx = import_onnx()
    graph = (FusedForm if fused else PortableForm)(config, tiny_weights(config, seed))
    model = graph.model()
    weights_path = path.with_name(path.name + ".data")
    weights_path.unlink(missing_ok=True)
    onnx.save_model(
        model,
        str(path),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=weights_path.name,
        size_threshold=1024,
    )


def write_tiny_tokenizer(path: Path) -> None:
    """Write a byte-level BPE tokenizer: any text round-trips through it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(left, right) for left, right in (merge.split(" ") for merge in MERGES)]
    words = [*SPECIAL_TOKENS, *alphabet, *(left + right for left, right in merges)]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL_TOKENS])
    tokenizer.save(str(path))


def tiny_manifest(
    facts: ModelFacts, *, graph: GraphKind, chat_template: str | None = CHAT_TEMPLATE
) -> Manifest:
    """Return the manifest of the toy; its files are filled in by ``write_manifest``."""
    quality = Quality(
        limits=QualityLimits(mean_kl=0.01, perplexity_ratio=1.01, argmax_agreement=0.95),
        passed=True,
        mean_kl=0.0,
        p99_kl=0.0,
        perplexity=1.0,
        reference_perplexity=1.0,
        perplexity_ratio=1.0,
        argmax_agreement=1.0,
        tokens=1,
        text="gate",
    )
    return Manifest(
        format=FORMAT,
        name="tiny",
        model=facts,
        source=Source("folder", "toy", None, "0" * 64),
        licence="Apache-2.0",
        graph=graph,
        scheme="fp32",
        limits=ModelLimits(MAX_MODEL_LEN),
        stop_token_ids=(STOP_TOKEN_ID,),
        chat_template=chat_template,
        bos_token=SPECIAL_TOKENS[1],
        eos_token=SPECIAL_TOKENS[STOP_TOKEN_ID],
        add_bos_token=False,
        quality=quality,
        tools={"edged": edged.__version__},
        files={},
    )
