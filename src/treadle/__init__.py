"""treadle: networks with memory. A cell is one step, a wiring of cells is a cell, time is applied from outside."""

from treadle import starting as _starting  # noqa: F401  before what takes a second

# isort: split
import importlib as _importlib
from typing import Any as _Any

from treadle import adapt, control, errors, interop, streams
from treadle.cells import (
    CfCCell,
    ConvLSTMCell,
    ConvLSTMState,
    CoupledLSTMCell,
    GRUCell,
    HiddenState,
    IndRNNCell,
    LayerNormLSTMCell,
    LSTMCell,
    LSTMState,
    MinGRUCell,
    MinimalGatedCell,
    MinLSTMCell,
    MLSTMCell,
    MLSTMState,
    PeepholeLSTMCell,
    RecurrentHighwayCell,
    RGLRUCell,
    RNNCell,
    SLSTMCell,
    SLSTMState,
    ZoneoutLSTMCell,
)
from treadle.control import ClosedLoop, Continuous, Discrete, Environment
from treadle.files.model_file import fingerprint, load, save
from treadle.files.state_file import load_state, save_state
from treadle.gradients import CheckpointedBPTT, FullBPTT, History, SequenceInPieces, TruncatedBPTT
from treadle.insight.check import check_cell
from treadle.insight.explain import explain
from treadle.insight.explanation import Explanation
from treadle.insight.reach import GradientReach, gradient_reach
from treadle.insight.record import Record, record
from treadle.insight.rounding import RoundingReport, rounding_error
from treadle.protocol import Cell, State
from treadle.running.dropin import GRU, LSTM, RNN
from treadle.running.recurrent import Recurrent
from treadle.running.reversed import Reversed
from treadle.running.session import Session
from treadle.running.sessions import Sessions
from treadle.running.taken_steps import repeat_last
from treadle.seq2seq import Attention, Bidirectional, EncoderDecoder
from treadle.state import detach, select
from treadle.wiring import WIRINGS, Graph, MeanCell, MeanState, NoisyStateCell, Stack, sum_of

__version__ = "0.1.0"

__all__ = [
    "GRU", "LSTM", "RNN", "WIRINGS", "Attention", "Bidirectional", "Cell", "CfCCell", "CheckpointedBPTT",
    "ClosedLoop", "Continuous", "ConvLSTMCell", "ConvLSTMState", "CoupledLSTMCell", "Discrete", "EncoderDecoder",
    "Environment", "Explanation", "FullBPTT", "GRUCell", "GradientReach", "Graph", "HiddenState", "History",
    "IndRNNCell", "LSTMCell", "LSTMState", "LayerNormLSTMCell", "MLSTMCell", "MLSTMState", "MeanCell", "MeanState",
    "MinGRUCell", "MinLSTMCell", "MinimalGatedCell", "NoisyStateCell", "PeepholeLSTMCell", "RGLRUCell", "RNNCell",
    "Record", "Recurrent", "RecurrentHighwayCell", "Reversed", "RoundingReport", "SLSTMCell", "SLSTMState",
    "SequenceInPieces", "Session", "Sessions", "Stack", "State", "TruncatedBPTT", "ZoneoutLSTMCell", "adapt",
    "check_cell", "control", "detach", "errors", "explain", "fingerprint", "gradient_reach", "interop", "load",
    "load_state", "record", "repeat_last", "rounding_error", "save", "save_state", "select", "streams", "sum_of",
]  # fmt: skip


def __getattr__(name: str) -> _Any:
    """`treadle.show` and `treadle.serving` when they are first asked for: what they import takes a second."""
    if name in ("show", "serving"):
        return _importlib.import_module(f"treadle.{name}")
    raise AttributeError(f"module 'treadle' has no attribute {name!r}")
