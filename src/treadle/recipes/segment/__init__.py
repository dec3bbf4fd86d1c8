"""Interactive segmentation: a network that selects the object where a user clicks.

``click_fcn.py`` is the paper's, a fully convolutional VGG-16 with five input channels, ``two_stage.py`` the variant
that sees the image once; ``vgg.py`` and ``starting.py`` give them trained weights; ``grid.py`` derives crops.
``clicks.py`` draws and simulates clicks; ``images.py``, ``examples.py`` and ``coco.py`` read images and masks,
``scenes.py`` makes them, ``augmentation.py`` varies them. ``segmenter_training.py`` trains; ``segmenter.py`` is what
comes out, with its sessions, ``evaluation.py`` counts clicks, and ``page/`` is the page.
"""

from treadle.recipes.segment.click_fcn import ClickFCN
from treadle.recipes.segment.clicks import Click, ClickSampling, distance_maps, next_click
from treadle.recipes.segment.coco import read_coco
from treadle.recipes.segment.evaluation import Evaluation, evaluate, iou, summary
from treadle.recipes.segment.examples import Examples, read_folder, scenes, split
from treadle.recipes.segment.images import Example, read_image, read_mask
from treadle.recipes.segment.scenes import make_scene
from treadle.recipes.segment.segmenter import ClickSession, Segmenter
from treadle.recipes.segment.segmenter_training import Learning
from treadle.recipes.segment.starting import start_from
from treadle.recipes.segment.two_stage import TwoStageNetwork
from treadle.recipes.segment.vgg import read_trunk, vgg_features

__all__ = [
    "Click", "ClickFCN", "ClickSampling", "ClickSession", "Evaluation", "Example", "Examples", "Learning",
    "Segmenter", "TwoStageNetwork", "distance_maps", "evaluate", "iou", "make_scene", "next_click", "read_coco",
    "read_folder", "read_image", "read_mask", "read_trunk", "scenes", "split", "start_from", "summary",
    "vgg_features",
]  # fmt: skip
