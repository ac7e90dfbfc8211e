"""The inference engine: the only importer of onnxruntime."""

from edged.engine.graph import Graph, SingleGraph, load_graph
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.sequence import Sequence
from edged.engine.source import StepSource
from edged.engine.steps import Constraint, EngineSettings, Failed, Prefilled, Ran, Step, Token

__all__ = [
    "Constraint",
    "Engine",
    "EngineSettings",
    "Failed",
    "Graph",
    "Prefilled",
    "Ran",
    "Sequence",
    "SingleGraph",
    "Step",
    "StepSource",
    "Token",
    "load_engine",
    "load_graph",
]
