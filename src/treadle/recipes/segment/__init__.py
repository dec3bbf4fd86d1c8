"""Interactive segmentation: a network that selects an object where a user clicks."""
from treadle.recipes.segment.clicks import Click, ClickSampling, distance_maps, next_click
from treadle.recipes.segment.images import Example
from treadle.recipes.segment.network import ClickFCN
from treadle.recipes.segment.two_stage import TwoStageNetwork
from treadle.recipes.segment.scenes import make_scene
from treadle.recipes.segment.vgg import vgg_features, read_trunk
from treadle.recipes.segment.segmenter import Segmenter, ClickSession
from treadle.recipes.segment.evaluation import evaluate, iou, Evaluation, summary
from treadle.recipes.segment.learning import Learning
