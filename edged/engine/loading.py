"""From a bundle on disk to an engine in memory."""

from edged.bundle import Bundle, GraphKind, KvType
from edged.engine.graph import make_graph
from edged.engine.loop import Engine
from edged.engine.session import open_session
from edged.engine.steps import EngineSettings


def load_engine(bundle: Bundle, settings: EngineSettings) -> Engine:
    """Load a bundle's model; blocks for seconds.

    Raises:
        BundleError: the model cannot be loaded, or is not what the manifest says.
    """
    manifest, has_flash = bundle.manifest, settings.has_flash
    if has_flash is None:
        has_flash = manifest.model.kv_type is KvType.FP32
    session = open_session(
        settings.model_path or bundle.model_path,
        num_threads=settings.num_threads,
        has_flash=has_flash,
    )
    graph = make_graph(
        session,
        is_fused=manifest.graph is GraphKind.FUSED,
        max_model_len=min(settings.max_model_len, manifest.limits.max_model_len),
        num_slots=settings.num_slots + settings.num_prefixes,
        facts=manifest.model,
    )
    return Engine(
        graph,
        manifest.stop_token_ids,
        settings.prefill_chunk_tokens,
        is_exact=manifest.is_exact,
        is_guessing=settings.is_guessing,
        num_prefixes=settings.num_prefixes,
    )
