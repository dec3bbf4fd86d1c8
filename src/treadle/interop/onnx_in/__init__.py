"""Graphs of ONNX as modules of PyTorch.

``file.py`` reads a file without trusting it, ``cells.py`` has the steps of LSTM, GRU and RNN nodes with all that ONNX
lets them do, ``recurrent.py`` runs them over time, ``operations.py`` the nodes around them. ``step.py`` takes a graph
step by step, ``network.py`` is the graph.
"""
