"""Interactive segmentation: a VGG-16 changed to read clicks, a network that reads the image once, a simulated user.

Run: python examples/14_click_to_segment.py

The trunk here has few channels and random weights, so that this takes seconds. ``treadle segment fit --trunk`` starts
from ImageNet's.
"""

import torch

import treadle as td
from treadle.recipes.segment import (
    ClickFCN,
    Learning,
    Segmenter,
    TwoStageNetwork,
    evaluate,
    make_scene,
    next_click,
    scenes,
    start_from,
    summary,
    vgg_features,
)
from treadle.training.budget import ShareDone

torch.manual_seed(0)
torch.set_num_threads(1)
CHANNELS = (8, 12, 16, 16, 16)

# Deep interactive object selection (Xu et al. 2016): the trained first layer is widened from three channels to five, of
# which two say how far away clicks are. The report has every tensor.
trained = {f"features.{name}": tensor for name, tensor in vgg_features(channels=CHANNELS).state_dict().items()}
paper, report = start_from(ClickFCN(channels=CHANNELS, fc_channels=32), trained, start="xavier")
print(report["features.0.weight"])
print(report.counts)

# The variant that looks at the image once. What it learns from is made up here.
learning = Learning(TwoStageNetwork(channels=CHANNELS, width=8), scenes(60, 40), size=40, learning_rate=0.01)
for step in learning.steps(ShareDone(steps=60)):
    if step.step % 20 == 0:
        print(f"step {step.step}: loss {step.loss:.3f}")

# A session keeps what the network has seen and what was clicked; each click is one step.
segmenter, scene = Segmenter(learning.model, size=40), make_scene(0, 40, test=True)
session = segmenter.session(scene.image)
for _ in range(5):
    click = next_click(session.mask, scene.mask)  # where a user would click: the middle of the largest error
    if click is None:
        break
    mask = session.click(click)
    print(f"{click}: {mask.sum()} pixels selected")
before = session.probability.copy()
session.click(next_click(session.mask, scene.mask) or session.clicks[0])
session.undo()
print(f"undoing differs by {abs(session.probability - before).max()}")

print(summary(evaluate(segmenter, scenes(10, 40, test=True), clicks=10)))

# Will the first layer learn anything if everything else is frozen? Gradients pass through what does not learn.
first = td.adapt.freeze(paper, except_="features.0")
found = td.adapt.gradient_report(first, torch.rand(1, 5, 40, 40) * 255)
print({layer: found[layer].verdict for layer in ("features.0", "features.2", "fc6")})
