"""Every command and every Python example of README and docs runs, with few steps and samples.

A page is a story: its commands run one after the other in one folder, as a reader would give
them. What a command costs is cut down at its end (``--steps 2``), for the last of two equal options
wins.
"""

from __future__ import annotations

import shlex

import pytest

from ddimx.weights import configure
from tests.conftest import FULL
from tests.docs import GENERATED, PAGES, blocks, commands_of, name_of
from tests.weights import plain

STORIES = [page for page in PAGES if page.name not in {*GENERATED, "CONTRIBUTING.md"}]

# Commands that are parsed only, by how they begin, and why.
PARSED = {
    "ddimx sample --model cifar10": "downloads the published weights",
    "ddimx sample --model google/": "downloads a model of the hub",
    "ddimx sample --model 256x256_diffusion_uncond.pt": "needs OpenAI's weights",
    "ddimx convert 256x256_diffusion_uncond.pt": "needs OpenAI's weights",
    "ddimx sample --model edm.pt": "needs NVIDIA's weights",
    "ddimx sample --model results/model-10.pt": "needs a model of lucidrains' program",
    "ddimx evaluate fid": "needs torch-fidelity and its network",
    "ddimx train --config cifar10": "needs CIFAR-10",
    "ddimx train --config celeba": "needs CelebA",
    "ddimx prepare octrees ShapeNetCore.v2": "needs ShapeNet",
    "ddimx train --config shapenet_chair": "needs ShapeNet",
    "ddimx prepare images data/celeba": "needs CelebA",
}
# Commands that run in .ci/full only; in the gate their results are in the folder already.
SLOW = {
    "ddimx prepare emoji": "draws 3,877 emoji: 4 s, and needs the font",
    "ddimx prepare furniture": "24 forms of 421 meshes take minutes, and need the libraries",
}
FEW_STEPS = ("sample", "inpaint", "sequence", "interpolate", "encode", "evaluate neighbors")
TINY_TRAINING = (
    "training.snapshot_freq=2 training.validation_freq=9 sampling.steps=1 sampling.batch_size=2"
)
TINY_NETWORK = {  # by what the command names; weights that it begins with keep theirs
    "pictures.yml": "model.ch=32 model.num_res_blocks=1",
    "pictures": "model.ch=8 model.norm_groups=2",
    "shapes.yml": "model.hidden_dim=24 model.num_layers=1 model.num_heads=2",
    "data/shapes": "model.hidden_dim=24 model.num_layers=1 model.num_heads=2",
    "furniture": "model.hidden_dim=24 model.num_layers=1 model.num_heads=2",
    "emoji": "model.ch=16",
}


def cheap(words: list[str]) -> list[str]:
    """The same command for two samples in two steps, or as few as it can do."""
    verb = words[1] if words[1] not in ("evaluate", "prepare") else " ".join(words[1:3])
    more: list[str] = []
    if verb in FEW_STEPS:
        timed = {"--nfe", "--plan", "--timesteps", "--explain", "--dry-run", "--resume", "--gather"}
        if not timed & set(words):
            more += ["--steps", "6" if "--jump" in words else "2"]
        begun = {"--resume", "--dry-run", "--gather"}
        if not begun & set(words) and verb not in ("interpolate", "encode"):
            wanted = next(
                (words[i + 1] for i, w in enumerate(words) if w in ("-n", "--count")), "2"
            )
            # Editing goes on with what sampling left, so that these samples have to be there.
            more += ["-n", wanted if "faces" in words else str(min(int(wanted), 2))]
        if "--frames" in words:
            more += ["--frames", "3"]
        if "--size" in words:
            more += ["--size", "16x16"]
    elif verb == "train":
        more += ["--steps", "2", "--batch-size", "2"]
        names = () if "--init" in words else TINY_NETWORK
        settings = [TINY_TRAINING, *(TINY_NETWORK[name] for name in names if name in words)]
        more += [word for s in " ".join(settings).split() for word in ("--set", s)]
    elif verb == "evaluate nll":
        more += ["-n", "2", "--terms", "2"]
        more += [] if {"furniture", "0"} & set(words) else ["--flow-steps", "1"]
    elif verb == "evaluate steps":
        more += ["-n", "2", "--steps", "1", "--points", "32"]
    elif verb == "evaluate shapes":
        more += ["--points", "32"]
    elif verb == "evaluate solvers":
        more += ["-n", "1", "--nfe", "10" if "--search" in words else "3", "--reference", "40"]
        more += ["--trials", "2", "--search-count", "2"]
        more += ["--solver", "ddim", "--spacing", "trailing"]
    return [*words, *more]


def begins(words: list[str], table: dict[str, str]) -> bool:
    line = " ".join(words)
    return any(line.startswith(start) for start in table)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path_factory, request):
    """Weights whose shapes a configuration has, and a text-to-image pipeline where one is named."""
    monkeypatch.setattr(configure, "shipped_configs", lambda: ["plain"])
    monkeypatch.setattr(configure, "load_config", lambda _: plain())


def run_page(page, here, call, folder):
    values: dict[str, object] = {}
    others = [other for other in STORIES if other.name != "README.md"]
    told = {tuple(words) for other in others for b in blocks(other) for words in words_of(b)}
    for block in blocks(page):
        text = block.text.replace("FOLDER_OR_ID", str(folder))
        if block.language == "python" and page.name != "README.md":  # tests/test_readme.py has it
            exec(compile(text, f"{name_of(page)}:{block.line}", "exec"), values)
        elif block.language == "yaml":
            name = text.partition("\n")[0].removeprefix("# ")
            (here / name).write_text(text)
        elif block.language == "bash":
            for words in commands_of(block._replace(text=text)):
                if words[0] != "ddimx" or begins(words, PARSED):
                    continue
                if begins(words, SLOW) and not FULL:
                    continue
                if page.name == "README.md" and tuple(words) in told:  # runs in that page's story
                    continue
                code, printed = call(*cheap(words)[1:])
                assert code == 0, f"{name_of(page)}: {shlex.join(cheap(words))}\n{printed}"


# What the gate leaves to .ci/full: pages whose commands other pages and other tests run as well.
LATER = ("python.md", "evaluation.md", "editing.md")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.full) if page.name in LATER else page
        for page in STORIES
    ],
    ids=name_of,
)
def test_a_page_runs_from_its_first_line_to_its_last(page, here, call, request, tmp_path_factory):
    text = page.read_text(encoding="utf-8")
    if "FOLDER_OR_ID" in text:
        pytest.importorskip("diffusers")
        from tests.integrations import pipeline

        folder = tmp_path_factory.mktemp("text") / "painter"
        pipeline(folder.parent / "parts").save_pretrained(folder)
    else:
        folder = None
    if "ckpt.pth" in text:
        request.getfixturevalue("elsewhere")
    run_page(page, here, call, folder)


def test_commands_that_do_not_run_are_there():
    every = [words for page in STORIES for block in blocks(page) for words in words_of(block)]
    for table in (PARSED, SLOW):
        unused = [start for start in table if not any(begins(w, {start: ""}) for w in every)]
        assert unused == []


def words_of(block):
    return list(commands_of(block)) if block.language == "bash" else []
