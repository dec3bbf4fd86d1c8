"""Changing a trained network: every operation gives a new network and leaves the old one as it was.

``transplant.py`` fills a network with the weights of one that has other shapes; ``freezing.py`` says what learns,
``groups.py`` how fast; ``bilinear.py`` starts a transposed convolution as what enlarges an image.
"""

from treadle.adapt.bilinear import bilinear_upsampling_
from treadle.adapt.freezing import Thaw, freeze, unfreeze_gradually
from treadle.adapt.groups import parameter_groups
from treadle.adapt.transplant import Copy, Crop, Fresh, Transplanted, TransplantReport, Widen, transplant

__all__ = [
    "Copy",
    "Crop",
    "Fresh",
    "Thaw",
    "TransplantReport",
    "Transplanted",
    "Widen",
    "bilinear_upsampling_",
    "freeze",
    "parameter_groups",
    "transplant",
    "unfreeze_gradually",
]
