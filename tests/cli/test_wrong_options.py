"""What is wrong with an option is told before torch, NumPy or a model is loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ddimx.discrete.solvers import SPACINGS as OF_TOKENS
from ddimx.option_values import SPACINGS, TOKEN_SPACINGS
from ddimx.solvers.timesteps import BY_LEVEL
from ddimx.solvers.timesteps import SPACINGS as OF_IMAGES
from tests.conftest import cli_environment
from tests.sampling import invoke

HEAVY = ("torch", "numpy", "PIL", "safetensors", "ddimx.config")
WRONG = {
    "sample -n 0": "count must be at least 1, got 0",
    "sample --count -3": "count must be at least 1, got -3",
    "sample --steps 0": "steps must be at least 1, got 0",
    "sample --nfe 0": "nfe must be at least 1, got 0",
    "sample --batch-size 0": "batch-size must be at least 1, got 0",
    "sample --eta 2": "eta must lie in [0, 1], got 2.0",
    "sample --eta nan": "eta must lie in [0, 1], got nan",
    "sample --guidance inf": "guidance must be a finite number, got inf",
    "sample --guidance 3@0.8-0.2": "--guidance 3@0.8-0.2: write a weight, as 3, or a weight with ",
    "sample --guidance 3@0.5": "--guidance 3@0.5: write a weight, as 3, or a weight with the ",
    "evaluate solvers --guidance 3@": "both in 0..1, as 3@0.2-0.8",
    "sample --temperature -1": "temperature must be at least 0, got -1.0",
    "sample --routing entropy:x": "write entropy or, with a bound in nats, entropy:2",
    "sample --temperature 1-x": "those of a level's first and last row, as 1-0.6",
    "sample --steps 8,0": "steps must be at least 1, got 8,0",
    "sample --seed -1": "seed must lie in 0..2^64-1, got -1",
    "sample --start-index -1": "start-index must be at least 0, got -1",
    "sample --timesteps 9,x": "--timesteps 9,x: write numbers with commas, as 999,749,499",
    "sample --clip abc": "--clip abc: give a number or 'none'",
    "sample --clip 0": "clip must be positive, got 0.0",
    "sample --solver nosuch": "unknown solver 'nosuch'. Allowed: ddim, ddpm, pfdiff:2,1, ",
    "sample --solver unipc:9": "unknown solver 'unipc:9'. Allowed: unipc:1, unipc:2, unipc:3.",
    "sample --solver ddpm --eta 0.5": "--eta belongs to the solver ddim, sde-dpm++ or sa; ddpm has",
    "sample --solver unipc:2 --variance small": "--variance belongs to the solver ddpm; ",
    "sample --solver auto --eta 1": "--solver auto chooses among deterministic solvers",
    "sample --solver auto --timesteps 9,5": "--solver auto chooses the times too; name a solver",
    "sample --spacing trailng": "unknown spacing 'trailng'; did you mean 'trailing'? Allowed: ",
    "sample --spacing karras:x": "--spacing karras:x: write karras or, with a rho from 1 to 100, k",
    "sample --spacing karras:": "--spacing karras:: write karras or, with a rho from 1 to 100, k",
    "sample --spacing karras:-1": "--spacing karras:-1: write karras or, with a rho from 1 to 100,",
    "sample --spacing karas": "trailing; of octrees linear and cosine.",
    "sample --variance lage": "unknown variance 'lage'; did you mean 'large'?",
    "sample --transition no": "unknown transition 'no'. Allowed: absorbing, uniform.",
    "sample --routing no": "unknown routing 'no'; did you mean 'random'? Allowed: ",
    "sample --format gif": "unknown format 'gif'. Allowed: adm, npy, npz, png, tar, webp.",
    "sample --weights emma": "unknown weights 'emma'; did you mean 'ema'? Allowed: ema, ema2, raw.",
    "sample --dtype int8": "unknown dtype 'int8'",
    "sample --device gpu": "unknown device 'gpu'. Allowed: auto, cpu, cuda, cuda:N, mps.",
    "sample --device cuda:x": "unknown device 'cuda:x'. Allowed: auto, cpu, cuda, cuda:N, mps.",
    "sample --nfe 8 --steps 8": "--nfe gives the number of evaluations; omit --steps",
    "sample --timesteps 9 --spacing quad": "--timesteps lists the times; omit --spacing",
    "sample --timesteps 9 --steps 1 --spacing quad": "lists the times; omit --steps, --spacing",
    "sample --plan here.json --solver ddim --eta 0": "solver and times; omit --solver, --eta",
    "sample --plan none.json": "--plan none.json: no such file",
    "sample --init-noise none.npy": "--init-noise none.npy: no such file",
    "sample --resume a --out b": "--resume names the folder already; omit --out",
    "sample --resume nowhere": "--resume nowhere: no run in nowhere",
    "sample --negative-prompt fog": "--negative-prompt: only with --prompt",
    "sample --limit-memory lots": "--limit-memory lots",
    "inpaint --strength 0.5": "give IMAGE|DIR|FILE, or --resume last|DIR",
    "inpaint none.png": "none.png: no such file or folder",
    "inpaint none.png --format gif": "unknown format 'gif'. Allowed: npy, png, webp.",
    "encode none.png": "none.png: no such file or folder",
    "interpolate": "give A B [C D], or --resume last|DIR",
    "interpolate 1 2 --format png": "unknown format 'png'. Allowed: gif, webp.",
    "sequence --show xt": "unknown --show 'xt'",
    "train --device gpu --seed -1": "seed must lie in 0..2^64-1, got -1",
    "evaluate nll --weights no": "unknown weights 'no'. Allowed: ema, ema2, raw.",
}
TRY = """
import contextlib, io, json, sys
from ddimx.cli.app import run
results = []
for command in json.loads(sys.argv[1]):
    sys.argv = ["ddimx", *command.split()]
    code, err = None, io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            run()
        except SystemExit as end:
            code = end.code
    heavy = [name for name in json.loads(sys.stdin.readline()) if name in sys.modules]
    results.append((code, err.getvalue(), heavy))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Exit code, message and heavy modules of each wrong command, all from one process."""
    done = subprocess.run(
        [sys.executable, "-c", TRY, json.dumps([*WRONG])],
        input=f"{json.dumps(HEAVY)}\n" * len(WRONG),
        cwd=tmp_path_factory.mktemp("wrong"),
        env=cli_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(WRONG, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("command", WRONG)
def test_it_is_one_message_and_nothing_heavy_is_imported(results, command):
    code, err, heavy = results[command]
    assert (code, heavy) == (2, [])
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert WRONG[command] in err


def test_the_names_of_spacings_are_those_of_the_formulas():
    assert (*OF_IMAGES, *BY_LEVEL) == SPACINGS
    assert OF_TOKENS == TOKEN_SPACINGS


def test_a_value_that_is_no_number_is_named_by_its_option():
    done = invoke("sample", "--nfe", "many")
    assert done.code == 2
    assert "Invalid value for '--nfe'" in done.err
    done = invoke("sample", "--steps", "many")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: steps must be a whole number of at least 1, got 'many'; octrees take one for each "
        "level too, as 1,8,6,4,4\n"
    )
