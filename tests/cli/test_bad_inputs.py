"""Two hundred things that cannot be done: each is one line that says what to do, and nothing is written."""

import gzip
import json
import os
import re
import shlex
import socket
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from pyarrow import parquet

import treadle as td
from treadle.cli import main
from treadle.files import model_file
from treadle.recipes.segment.images import encode_png
from treadle.training import Fitted, forecaster, language_model, save_checkpoint, sequence_model
from treadle.training.scaling import Scaling

SECONDS = 10
PROSE = b"Now is the time for all good men to come to the aid of the party. " * 60
ROWS = [f"{1900 + i},{(i * i) % 11},{i * 2},{'ab'[i % 2]}" for i in range(120)]


def table(*changes: tuple[int, str], rows: int = 120, header: str = "year,y,z,who") -> str:
    """The table of which each case spoils something: some of its rows by number."""
    lines = ROWS[:rows]
    for row, line in changes:
        lines[row] = line
    return "\n".join([header, *lines, ""])


def ts(*data: str, answer: str = "@classLabel true a b") -> str:
    cases = [f"{','.join(str((i * k) % 5) for k in range(1, 4 + i % 3))}:{'ab'[i % 2]}" for i in range(30)]
    return "\n".join(["@problemName p", "@univariate true", answer, "@data", *(data or cases), ""])


TEXTS = {
    "s.csv": table(),
    "s.ts": ts(),
    "gap.csv": table((3, "1903,,6,a")),
    "word.csv": table((5, "1905,five,10,a")),
    "underscore.csv": table((5, "1905,1_0,10,a")),
    "infinite.csv": table((5, "1905,inf,10,a")),
    "overflow.csv": table((5, "1905,1e400,10,a")),
    "ragged.csv": table((7, "1907,1")),
    "long.csv": table((7, "1907,1,2,a,b")),
    "twice.csv": table((9, "1908,1,2,a")),
    "back.csv": table((9, "1800,1,2,a")),
    "notime.csv": table((9, ",1,2,a")),
    "mixed.csv": table((9, "1909-01-01T00:00Z,1,2,a")),
    "noid.csv": table((9, "1909,1,2,")),
    "same.csv": table(header="year,y,y,who"),
    "header.csv": "year,y,z,who\n",
    "empty.csv": "",
    "blank.csv": "\n\n\n",
    "short.csv": table(rows=3),
    "missing.csv": "y\n" + "NA\n" * 50,
    "tail.csv": "y\n" + "".join(f"{i % 7}\n" for i in range(80)) + "NA\n" * 30,
    "quote.csv": table((4, '1904,"1,2,a')),
    "far.csv": "y\n" + "".join(f"{10**17 + i % 7}\n" for i in range(100)),
    "large.csv": "y\n" + "".join(f"{i % 7}e300\n" for i in range(100)),
    "outlier.csv": table((119, "2019,1e300,2,a")),
    "few.txt": "too short",
    "empty.txt": "",
    "data.json": "{}",
    "nodata.ts": "@problemName p\n@classLabel true a b\n",
    "stamps.ts": ts().replace("@univariate true", "@timeStamps true"),
    "header.ts": "problem p\n@data\n1,2:a\n",
    "nocases.ts": "@classLabel true a b\n@data\n",
    "nolabels.ts": ts("1,2", "3,4", answer="@classLabel false"),
    "unknown.ts": ts("1,2,3:a", "1,2:c"),
    "unlabelled.ts": ts("1,2,3:a", "1,2:"),
    "notarget.ts": ts("1,2,3:4", "1,2:", answer="@targetLabel true"),
    "missing target.ts": ts("1,2,3:4", "1,2:?", answer="@targetLabel true"),
    "two targets.ts": ts("1,2,3:4", "1,2:3,4", answer="@targetLabel true"),
    "underscore.ts": ts("1,2,3:a", "1_0,2:b"),
    "infinite.ts": ts("1,2,3:a", "inf,2:b"),
    "word.ts": ts("1,2,3:a", "one,2:b"),
    "gap.ts": ts(*["1,2,3:a", "?,2:b"] * 20),
    "dimensions.ts": ts("1,2,3:a", "1,2:1,2:b"),
    "lengths.ts": "@dimensions 2\n@classLabel true a b\n@data\n1,2:3:a\n",
    "no number.ts": "@dimensions two\n@classLabel true a b\n@data\n1,2:3:a\n",
    "no steps.ts": ts("1,2,3:a", ":b"),
    "single.ts": ts("1,2,3:a"),
    "pairs.tsv": "".join(f"{'ab' * (i % 9)}c\t{'ba' * (i % 9)}c\n" for i in range(60)),
    "notab.tsv": "ab\tba\nabc\n",
    "tabs.tsv": "ab\tba\na\tb\tc\n",
    "blank.tsv": "ab\tba\n\n",
    "no target.tsv": "ab\t\n",
    "one.tsv": "ab\tba\nab\tba\n",
    "empty.tsv": "",
    "lengthy.tsv": "a" * 3000 + "\tb\nc\td\n",
    "rule.txt": "0 1 r\n",
    "move.txt": "0 0 1 up 0\n",
    "symbol.txt": "0 00 1 r 0\n",
    "rules.txt": "0 0 1 r 0\n0 0 1 l 0\n",
    "nowhere.txt": "0 0 1 r there\n",
    "words.txt": "0 0 1 r 0 more\n",
    "halt.txt": "halt 0 1 r 0\n",
    "empty machine.txt": "; nothing\n",
    "no.json": "not json",
    "list.json": "[]",
    "deep.json": "[" * 100_000,
    "other.json": '{"images": [], "annotations": []}',
    "text.png": "no image",
    "text.safetensors": "no model",
    "text.pth": "no weights",
}
"""Of the folder in which the commands run; what is not text follows in `made`."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files that cannot be read, and some that can."""
    folder = tmp_path_factory.mktemp("bad")
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    for name in ("zeros.txt", "zeros.csv", "zeros.ts", "zeros.parquet", "zeros.safetensors", "zeros.png", "zeros.tsv"):
        (folder / name).write_bytes(bytes(20_000))
    (folder / "prose.txt").write_bytes(PROSE)
    (folder / "latin.csv").write_bytes("jahr,größe\n1,2\n".encode("latin-1"))
    (folder / "latin value.csv").write_bytes(table((3, "1903,1,2,ä")).encode("latin-1"))
    (folder / "latin.tsv").write_bytes("größe\tb\n".encode("latin-1"))
    (folder / "latin.txt").write_bytes("0 ä 1 r 0\n".encode("latin-1"))
    (folder / "wide.csv").write_bytes(table().encode("utf-16"))
    (folder / "cut.csv.gz").write_bytes(gzip.compress(table().encode())[:100])
    (folder / "plain.csv.gz").write_text(table())
    (folder / "folder").mkdir()
    (folder / "folder.csv").mkdir()
    os.mkfifo(folder / "pipe")
    for name in ("pipe.csv", "pipe.ts", "pipe.parquet", "pipe.safetensors", "pipe.png", "pipe.json", "pipe.svg"):
        os.mkfifo(folder / name)
    with socket.socket(socket.AF_UNIX) as listening:
        before = Path.cwd()
        os.chdir(folder)  # the path of a socket is short
        listening.bind("socket.csv")
        os.chdir(before)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    (folder / "gone.csv").symlink_to(folder / "nowhere.csv")
    tables(folder)
    models(folder)
    pictures(folder)
    return folder


def tables(folder: Path) -> None:
    """Tables of Parquet."""
    lists = [[float(i % 5)] * (1 + i % 4) for i in range(40)]
    labels = ["ab"[i % 2] for i in range(40)]

    def write(name: str, **columns: object) -> None:
        parquet.write_table(pa.table(columns), folder / f"{name}.parquet")

    write("s", x=lists, who=labels)
    write("flat", y=[float(i % 7) for i in range(60)], who=["a"] * 60)
    write("words", x=[["a"]] * 40, who=labels)
    write("infinite", x=[[float("inf")], *lists[1:]], who=labels)
    write("no list", x=[None, *lists[1:]], who=labels)
    write("no steps", x=[[], *lists[1:]], who=labels)
    write("unequal", x=lists, z=[[1.0]] * 40, who=labels)
    write("no answer", x=lists, who=[None, *labels[1:]])
    write("per step", x=lists, who=[["a"] * (len(one) + 1) for one in lists])
    write("infinite answer", x=lists, who=[float("inf")] * 40)
    write("text", y=["one"] * 60)
    write("dates", y=pa.array(range(60), pa.date32()))
    write("no rows", y=pa.array([], pa.float64()))
    whole = (folder / "s.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])


def models(folder: Path) -> None:
    """Networks, whole and spoiled."""
    torch.manual_seed(0)
    model_file.save(folder / "lm.safetensors", language_model("gru", hidden_size=4))
    model_file.save(folder / "cell.safetensors", td.GRUCell(2, 3))
    column = torch.arange(9.0).double()[:, None]
    series = Fitted(forecaster(1, 1, [0], hidden_size=3), Scaling.fit(["y"], [column]), Scaling.fit(["y"], [column]))
    series.predict, series.horizon = "every", 1
    series.save(folder / "series.safetensors")
    sequences = Fitted(sequence_model(1, 2, hidden_size=3), Scaling.fit(["dimension 1"], [column]), labels=("a", "b"))
    sequences.save(folder / "sequences.safetensors")
    notes = model_file.read_notes(folder / "series.safetensors")["fitted"]
    for name, change in {
        "forged scaling": {"inputs": notes["inputs"] | {"deviations": [0.0]}},
        "forged names": {"targets": notes["targets"] | {"names": ["y", "z"]}},
        "forged horizon": {"horizon": -1},
        "forged window": {"window": "x"},
        "forged labels": {"labels": ["a"]},
    }.items():
        model_file.save(folder / f"{name}.safetensors", series.model, {"fitted": notes | change})
    with torch.no_grad():
        for parameter in series.model.parameters():
            parameter.fill_(torch.nan)
    series.save(folder / "nan.safetensors")
    spoiled = language_model("gru", hidden_size=4)
    with torch.no_grad():
        for parameter in spoiled.parameters():
            parameter.fill_(torch.nan)
    model_file.save(folder / "nan lm.safetensors", spoiled)
    whole = (folder / "lm.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "changed.safetensors").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    safetensors.torch.save_file({"a": torch.zeros(1)}, folder / "foreign.safetensors")
    tensors, metadata = model_file.read(folder / "lm.safetensors", "treadle model")
    for name, change in {
        "deep": {"network": "[" * 100_000},
        "deep notes": {"notes": "[" * 100_000},
        "evil": {"network": json.dumps({"type": "os.system", "arguments": {"command": "true"}})},
        "claims": {
            "network": json.dumps({"type": "treadle.GRUCell", "arguments": {"input_size": 9, "hidden_size": 10**7}})
        },
        "layers": {
            "network": json.dumps(
                {"type": "treadle.LSTM", "arguments": {"input_size": 2, "hidden_size": 2, "num_layers": 10**9}}
            )
        },
    }.items():
        model_file.write(folder / f"{name}.safetensors", tensors, metadata | change)
    save_checkpoint(folder / "other.checkpoint", td.GRUCell(2, 3), step=1)
    (folder / "cut.checkpoint").write_bytes((folder / "other.checkpoint").read_bytes()[:200])


def pictures(folder: Path) -> None:
    """Images and masks."""
    grey = np.zeros((40, 40), np.uint8)
    square = grey.copy()
    square[5:30, 5:30] = 255
    for name, images, masks in (
        ("no masks", {"a": square}, None),
        ("no images", {}, {}),
        ("alone", {"a": square}, {}),
        ("sizes", {"a": square}, {"a": square[:20]}),
        ("no object", {"a": square}, {"a": grey}),
        ("one image", {"a": square}, {"a": square}),
    ):
        for kind, content in (("images", images), ("masks", masks)):
            if content is not None:
                (folder / name / kind).mkdir(parents=True)
            for one, pixels in (content or {}).items():
                (folder / name / kind / f"{one}.png").write_bytes(encode_png(pixels))
    (folder / "piped" / "images").mkdir(parents=True)
    (folder / "piped" / "masks").mkdir()
    os.mkfifo(folder / "piped" / "images" / "a.png")
    (folder / "piped" / "masks" / "a.png").write_bytes(encode_png(square))


SERIES = "fit s.csv -o m --target y"
CASES = {
    # the command itself
    "nonsense": "No such command",
    "--nonsense": "No such option",
    "fit": "Missing argument",
    "fit s.csv": "Missing option",
    "fit s.csv -o": "requires an argument",
    f"{SERIES} --colour red": "No such option",
    f"{SERIES} more": "unexpected extra argument",
    "segment": "Missing command",
    "segment nonsense": "No such command",
    "cache --empty": "No such option",
    # numbers of options
    f"{SERIES} --layers 1_0": "a whole number such as 3",
    f"{SERIES} --layers two": "a whole number such as 3",
    f"{SERIES} --layers 1.5": "a whole number such as 3",
    f"{SERIES} --layers ٣": "a whole number such as 3",
    f"{SERIES} --layers=1_0": "a whole number such as 3",
    f"{SERIES} --layers 0": "greater than or equal to 1",
    f"{SERIES} --layers 1000000": "less than or equal to 100",
    f"{SERIES} --horizon 1000000000": "pass --horizon 83 or less",
    f"{SERIES} --horizon -1": "greater than or equal to 0",
    f"{SERIES} --horizon 1e3": "a whole number such as 3",
    f"{SERIES} --horizon 99999999999999999999": "a whole number such as 3",
    f"{SERIES} --window 1000000000": "--window 84 or less",
    f"{SERIES} --season 1000000000": "pass less than that",
    f"{SERIES} --learning-rate 1e300": "a number such as 0.5",
    f"{SERIES} --season 0": "greater than or equal to 1",
    f"{SERIES} --parameters 1000000000000": "less than or equal to",
    f"{SERIES} --parameters 1": "cannot have 1 parameters",
    f"{SERIES} --validation 0.95": "less than or equal to 0.9",
    f"{SERIES} --validation nan": "a number such as 0.5",
    f"{SERIES} --learning-rate nan": "a number such as 0.5",
    f"{SERIES} --learning-rate -1": "greater than or equal to 0",
    f"{SERIES} --learning-rate 1e9999": "a number such as 0.5",
    f"{SERIES} --dropout 1": "less than or equal to 0.99",
    f"{SERIES} --noise nan": "a number such as 0.5",
    f"{SERIES} --weight-decay -0.1": "greater than or equal to 0",
    f"{SERIES} --rows 0": "greater than or equal to 1",
    f"{SERIES} --patience 0": "greater than or equal to 1",
    f"{SERIES} --seed -1": "greater than or equal to 0",
    f"{SERIES} --seed 99999999999999999999": "a whole number such as 3",
    "run lm.safetensors --temperature nan": "a number such as 0.5",
    "run lm.safetensors --temperature -1": "temperature is 0 or a positive number",
    "run lm.safetensors --bytes -1": "greater than or equal to 0",
    "run lm.safetensors --bytes 1_000": "a whole number such as 3",
    "run lm.safetensors --prompt ''": "pass a newline",
    "show relay -o w.svg --steps 1000000000": "pass --steps",
    "show relay -o w.svg --steps 0": "greater than or equal to 1",
    "compare prose.txt --layers 1000000": "less than or equal to 100",
    "compare prose.txt --seeds 1000000000": "less than or equal to 1000",
    "compare prose.txt --parameters 10": "cannot have 10 parameters",
    "compare prose.txt --window 1000000": "are needed",
    "translate pairs.tsv -o m --hidden-size 10000 --layers 100": "pass a smaller --hidden-size",
    "translate pairs.tsv -o m --hidden-size 100000": "less than or equal to 10000",
    "translate pairs.tsv -o m --layers 1000": "less than or equal to 100",
    "imitate copy --hidden-size 100000": "less than or equal to 4096",
    "imitate copy --traces 1000000 --trace-steps 1000000": "pass fewer --traces or --trace-steps",
    "imitate copy --cells 0": "greater than or equal to 1",
    "decode --study --users 0": "greater than or equal to 1",
    "decode --study --presses 3": "greater than or equal to 25",
    "segment fit scenes -o m --scenes 1000000000": "less than or equal to 1000000",
    "segment fit scenes -o m --rows 1000000 --scenes 100000 --size 1024": "pass fewer --rows",
    "segment fit scenes -o m --size 4": "greater than or equal to 16",
    "segment click cell.safetensors --port 70000": "less than or equal to 65535",
    # words of options
    f"{SERIES} --cell transformer": "choose one of lstm",
    f"{SERIES} --wiring tangled": "choose one of stack",
    f"{SERIES} --predict first": "choose one of last, every",
    f"{SERIES} --missing skip": "choose one of refuse, previous",
    f"{SERIES} --precision half": "choose one of float32, bfloat16",
    f"{SERIES} --on moon": "choose one of ray",
    f"{SERIES} --workers 3": "needs --on ray",
    f"{SERIES} --budget soon": "a time such as 90s",
    f"{SERIES} --budget 0s": "a time such as 90s",
    f"{SERIES} --budget ٣s": "a time such as 90s",
    f"{SERIES} --budget 1.5steps": "a number of steps is whole",
    f"{SERIES} --budget 99999999999epochs": "50epochs",
    f"{SERIES} --checkpoint run --checkpoint-every never": "a time such as 90s",
    f"{SERIES} --test s.ts": "is not called like a table",
    f"{SERIES} --label-smoothing 0.1": "leave it out",
    "fit prose.txt -o m --target y": "leave it out",
    "fit prose.txt -o m --dropout 0.1": "leave it out",
    "fit s.ts -o m --window 5": "leave it out",
    "fit s.ts -o m --horizon 2": "leave it out",
    "compare prose.txt --wiring tangled": "choose from",
    "compare prose.txt --cell tangled": "choose from",
    "compare prose.txt --budget 3": "a time such as 90s",
    "compare prose.txt --budget 1s": "give at least",
    "translate pairs.tsv": "pass '--output' MODEL",
    "translate pairs.tsv -o m --model lm.safetensors": "pass '--output' MODEL",
    "translate pairs.tsv -o m --attention none-at-all": "choose one of dot, additive, none",
    "translate pairs.tsv -o m --words all": "choose one of neither",
    "decode --study --learn d.safetensors": "two commands",
    "decode --output x.json": "needs --study",
    "decode --save game --study": "leave it out",
    "segment fit scenes -o m --network large": "choose one of two-stage",
    "segment fit scenes -o m --loss l1": "choose one of softmax",
    "segment fit scenes -o m --resume lm.safetensors --width 4": "leave it out",
    "segment fit scenes -o m --images folder": "leave it out",
    "show relay": "pass '--output' FILE for a picture",
    "show tangled -o w.svg": "the wirings are",
    "imitate nothing": "the bundled ones are",
    "imitate copy --letters xyz": "x",
    "imitate copy --tape xyz": "x",
    # where to write
    "fit s.csv -o folder --target y": "name a file",
    "fit s.csv -o loop --target y": "a link that leads to itself",
    "fit s.csv -o pipe --target y": "name a file",
    "fit s.csv -o /dev/null --target y": "name a file",
    "fit s.csv -o s.csv --target y": "name another file",
    "fit s.csv -o nowhere/m --target y": "there is no folder",
    "fit s.csv -o s.csv/m --target y": "there is no folder",
    "fit s.csv -o '' --target y": "name a file",
    f"fit s.csv -o {'m' * 300} --target y": "File name too long",
    f"{SERIES} --checkpoint m": "name another file",
    f"{SERIES} --checkpoint folder": "name a file",
    f"{SERIES} --checkpoint loop": "a link that leads to itself",
    f"{SERIES} --checkpoint other.checkpoint": "name another file",
    f"{SERIES} --checkpoint cut.checkpoint": "is not a whole safetensors file",
    f"{SERIES} --checkpoint pipe": "name a file",
    f"{SERIES} --tensorboard s.ts": "is not a folder",
    f"{SERIES} --tensorboard pipe": "is not a folder",
    f"{SERIES} --plot fit.pdf": "must end in .svg or .png",
    f"{SERIES} --plot pipe.svg": "name a file",
    f"{SERIES} --plot nowhere/fit.svg": "there is no folder",
    "show relay -o w.gif": "must end in .svg or .png",
    "show relay -o nowhere/w.svg": "there is no folder",
    "show cell.safetensors -o cell.safetensors": "must end in .svg or .png",
    "compare prose.txt --save folder": "name a file",
    "compare prose.txt --json folder": "name a file",
    "compare prose.txt --plot curves": "must end in .svg or .png",
    "compare prose.txt --save x.svg --plot x.svg": "name another file",
    "decode --study --output folder": "name a file",
    "decode --learn folder": "name a file",
    "imitate copy -o folder": "name a file",
    # tables
    "fit nothing.csv -o m --target y": "No such file",
    "fit gone.csv -o m --target y": "No such file",
    "fit loop.csv -o m --target y": "Too many levels of symbolic links",
    "fit folder.csv -o m --target y": "name a file",
    "fit pipe.csv -o m --target y": "write it to a file first",
    "fit socket.csv -o m --target y": "write it to a file first",
    "fit zeros.csv -o m --target y": "write it again",
    "fit empty.csv -o m --target y": "it has no header",
    "fit blank.csv -o m --target y": "it has no header",
    "fit header.csv -o m --target y": "has no rows",
    "fit short.csv -o m --target y": "pass more rows",
    "fit s.csv -o m": "name those to forecast with --target",
    "fit s.csv -o m --target x": "it has year, y, z, who",
    "fit s.csv -o m --target yy": "did you mean 'y'",
    "fit s.csv -o m --target who": "is not a number",
    "fit s.csv -o m --target y --inputs who": "is not a number",
    "fit s.csv -o m --target y --series-id nobody": "it has year",
    "fit s.csv -o m --target y --time never": "it has year",
    "fit s.csv -o m --target y --time who": "write ISO 8601",
    "fit s.csv -o m --target y --horizon 0": "name other --inputs",
    "fit gap.csv -o m --target y": "--missing previous",
    "fit word.csv -o m --target y": "correct it, or leave the row out",
    "fit underscore.csv -o m --target y": "correct it, or leave the row out",
    "fit infinite.csv -o m --target y": "correct it, or leave the row out",
    "fit overflow.csv -o m --target y": "correct it, or leave the row out",
    "fit ragged.csv -o m --target y": "line 9: 2 fields",
    "fit long.csv -o m --target y": "line 9: 5 fields",
    "fit quote.csv -o m --target y": "quote.csv",
    "fit twice.csv -o m --target y --time year": "each time once",
    "fit back.csv -o m --target y --time year": "sorted by time",
    "fit notime.csv -o m --target y --time year": "write it there",
    "fit mixed.csv -o m --target y --time year": "all in the way of the first row",
    "fit noid.csv -o m --target y --series-id who": "the id of the series is missing",
    "fit same.csv -o m --target y": "give each its own name",
    "fit missing.csv -o m --target y": "--missing previous",
    "fit missing.csv -o m --target y --missing previous": "has no values",
    "fit tail.csv -o m --target y --missing previous": "fill some, or leave rows out",
    "fit far.csv -o m --target y": "subtract",
    "fit large.csv -o m --target y": "give it in other units",
    "fit outlier.csv -o m --target y": "correct it",
    "fit latin.csv -o m --target y": "save the file as UTF-8",
    "fit 'latin value.csv' -o m --target y --series-id who": "save the file as UTF-8",
    "fit wide.csv -o m --target y": "save the file as UTF-8",
    "fit cut.csv.gz -o m --target y": "cut.csv.gz",
    "fit plain.csv.gz -o m --target y": "is not a table of text",
    "fit zeros.parquet -o m --target y": "is not a Parquet file",
    "fit cut.parquet -o m --target y": "is not a Parquet file",
    "fit pipe.parquet -o m --target y": "write it to a file first",
    "fit text.parquet -o m --target y": "convert the column",
    "fit dates.parquet -o m --target y": "convert the column",
    "fit 'no rows.parquet' -o m --target y": "has no rows",
    # sequences
    "fit s.parquet -o m": "name it with --target",
    "fit s.parquet -o m --target nobody": "it has x, who",
    "fit s.parquet -o m --target who --inputs who": "name others",
    "fit words.parquet -o m --target who": "not a finite number",
    "fit infinite.parquet -o m --target who": "not a finite number",
    "fit 'no list.parquet' -o m --target who": "there is no sequence",
    "fit 'no steps.parquet' -o m --target who": "the sequence is empty",
    "fit unequal.parquet -o m --target who": "steps, but 'x' has",
    "fit 'no answer.parquet' -o m --target who": "there is no target",
    "fit 'per step.parquet' -o m --target who": "targets for",
    "fit 'infinite answer.parquet' -o m --target who": "not a finite number",
    "fit nothing.ts -o m": "No such file",
    "fit pipe.ts -o m": "write it to a file first",
    "fit zeros.ts -o m": "a header line begins with @",
    "fit nodata.ts -o m": "has no line @data",
    "fit stamps.ts -o m": "leave them out",
    "fit header.ts -o m": "a header line begins with @",
    "fit nocases.ts -o m": "has no cases",
    "fit nolabels.ts -o m": "has neither labels",
    "fit unknown.ts -o m": "declares a, b",
    "fit unlabelled.ts -o m": "declares a, b",
    "fit notarget.ts -o m": "one number to predict",
    "fit 'missing target.ts' -o m": "one number to predict",
    "fit 'two targets.ts' -o m": "one number to predict",
    "fit underscore.ts -o m": "is not a number",
    "fit infinite.ts -o m": "is infinite",
    "fit word.ts -o m": "is not a number",
    "fit gap.ts -o m": "--missing previous",
    "fit dimensions.ts -o m": "dimensions besides the label",
    "fit lengths.ts -o m": "dimension 2 has 1 values",
    "fit 'no number.ts' -o m": "a positive whole number",
    "fit 'no steps.ts' -o m": "the sequence is empty",
    "fit single.ts -o m": "pass more sequences",
    "fit s.ts -o m --test nolabels.ts": "has neither labels",
    "fit s.ts -o m --test pipe.ts": "write it to a file first",
    "fit s.ts -o m --target x": "--target",
    # text
    "fit nothing.txt -o m": "No such file",
    "fit pipe -o m": "write it to a file first",
    "fit /dev/zero -o m": "write it to a file first",
    "fit folder -o m": "name a file",
    "fit empty.txt -o m": "pass a text file",
    "fit few.txt -o m": "are needed",
    "fit zeros.txt -o m": "pass a text file",
    "compare zeros.txt --budget 3steps --wiring stack --seeds 1 --parameters 25000": "pass a text file",
    "compare pipe --budget 3steps": "write it to a file first",
    "compare few.txt --budget 3steps --wiring stack --seeds 1": "are needed",
    # networks
    "run nothing.safetensors": "No such file",
    "run folder": "name a file",
    "run pipe": "write it to a file first",
    "run /dev/zero": "write it to a file first",
    "run loop": "Too many levels of symbolic links",
    "run text.safetensors": "is not a whole safetensors file",
    "run zeros.safetensors": "is not a whole safetensors file",
    "run cut.safetensors": "truncated",
    "run changed.safetensors": "damaged or was changed",
    "run foreign.safetensors": "another program's safetensors file",
    "run other.checkpoint": "is not a treadle model file",
    "run deep.safetensors": "nested too deeply",
    "run evil.safetensors": "does not know",
    "run claims.safetensors": "does not fit together",
    "run layers.safetensors": "more than 1,000 layers",
    "run cell.safetensors": "cell.safetensors",
    "run 'nan lm.safetensors'": "train it again",
    "run lm.safetensors s.csv": "treadle fit DATA -o MODEL",
    "run 'deep notes.safetensors' s.csv": "notes cannot be read",
    "run nan.safetensors s.csv": "train it again",
    "run series.safetensors s.ts": "reads .csv",
    "run lm.safetensors --series-id who": "leave it out",
    "run sequences.safetensors s.ts --series-id who": "leave it out",
    "run series.safetensors nothing.csv": "No such file",
    "run series.safetensors pipe.csv": "write it to a file first",
    "run series.safetensors word.csv": "correct it",
    "run series.safetensors outlier.csv": "correct it",
    "run series.safetensors latin.csv": "save the file as UTF-8",
    "run series.safetensors flat.parquet --series-id nobody": "it has y, who",
    "run sequences.safetensors s.csv": "reads .ts",
    "run sequences.safetensors dimensions.ts": "dimensions",
    "run 'forged scaling.safetensors' s.csv": "is damaged",
    "run 'forged names.safetensors' s.csv": "is damaged",
    "run 'forged horizon.safetensors' s.csv": "is damaged",
    "run 'forged window.safetensors' s.csv": "is damaged",
    "run 'forged labels.safetensors' s.csv": "is damaged",
    "show pipe -o w.svg": "write it to a file first",
    "show folder -o w.svg": "name a file",
    "show cut.safetensors -o w.svg": "truncated",
    "show text.safetensors --explain": "is not a whole safetensors file",
    f"{SERIES} --resume nothing.safetensors": "No such file",
    f"{SERIES} --resume pipe": "write it to a file first",
    f"{SERIES} --resume lm.safetensors": "treadle fit DATA -o MODEL",
    f"{SERIES} --resume sequences.safetensors": "cannot be trained further on series",
    f"{SERIES} --resume series.safetensors --layers 2": "leave it out",
    f"{SERIES} --resume series.safetensors --horizon 3": "leave it out",
    "fit prose.txt -o m --resume series.safetensors": "series.safetensors",
    # pairs, machines, keys, images
    "translate nothing.tsv -o m": "No such file",
    "translate pipe -o m": "write it to a file first",
    "translate folder -o m": "name a file",
    "translate empty.tsv -o m": "it needs pairs",
    "translate notab.tsv -o m": "has no tab",
    "translate tabs.tsv -o m": "has 2 tabs",
    "translate blank.tsv -o m": "is empty",
    "translate 'no target.tsv' -o m": "leave the line out",
    "translate one.tsv -o m": "pass pairs of at least two different",
    "translate latin.tsv -o m": "convert the file",
    "translate zeros.tsv -o m": "zeros.tsv",
    "translate lengthy.tsv -o m": "cut it into parts",
    "translate pairs.tsv -o m --test nothing.tsv": "No such file",
    "translate pairs.tsv --model lm.safetensors": "treadle translate PAIRS.tsv -o MODEL",
    "translate pairs.tsv --model pipe": "write it to a file first",
    "imitate pipe": "write it to a file first",
    "imitate rule.txt": "is missing",
    "imitate move.txt": "a move is l, r or *",
    "imitate symbol.txt": "a symbol is one character",
    "imitate rules.txt": "has a rule for",
    "imitate nowhere.txt": "an end is called halt",
    "imitate words.txt": "one word too many",
    "imitate halt.txt": "it can have no rule",
    "imitate 'empty machine.txt'": "there is no rule in it",
    "imitate latin.txt": "is not UTF-8 text",
    "imitate copy --model lm.safetensors": "lm.safetensors",
    "imitate copy --model pipe": "write it to a file first",
    "decode --study --model lm.safetensors": "treadle decode --learn",
    "decode --study --model nothing": "No such file",
    "decode --study --model pipe": "write it to a file first",
    "decode --save pipe": "name a file",
    "segment fit nothing -o m": "it needs images/NAME.jpg",
    "segment fit 'no masks' -o m": "it needs images/NAME.jpg",
    "segment fit 'no images' -o m": "it needs files that end in",
    "segment fit alone -o m": "has no counterpart",
    "segment fit sizes -o m": "20",
    "segment fit 'no object' -o m": "has no object",
    "segment fit 'one image' -o m": "add another image",
    "segment fit piped -o m": "write it to a file first",
    "segment fit nothing.json -o m": "No such file",
    "segment fit pipe.json -o m": "write it to a file first",
    "segment fit no.json -o m": "is not a COCO file",
    "segment fit list.json -o m": "is not a COCO file",
    "segment fit deep.json -o m": "is not a COCO file",
    "segment fit other.json -o m": "no object",
    "segment fit scenes -o m --trunk nothing.pth": "No such file",
    "segment fit scenes -o m --trunk pipe": "write it to a file first",
    "segment fit scenes -o m --trunk text.pth": "pass a state dict",
    "segment fit scenes -o m --resume lm.safetensors": "treadle segment fit DATA -o MODEL",
    "segment evaluate lm.safetensors scenes": "treadle segment fit DATA -o MODEL",
    "segment evaluate pipe scenes": "write it to a file first",
    "segment click lm.safetensors": "treadle segment fit DATA -o MODEL",
    "segment click nothing.safetensors": "No such file",
    # serve
    "serve nothing.safetensors": "No such file",
    "serve pipe": "write it to a file first",
    "serve folder": "name a file",
    "serve text.safetensors": "is not a whole safetensors file",
    "serve lm.safetensors lm.safetensors": "pass NAME=FILE",
    "serve lm.safetensors --http nowhere": "is no host and port, such as 127.0.0.1:8000",
    "serve lm.safetensors --http 127.0.0.1:99999": "is no host and port, such as 127.0.0.1:8000",
    "serve lm.safetensors --http 0.0.0.0:8000": "a file with a token",
    "serve lm.safetensors --http none --grpc none": "there is nowhere to listen",
    "serve lm.safetensors --http 127.0.0.1:8000 --grpc 127.0.0.1:8000": "name another for one of them",
    "serve lm.safetensors --token-file nothing": "No such file",
    "serve lm.safetensors --token-file folder": "name a file",
    "serve lm.safetensors --token-file pipe": "write it to a file first",
    "serve lm.safetensors --token-file empty.txt": "write one a line",
    "serve lm.safetensors --token-file latin.csv": "save the file as UTF-8",
    "serve lm.safetensors --token-file /dev/zero": "write it to a file first",
    "serve lm.safetensors --tls-certificate s.csv": "pass both",
    "serve lm.safetensors --tls-certificate s.csv --tls-key s.csv": "name PEM files",
    "serve lm.safetensors --tls-certificate nothing --tls-key nothing": "No such file",
    "serve lm.safetensors --tls-certificate pipe --tls-key pipe": "write it to a file first",
    "serve lm.safetensors --keep lm.safetensors": "is not a folder",
    "serve lm.safetensors --keep pipe": "is not a folder",
    "serve lm.safetensors --on-reload perhaps": "choose one of",
    "serve lm.safetensors --log xml": "choose one of",
    "serve lm.safetensors --replicas 3": "needs --on ray",
    "serve lm.safetensors --idle nan": "pass a number such as 0.5",
}


def test_there_are_two_hundred():
    assert len(CASES) >= 200


@pytest.mark.share(150)
@pytest.mark.parametrize("line", CASES)
def test_it_is_one_line_that_says_what_to_do(line, made, capfd, monkeypatch):
    monkeypatch.chdir(made)
    before = sorted(os.listdir(made))
    start = time.perf_counter()
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line))
    seconds = time.perf_counter() - start
    out, err = capfd.readouterr()
    assert end.value.code == 2, (out, err)
    assert out == ""
    assert re.fullmatch(r"treadle: [^\n]+\n", err), err
    assert CASES[line] in err, err
    assert "TREADLE_TRACEBACK" not in err, err
    assert len(err) < 600, err
    assert sorted(os.listdir(made)) == before
    assert seconds < SECONDS
