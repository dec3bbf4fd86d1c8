"""Changing a trained network: every operation gives a new network and leaves the old one as it was.

``grow.py`` gives it more inputs or units, ``vocabulary.py`` more tokens, ``heads.py`` another head, ``insert.py``
another layer. ``resize.py`` does so for one cell of any class, ``wider.py`` for a layer; ``carry.py`` carries that
through a network around it. ``places.py`` says where features of wider rows come from and how new weights start,
``parts.py`` what is known of modules and their parts.

``transplant.py`` fills a network with the weights of one that has other shapes, by ``rules.py``, or another library's
layout, by ``layouts.py`` and ``gate_orders.py``; ``source_names.py`` finds what a rule means, ``weights.py`` reads it.
``freezing.py`` says what learns, ``groups.py`` how fast, ``gradient_report.py`` whether it would learn anything,
``difference.py`` what changed. ``online.py`` learns while it runs, one step at a time.
"""

from treadle.adapt.bilinear import bilinear_upsampling_
from treadle.adapt.difference import Difference, TensorDifference, diff
from treadle.adapt.freezing import Thaw, freeze, unfreeze_gradually
from treadle.adapt.gradient_report import GradientReport, LayerGradient, gradient_report
from treadle.adapt.groups import parameter_groups
from treadle.adapt.grow import grow_hidden, grow_inputs
from treadle.adapt.heads import replace_head
from treadle.adapt.insert import insert_layer
from treadle.adapt.layouts import Gates, MergeBiases, Part, Transpose
from treadle.adapt.online import Online
from treadle.adapt.rules import Copy, Crop, Fresh, Widen
from treadle.adapt.transplant import Transplanted, TransplantReport, transplant
from treadle.adapt.vocabulary import grow_vocabulary

__all__ = [
    "Copy", "Crop", "Difference", "Fresh", "Gates", "GradientReport", "LayerGradient", "MergeBiases", "Online", "Part",
    "TensorDifference", "Thaw", "TransplantReport", "Transplanted", "Transpose", "Widen", "bilinear_upsampling_",
    "diff", "freeze", "gradient_report", "grow_hidden", "grow_inputs", "grow_vocabulary", "insert_layer",
    "parameter_groups", "replace_head", "transplant", "unfreeze_gradually",
]  # fmt: skip
