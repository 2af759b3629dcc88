"""The wheel: it holds the model package and nothing else, and works where this checkout has never been.

In    the checkout; pip and setuptools of the running environment, no network.
Out   pass or fail.
Run   `pytest -m slow tests/test_repo_wheel.py`
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROBE = """
import importlib.util, json, pathlib, pkgutil
import redheart_hf
modules = [m.name for m in pkgutil.iter_modules(redheart_hf.__path__)]
for m in modules:
    importlib.import_module("redheart_hf." + m)
import torch
model = redheart_hf.RedHeartForMultiTask(redheart_hf.preset_config("redheart-tiny")).eval()
ids = torch.tensor([[5, 6, 7]])
with torch.no_grad():
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
print(json.dumps({
    "home": str(pathlib.Path(redheart_hf.__file__).parent),
    "modules": modules,
    "basic": list(output.emotion.basic_logits.shape),
    "others": [n for n in ("training", "preprocessing") if importlib.util.find_spec(n)],
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    # With the checkout on PYTHONPATH, as run_learning.sh has it, pip would take its egg-info for an installed package.
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build in the checkout would leave build/ behind, and pick up what an older one left."""
    source, target = tmp_path_factory.mktemp("source") / "checkout", tmp_path_factory.mktemp("wheel")
    unwanted = (".git", ".venv", "outputs", "runs", "data", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(REPO, source, ignore=shutil.ignore_patterns(*unwanted))
    pip = (sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", target, cwd=source)
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_holds_the_model_alone(wheel: Path):
    files = zipfile.ZipFile(wheel).namelist()
    inside = {file for file in files if ".dist-info/" not in file}
    expected = {f"redheart_hf/{path.name}" for path in (REPO / "redheart_hf").glob("*.py")} | {"redheart_hf/py.typed"}
    assert inside == expected
    assert any(file.endswith("LICENSE") for file in files)


def test_the_wheel_works_where_the_checkout_is_not(wheel: Path, tmp_path: Path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    (site,) = environment.glob("lib/python*/site-packages")
    # Torch and Transformers are lent by the running environment. Its own .pth files, an editable install of this
    # checkout among them, are not read from a folder that is itself named in a .pth file.
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    seen = json.loads(run(python, "-I", "-c", PROBE, cwd=tmp_path).splitlines()[-1])
    assert Path(seen["home"]).resolve() == (site / "redheart_hf").resolve()
    written = {path.stem for path in (REPO / "redheart_hf").glob("*.py")} - {"__init__"}
    assert set(seen["modules"]) == written
    assert seen["basic"] == [1, 7]
    assert seen["others"] == []
