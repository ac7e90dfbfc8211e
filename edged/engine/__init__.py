"""The inference engine: the only importer of onnxruntime."""
