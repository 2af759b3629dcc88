"""The shape of the repository: what may be published, what may import what, and what each file owes its reader.

In    the files of this checkout.
Out   pass or fail; a failure names the file and the line.
Run   `pytest tests/test_repo_layout.py`

Files are checked where they lie, so a new file is covered without being named here.
"""

import ast
import configparser
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers.dynamic_module_utils import get_imports

REPO = Path(__file__).resolve().parent.parent
CODE_FOLDERS = ("redheart_hf", "preprocessing", "training", "demo", "benchmarks", "tests")
OURS = {"redheart_hf", "preprocessing", "training", "demo", "benchmarks", "tests"}
MODEL_FILES = sorted((REPO / "redheart_hf").rglob("*.py"))
PYTHON_FILES = sorted(path for folder in CODE_FOLDERS for path in (REPO / folder).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def imports_of(path: Path) -> Iterator[tuple[ast.stmt, int, str, list[str]]]:
    """Every import of a file, also inside functions: (node, dots, module, names)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, 0, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            yield node, node.level, node.module or "", [alias.name for alias in node.names]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPO / "setup.cfg", encoding="utf-8")
    return parser


def requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_the_model_folder_is_flat():
    # save_pretrained copies the files a model file names as `.name`, and no folder below it.
    nested = [name(path) for path in MODEL_FILES if path.parent != REPO / "redheart_hf"]
    assert MODEL_FILES
    assert nested == []


@pytest.mark.parametrize("path", MODEL_FILES, ids=name)
def test_a_model_file_imports_its_neighbours_by_dot_name(path: Path):
    for node, dots, module, names in imports_of(path):
        where = f"{name(path)}:{node.lineno}"
        if dots:
            neighbour = path.parent / f"{module}.py"
            assert dots == 1, f"{where}: {'.' * dots}{module} leaves the model folder"
            assert neighbour.is_file(), f"{where}: write `from .name import X`, not `from .{module} import {names}`"
        else:
            assert module.split(".")[0] not in OURS, f"{where}: `{module}` is not there once the model is published"


@pytest.mark.parametrize("path", MODEL_FILES, ids=name)
def test_a_model_file_imports_only_what_the_package_asks_for(path: Path):
    config = setup_cfg()
    asked = config["options"]["install_requires"] + config["options.extras_require"]["lora"]
    known = {requirement.name.replace("-", "_") for requirement in requirements(asked)}
    for node, dots, module, _ in imports_of(path):
        top = module.split(".")[0]
        if not dots and top not in sys.stdlib_module_names:
            assert top in known, f"{name(path)}:{node.lineno}: {top} is in neither install_requires nor the extra lora"


def test_a_published_model_asks_for_no_more_than_transformers_and_torch():
    """The Auto classes refuse a folder whose code imports what is not there, be it in a function that is never called:
    peft, of which adapted models alone have need, is asked for behind `is_peft_available`."""
    for path in MODEL_FILES:
        asked = set(get_imports(path)) - sys.stdlib_module_names
        assert asked <= {"torch", "transformers", "numpy", "safetensors", "huggingface_hub"}, name(path)


def test_a_checkout_imports_only_what_its_extras_ask_for():
    config = setup_cfg()
    extras = config["options.extras_require"]
    asked = config["options"]["install_requires"] + extras["train"] + extras["lora"] + extras["explain"]
    asked += extras["enrich"] + extras["prepare"] + extras["retrieval"] + extras["scale"] + extras["demo"]
    known = {canonicalize_name(requirement.name) for requirement in requirements(asked)} | {"yaml", "sklearn", "faiss"}
    for path in [path for folder in ("preprocessing", "training", "demo") for path in (REPO / folder).glob("*.py")]:
        for node, _, module, _ in imports_of(path):
            top = module.split(".")[0]
            if top not in OURS and top not in sys.stdlib_module_names:
                assert canonicalize_name(top) in known, f"{name(path)}:{node.lineno}: no extra asks for {top}"


def test_preprocessing_needs_neither_torch_nor_training():
    # But for what runs a language model, which enrichment puts together, or a text encoder; and the model's formula.
    engine = {"llm", "prefix", "score", "decode", "confidence", "enrichment", "text_vectors", "regret"}
    paths = [path for path in sorted((REPO / "preprocessing").rglob("*.py")) if path.stem not in engine]
    assert paths
    for path in paths:
        for node, _, module, _ in imports_of(path):
            where = f"{name(path)}:{node.lineno} imports {module}"
            assert module.split(".")[0] not in {"torch", "training"}, where
            assert not module.startswith("redheart_hf") or module == "redheart_hf.labels", where


def test_a_benchmark_runs_as_a_file_from_anywhere():
    # Its own folder is first on the path then: a file there by a package's name would be taken for the package.
    paths = sorted((REPO / "benchmarks").glob("*.py"))
    assert paths
    assert OURS.isdisjoint(path.stem for path in paths)
    for path in paths:
        ours = [module for _, dots, module, _ in imports_of(path) if not dots and module.split(".")[0] in OURS]
        if any(not module.startswith("redheart_hf") for module in ours):
            text = path.read_text(encoding="utf-8")
            assert "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))" in text, name(path)


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_a_file_says_what_it_is_for_and_stays_readable(path: Path):
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{name(path)} has no docstring at the top"
    assert len(text.splitlines()) <= 300, f"{name(path)} has {len(text.splitlines())} lines; split it"


def test_only_the_model_is_packaged():
    config = setup_cfg()
    assert config["options"]["packages"].split() == ["redheart_hf"]
    assert config["options.package_data"]["redheart_hf"].split() == ["py.typed"]
    assert (REPO / "redheart_hf" / "py.typed").is_file()


def test_every_requirement_has_one_tested_version_within_its_range():
    config = setup_cfg()
    pins = {}
    for pin in requirements((REPO / "constraints.txt").read_text(encoding="utf-8")):
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"constraints.txt: {pin} is not one version"
        pins[canonicalize_name(pin.name)] = specifier.version
    asked = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    for requirement in requirements("\n".join(asked)):
        tested = pins.get(canonicalize_name(requirement.name))
        assert tested is not None, f"setup.cfg asks for {requirement}; constraints.txt does not say which was tested"
        assert requirement.specifier.contains(tested), f"{requirement} does not admit the tested {tested}"


def test_every_dependency_is_explained():
    config = setup_cfg()
    text = canonicalize_name((REPO / "docs" / "dependencies.md").read_text(encoding="utf-8").replace("\n", " "))
    asked = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    for requirement in requirements("\n".join(asked)):
        assert canonicalize_name(requirement.name) in text, f"docs/dependencies.md does not say why {requirement.name}"


def test_a_lint_rule_that_is_off_says_why():
    lines = (REPO / "mlinter-rules.toml").read_text(encoding="utf-8").splitlines()
    rules = tomllib.loads("\n".join(lines))["rules"]
    off = [rule for rule, spec in rules.items() if not spec["default_enabled"]]
    assert len(off) < len(rules)
    for rule in off:
        comment = lines[lines.index(f"[rules.{rule}]") - 1]
        assert comment.startswith("# Off"), f"mlinter-rules.toml: {rule} is off, and no line above says why"


def test_every_lint_rule_there_is_has_been_decided_on():
    # mlinter runs only what the file lists: a rule that a newer version brings would be off without a word.
    mlinter = pytest.importorskip("mlinter", reason="mlinter comes with the extra dev")
    shipped = tomllib.loads((Path(mlinter.__file__).parent / "rules.toml").read_text(encoding="utf-8"))["rules"]
    ours = tomllib.loads((REPO / "mlinter-rules.toml").read_text(encoding="utf-8"))["rules"]
    assert set(ours) == {rule for rule, spec in shipped.items() if not spec.get("deprecated")}


def test_a_hook_runs_what_make_quality_runs():
    targets = re.search(r"^quality:(.*)$", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets is not None
    (repo,) = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"] for hook in repo["hooks"]] == [f"make {target}" for target in targets[1].split()]


def test_the_changelog_has_a_place_for_what_is_not_released():
    headings = re.findall(r"^## (.*)$", (REPO / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings
    assert headings[0] == "[Unreleased]"


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """run_learning.sh in a folder of its own, so that a virtual environment it made by mistake would be seen."""
    copy = tmp_path / "run_learning.sh"
    copy.write_bytes((REPO / "run_learning.sh").read_bytes())
    return copy


def test_an_unknown_mode_is_refused_before_anything_is_made(launcher: Path, tmp_path: Path):
    done = subprocess.run(["bash", str(launcher), "tset"], capture_output=True, text=True, cwd="/", timeout=30)
    assert done.returncode == 2
    assert "tset" in done.stderr
    assert re.search(r"\btest\b", done.stderr), "the message lists the modes there are"
    assert [path.name for path in tmp_path.iterdir()] == ["run_learning.sh"]


@pytest.mark.parametrize("argument", ["help", "-h", "--help"])
def test_help_is_printed_without_an_environment(launcher: Path, tmp_path: Path, argument: str):
    done = subprocess.run(["bash", str(launcher), argument], capture_output=True, text=True, cwd="/", timeout=30)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\btest\b", done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["run_learning.sh"]
