"""What one layer does in one time step: one cell a file, over the small shared base in ``base.py``.

A cell file is its recurrence. Start with ``lstm.py``.
"""

from treadle.cells.activations import ACTIVATIONS, Activation
from treadle.cells.base import RecurrentCell
from treadle.cells.cfc import CfCCell
from treadle.cells.conv_lstm import ConvLSTMCell, ConvLSTMState
from treadle.cells.coupled_lstm import CoupledLSTMCell
from treadle.cells.gru import GRUCell
from treadle.cells.independent_rnn import IndRNNCell
from treadle.cells.layer_norm_lstm import LayerNormLSTMCell
from treadle.cells.lstm import LSTMCell, LSTMState
from treadle.cells.min_gru import MinGRUCell
from treadle.cells.min_lstm import MinLSTMCell
from treadle.cells.minimal_gated import MinimalGatedCell
from treadle.cells.mlstm import MLSTMCell, MLSTMState
from treadle.cells.peephole_lstm import PeepholeLSTMCell
from treadle.cells.recurrent_highway import RecurrentHighwayCell
from treadle.cells.rg_lru import RGLRUCell
from treadle.cells.rnn import HiddenState, RNNCell
from treadle.cells.slstm import SLSTMCell, SLSTMState
from treadle.cells.zoneout_lstm import ZoneoutLSTMCell

__all__ = [
    "ACTIVATIONS", "Activation", "CfCCell", "ConvLSTMCell", "ConvLSTMState", "CoupledLSTMCell", "GRUCell",
    "HiddenState", "IndRNNCell", "LSTMCell", "LSTMState", "LayerNormLSTMCell", "MLSTMCell", "MLSTMState", "MinGRUCell",
    "MinLSTMCell", "MinimalGatedCell", "PeepholeLSTMCell", "RGLRUCell", "RNNCell", "RecurrentCell",
    "RecurrentHighwayCell", "SLSTMCell", "SLSTMState", "ZoneoutLSTMCell",
]  # fmt: skip
