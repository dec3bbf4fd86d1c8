"""Two networks over time, of which one begins where the other ended: encoder and decoder.

``encoder_decoder.py`` joins them; ``bridge.py`` makes one's final state the other's initial state, ``bidirectional.py``
reads in both directions, ``attention.py`` looks back at what the encoder gave. ``decoding.py`` runs the decoder live on
what it says itself.
"""

from treadle.running.bidirectional import Bidirectional
from treadle.seq2seq.attention import Attention, AttentionState
from treadle.seq2seq.bridge import Bridge
from treadle.seq2seq.decoding import DecodingSession, Hypotheses
from treadle.seq2seq.encoder_decoder import Encoded, EncoderDecoder

__all__ = [
    "Attention", "AttentionState", "Bidirectional", "Bridge", "DecodingSession", "Encoded", "EncoderDecoder",
    "Hypotheses",
]  # fmt: skip
