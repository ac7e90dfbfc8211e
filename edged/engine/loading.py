"""Load a model: as a graph, or as an engine that answers."""

from pathlib import Path

from edged.bundle.folder import Bundle
from edged.bundle.manifest import GraphKind, KvType
from edged.engine.fused import FusedGraph
from edged.engine.graph import Graph
from edged.engine.loop import Engine
from edged.engine.portable import PortableGraph
from edged.engine.session import open_session
from edged.engine.steps import EngineSettings


def load_graph(
    model_path: Path,
    *,
    is_fused: bool,
    max_model_len: int,
    num_threads: int | None = None,
    num_slots: int = 1,
    has_flash: bool = True,
) -> Graph:
    """Load ``model.onnx`` in any numeric scheme; blocks until its weights are prepacked.

    See ``GraphKind`` for the two forms, ``Graph`` and ``open_session`` for the other arguments.

    Raises:
        BundleError: ONNX Runtime refuses the model, or its inputs are not those of the form.
    """
    session = open_session(model_path, num_threads=num_threads, has_flash=has_flash)
    form = FusedGraph if is_fused else PortableGraph
    return form(session, max_model_len, num_slots)


def load_engine(bundle: Bundle, settings: EngineSettings) -> Engine:
    """Load a bundle's model; blocks for seconds.

    Raises:
        BundleError: the model cannot be loaded, or is not what the manifest says.
    """
    manifest, has_flash = bundle.manifest, settings.has_flash
    if has_flash is None:
        has_flash = manifest.model.kv_type is KvType.FP32
    path = settings.model_path or bundle.model_path
    session = open_session(path, num_threads=settings.num_threads, has_flash=has_flash)
    max_model_len = min(settings.max_model_len, manifest.limits.max_model_len)
    num_slots = settings.num_slots + settings.num_prefixes
    form = FusedGraph if manifest.graph is GraphKind.FUSED else PortableGraph
    graph = form(session, max_model_len, num_slots, manifest.model)
    return Engine(graph, manifest.stop_token_ids, settings, is_exact=manifest.is_exact)
