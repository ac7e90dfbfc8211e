"""The inference engine: the only importer of onnxruntime."""

from edged.engine.graph import Graph, load_graph
from edged.engine.loop import Engine
from edged.engine.steps import Constraint, EngineSettings, Prefilled, Token

__all__ = [
    "Constraint",
    "Engine",
    "EngineSettings",
    "Graph",
    "Prefilled",
    "Token",
    "load_graph",
]
