"""From a bundle on disk to an engine in memory."""

from edged.bundle import Bundle, GraphKind, KvType
from edged.engine import fused, portable
from edged.engine.loop import Engine
from edged.engine.session import open_session
from edged.engine.signature import check_facts, read_signature
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
    form: type[fused.FusedGraph | portable.PortableGraph] = fused.FusedGraph
    required, optional = fused.INPUTS, fused.OPTIONAL_INPUTS
    if manifest.graph is GraphKind.PORTABLE:
        form, required, optional = portable.PortableGraph, portable.INPUTS, portable.OPTIONAL_INPUTS
    check_facts(read_signature(session, required, optional), manifest.model)
    graph = form(
        session,
        min(settings.max_model_len, manifest.limits.max_model_len),
        settings.num_slots + settings.num_prefixes,
    )
    return Engine(
        graph,
        manifest.stop_token_ids,
        settings.prefill_chunk_tokens,
        is_exact=manifest.is_exact,
        is_guessing=settings.is_guessing,
        num_prefixes=settings.num_prefixes,
    )
