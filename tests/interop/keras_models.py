"""What tests of Keras share: Keras on PyTorch, if it is there, and models with random weights."""

import os
import warnings

import numpy as np
import pytest


def keras_on_torch():
    """Keras, or a skip."""
    pytest.importorskip("pyfive", reason="pyfive is not installed: pip install pyfive")
    chosen = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = "torch"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("keras", reason="Keras is not installed: pip install keras")
    finally:
        if chosen is None:
            del os.environ["KERAS_BACKEND"]


def fill(model, seed=0):
    """Random weights: biases and moments too, so that what is dropped or taken twice is seen."""
    random = np.random.default_rng(seed)
    model.set_weights([_random(random, weight) for weight in model.weights])
    return model


def _random(random, weight):
    if not np.issubdtype(np.dtype(str(weight.dtype)), np.floating):
        return np.asarray(weight)
    array = random.normal(size=weight.shape) * 0.35
    return (np.abs(array) + 0.1 if "variance" in weight.path else array).astype("float32")
