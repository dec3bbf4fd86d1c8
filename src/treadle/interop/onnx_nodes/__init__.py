"""A program as nodes of ONNX: ``writer.py`` puts them down, ``operations.py`` has those of each operation."""
