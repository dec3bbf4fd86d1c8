"""In and out: networks of other libraries as treadle's, and treadle's as files that run without it.

Both sides are always run and compared before a file is written or a network returned.
"""

from treadle.interop.c_file import to_c
from treadle.interop.keras_reading import from_keras
from treadle.interop.keras_writing import to_keras
from treadle.interop.onnx_file import to_onnx
from treadle.interop.onnx_reading import from_onnx
from treadle.interop.pt2_file import to_pt2
from treadle.interop.report import Report
from treadle.interop.torch_modules import from_torch, to_torch

__all__ = ["Report", "from_keras", "from_onnx", "from_torch", "to_c", "to_keras", "to_onnx", "to_pt2", "to_torch"]
