"""Code digests: what counts, what does not, and that every Python says the same."""

from __future__ import annotations

import ast
import difflib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.core import digest
from pipeline.core.digest import Code, code_digest, reached

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {"__init__", "export", "predict", "start", "status", "suggest"}  # the workflow: nobody asks for their digest
STAGES = sorted(path.stem for path in (ROOT / "pipeline").glob("*.py") if path.stem not in OUTSIDE)

STAGE = '''"""A stage."""
from __future__ import annotations

import numpy as np

import pipeline.core.deep
from pipeline.core import shapes
from pipeline.core.heads import HEADS as TABLE
from pipeline.core.heads import build as make

SIZE, UNUSED = 3, 4
LIMIT = 5


def run(job):
    from pipeline.core.late import late
    shapes = job.shapes
    return helper(job) + make("wide")() + late() + pipeline.core.deep.dive() + np.sum(SIZE)


def helper(x, limit=LIMIT):
    return shapes.area(x) if x > limit else again(x)


def again(x):
    return helper(x)


def unreached(x):
    return shapes.edge(x)


if __name__ == "__main__":
    pipeline.core.deep.command(run)
'''

FILES = {
    "__init__.py": "",
    "core/__init__.py": "",
    "stage.py": STAGE,
    "core/shapes.py": '''
from functools import cache

from pipeline.core.bases import Base, FACTOR

class Shape(Base):
    side: int = 2

    def area(self):
        """How large."""
        return self.side

@cache
def area(x):
    return Shape().area() * FACTOR

def edge(x):
    return 4 * x
''',
    "core/bases.py": """
import pipeline.core.shapes as back

class Base:
    def double(self) -> int:
        return 2

FACTOR = 10
OTHER = 11

def cycle():
    return back.edge(1)
""",
    "core/heads.py": """
from pipeline.core.bases import OTHER

def wide(): return 1
def narrow(): return OTHER
def build(name): return HEADS[name]

HEADS = {"wide": wide, "narrow": narrow}
""",
    "core/late.py": "def late(): return 7\ndef later(): return 8\n",
    "core/deep.py": """
from pipeline.core import config

def dive(): return deeper

def command(run): return config.read(run)

deeper = 1
""",
    "core/config.py": "from pipeline.core import store\ndef read(run): return store.fetch(run)\n",
    "core/store.py": "def fetch(run): return run\n",
}


class Package:
    """A package in a folder, and what its stage's digest becomes after an edit."""

    def __init__(self, root: Path):
        self.root = root / "pipeline"
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text, encoding="utf-8")

    def edit(self, name: str, before: str, after: str) -> None:
        text = (self.root / name).read_text(encoding="utf-8")
        assert before in text
        self.write(name, text.replace(before, after))

    def digest(self, *choices: str) -> str:
        return Code(self.root).digest("stage", choices)

    def reached(self, *choices: str) -> list[str]:
        return Code(self.root).reached("stage", choices)


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return Package(tmp_path)


def test_reaches_what_names_lead_to(package: Package) -> None:
    assert package.reached() == [
        "pipeline.core.bases.Base",  # base class
        "pipeline.core.bases.FACTOR",
        "pipeline.core.bases.OTHER",
        "pipeline.core.deep.command",  # the command line's; what it uses of config does not count, what that uses does
        "pipeline.core.deep.deeper",
        "pipeline.core.deep.dive",
        "pipeline.core.heads.HEADS",
        "pipeline.core.heads.build",
        "pipeline.core.heads.narrow",
        "pipeline.core.heads.wide",
        "pipeline.core.late.late",
        "pipeline.core.shapes.Shape",
        "pipeline.core.shapes.area",
        "pipeline.core.store.fetch",
        "pipeline.stage.<main>",
        "pipeline.stage.LIMIT",
        "pipeline.stage.SIZE",
        "pipeline.stage.again",
        "pipeline.stage.helper",
        "pipeline.stage.run",
    ]


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("stage.py", "def run(job):", "# a comment\ndef run( job, ):"),
        ("stage.py", "def run(job):", 'def run(job: int) -> "dict":\n    "What it does."'),
        ("stage.py", "    shapes = job.shapes", "    shapes: object = job.shapes"),
        ("stage.py", "LIMIT = 5", "LIMIT: int = 5"),
        ("stage.py", "SIZE, UNUSED = 3, 4\nLIMIT = 5\n", "LIMIT = 5\nSIZE, UNUSED = 3, 4\n"),
        ("stage.py", "shapes.edge(x)", "shapes.edge(x + 1)"),
        ("stage.py", "def unreached", "def another(): return TABLE\n\ndef unreached"),
        ("stage.py", "import numpy as np\n", "import numpy as np\nimport os\n"),
        ("stage.py", "import numpy as np\n", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import os\n"),
        ("core/shapes.py", "How large.", "Its area."),
        ("core/shapes.py", "4 * x", "5 * x"),
        ("core/bases.py", "back.edge(1)", "back.edge(2)"),
        ("core/bases.py", "-> int", "-> float"),
        ("core/late.py", "return 8", "return 9"),
        ("core/config.py", "(run): return", "(run): run = run + 1; return"),
    ],
)
def test_edits_that_do_not_count(package: Package, file: str, before: str, after: str) -> None:
    if "TYPE_CHECKING" in after:
        after = before + after
    first = package.digest()
    package.edit(file, before, after)
    assert package.digest() == first


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("stage.py", "return helper(job)", "return 2 * helper(job)"),
        ("stage.py", "import numpy as np", "import cupy as np"),  # another meaning of the same name
        ("stage.py", "import build as make", "import wide as make"),
        ("stage.py", "limit=LIMIT", "limit=SIZE"),
        ("stage.py", "LIMIT = 5", "LIMIT = 5.0"),
        ("stage.py", "return helper(x)", "return helper(-x)"),
        ("stage.py", "command(run)", "command(helper)"),
        ("core/shapes.py", "@cache\n", ""),
        ("core/shapes.py", "from functools import cache", "from pipeline.core.late import later as cache"),
        ("core/shapes.py", "side: int = 2", "side: float = 2"),  # dataclasses and pydantic act on it
        ("core/shapes.py", "return self.side", "return self.side + 1"),
        ("core/bases.py", "FACTOR = 10", "FACTOR = 11"),
        ("core/bases.py", "return 2", "return 3"),
        ("core/heads.py", "return 1", "return 2"),
        ("core/late.py", "return 7", "return 8"),
        ("core/deep.py", "deeper = 1", "deeper = 2"),
        ("core/store.py", "return run", "return [run]"),  # reached through config, which does not count itself
        ("core/bases.py", "FACTOR = 10", "FACTOR = 10\nprint(OTHER)"),  # runs on import
        ("core/__init__.py", "", "import os\nos.environ['X'] = '1'\n"),
    ],
)
def test_edits_that_count(package: Package, file: str, before: str, after: str) -> None:
    first = package.digest()
    package.edit(file, before, after)
    assert package.digest() != first


def test_a_file_counts_by_its_name_and_a_definition_by_its_place(package: Package) -> None:
    first = package.digest()
    package.edit("stage.py", "pipeline.core.late import", "pipeline.core.later import")
    package.write("core/later.py", FILES["core/late.py"])
    assert package.digest() != first


# --------------------------------------------------------------------------------------------- tables of choices


def test_a_new_entry_of_a_table_changes_nothing_for_who_does_not_choose_it(package: Package) -> None:
    chosen, whole = package.digest("wide", "resnet18"), package.digest()
    assert "pipeline.core.heads.narrow" not in package.reached("wide")
    package.edit("core/heads.py", '"narrow": narrow}', '"new": lambda: new(), "narrow": narrow}\ndef new(): return 3')
    assert package.digest("wide", "resnet18") == chosen
    assert package.digest("new") not in (chosen, whole) and package.digest() != whole
    package.edit("core/heads.py", "return OTHER", "return 12")
    assert package.digest("wide", "resnet18") == chosen
    package.edit("core/heads.py", "return 1\n", "return 13\n")
    assert package.digest("wide", "resnet18") != chosen


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('HEADS = {"wide"', 'HEADS = {1: None, "wide"'),
        ('HEADS = {"wide"', 'MORE = {}\nHEADS = {**MORE, "wide"'),
        ("return HEADS[name]", "return [make for key, make in HEADS.items() if key == name][0]"),
        ("return HEADS[name]", "return list(HEADS.values())[0]"),
    ],
)
def test_a_table_that_is_not_one_or_is_used_entirely_counts_whole(package: Package, before: str, after: str) -> None:
    package.edit("core/heads.py", before, after)
    assert "pipeline.core.heads.narrow" in package.reached("wide")


def test_choices_that_are_in_no_table_change_nothing(package: Package) -> None:
    assert package.digest("resnet18") == package.digest()
    assert package.digest("wide", "narrow") == package.digest()


# ------------------------------------------------------------------------------- names that cannot be followed


@pytest.mark.parametrize(
    "body",
    [
        "from pipeline.core import late\ndef run(name): return getattr(late, name)()",
        "import pipeline.core.late as late\nALL = [late]\ndef run(k): return ALL[k]",
        "from pipeline.core.late import *\ndef run(k): return late()",
        "from pipeline.core import late\ndef run(k): return late.added",
        "from pipeline.core.late import added\ndef run(k): return added",
        "def run(k):\n    from importlib import import_module\n    return import_module('pipeline.core.late')",
        "from importlib import import_module as load\ndef run(k): return load(f'pipeline.core.{k}')",
        "import importlib\ndef run(k): return importlib.import_module(f'pipeline.core.{k}')",
        "import sys\nimport pipeline.core.late\ndef run(k): return sys.modules[k]",
        "import pipeline\ndef run(k): return pipeline",
        "from . import core\ndef run(k): return vars(core.late)",
    ],
)
def test_a_module_that_cannot_be_followed_counts_whole(package: Package, body: str) -> None:
    package.write("core/late.py", FILES["core/late.py"] + "from pipeline.core.bases import OTHER\nMUCH = OTHER")
    package.write("stage.py", body)
    assert {f"pipeline.core.late.{name}" for name in ("late", "later", "MUCH")} < set(package.reached())
    assert "pipeline.core.bases.OTHER" in package.reached()


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        ("import sys\nfrom pipeline.core import late\ndef run(k): return 'torch' in sys.modules", False),
        ("from importlib import import_module\ndef run(k): return import_module('torch')", False),
        ("from pipeline.core import late\ndef run(k): return late.__name__", False),
        ("from pipeline.core import late\ndef run(late): return late", False),
        ("from pipeline.core import late\ndef run(k): return [late for late in k]", False),
        ("from pipeline.core import late\ndef run(k): return [late for late in late.late()]", True),
        ("from pipeline.core import late\ndef run(k):\n    def f(late): return late\n    return f", False),
        ("from pipeline.core import late\ndef run(k):\n    def f(late): pass\n    return late.late", True),
        ("from pipeline.core import late\ndef run(k):\n    global late\n    late = late.late()", True),
        ("from pipeline.core import late\ndef run(k):\n    class A:\n        late = 1\n    return late.late", True),
        ("from pipeline.core import late\ndef run(k, f=late.late): return f", True),
        ("from pipeline.core import late\ndef run(k): return lambda late=late.late: late()", True),
        ("from pipeline.core import late\ndef run(k):\n    late.late = k", True),
        ("from pipeline.core import late\ndef run(k):\n    match k:\n        case late.late: pass", True),
        ("from pipeline.core import late\ndef run(k):\n    match k:\n        case [late, *_]: return late", False),
        ("from .core import late\ndef run(k): return f'{k:{late.late()}}'", True),
        ("from .core.late import late\n@late\ndef run(k): return k", True),
        (
            "try:\n    from pipeline.core.late import late\nexcept OSError: pass\ndef run(k): late()",
            True,
        ),
        ("def run(k): return 1\ndef build(): return late()\nfrom pipeline.core.late import late", False),
        ("def build(): return late()\nfrom pipeline.core.late import late", True),  # no `run`: everything
        ("def run(k): return eval(k)\ndef build(): return late()\nfrom pipeline.core.late import late", True),
        ("from pipeline.core.late import late\nfor k in (1, 2):\n    late(k)\ndef run(k): return k", True),
        ("from pipeline.core.late import late\nk = {}\nk['late'] = late\ndef run(k): return k", True),
        ("from pipeline.core.late import late\ndef run(k): return k\nif __name__ == '__main__':\n    late()", True),
    ],
)
def test_scopes_imports_and_statements(package: Package, body: str, counts: bool) -> None:
    package.write("stage.py", body)
    assert ("pipeline.core.late.late" in package.reached()) == counts


def test_what_an_import_runs_counts_even_where_nothing_is_used(package: Package) -> None:
    package.write("stage.py", "def run(k):\n    import pipeline.core.late\n    return k")
    package.write("core/late.py", "import pipeline.core.bases\n")
    assert package.reached() == ["pipeline.stage.run"]
    package.edit("core/bases.py", "OTHER = 11", "OTHER = 11\nBase.double = OTHER\nif __name__ == '__main__': cycle()")
    assert package.reached() == [
        "pipeline.core.bases.<statements>",
        "pipeline.core.bases.Base",
        "pipeline.core.bases.OTHER",
        "pipeline.stage.run",
    ]


def test_a_decorator_of_our_own_may_register_a_function_so_it_counts(package: Package) -> None:
    package.write("stage.py", "from pipeline.core import late\ndef run(k): return late.late()")
    package.write("core/late.py", "ALL = []\ndef add(f): ALL.append(f)\n@add\ndef f(): pass\ndef late(): return ALL")
    assert "pipeline.core.late.f" in package.reached()


def test_names_passed_on_by_another_module_are_followed(package: Package) -> None:
    package.write("stage.py", "from pipeline.core import front\ndef run(k): return front.go() + front.shapes.edge(1)")
    package.write("core/front.py", "from pipeline.core import shapes\nfrom pipeline.core.late import late as go")
    assert package.reached() == [
        "pipeline.core.front.go",
        "pipeline.core.front.shapes",
        "pipeline.core.late.late",
        "pipeline.core.shapes.edge",
        "pipeline.stage.run",
    ]
    first = package.digest()
    package.edit("core/front.py", "late as go", "later as go")
    assert package.digest() != first


def test_a_stage_that_is_not_there_is_named(package: Package) -> None:
    with pytest.raises(ValueError, match=r"no module pipeline\.stages"):
        Code(package.root).digest("stages")


# ------------------------------------------------------------------------------------------------ every Python

SAMPLE = r'''
"""All syntax that the pipeline uses, and what Pythons are known to tell apart."""
from __future__ import annotations
import math as m, os.path
from dataclasses import dataclass, field
from typing import Any, ClassVar

A: int = -1
B = 1_000, 1.5e-3, 2j, b"\x00\xff", ..., None, True, 0, "", 0.0, "\N{SNOWMAN}\u0378\U0001fae9 'x' \"y\"", 1e400
C = "one " 'two' f"three {A}" "four" f"{A!r:>{A + 10}.{3}f}{{}}" f"{A=}" f"{A = :5}" f"{A:}" f"plain"
D = {"a": 1, **{}, "b": [*B, *C]}
E = {1, 2} | set()

@dataclass(frozen=True)
class Thing(dict[str, Any], metaclass=type):
    """Doc."""
    KIND: ClassVar[str] = "x"
    size: int | None = field(default=0)
    name: str

    @property
    def area(self) -> float:
        return self.size ** 2 @ self.size if self.size else m.inf

async def waits(x):
    async with x as y:
        return [z async for z in y if await z]

def run(job: Any, /, a: int, b=2, *rest: int, key, other=None, **more: Any) -> Any:
    """Doc."""
    global A
    count: int = 0
    later: str
    def inner():
        nonlocal count
        count += 1; return count
    A = [x * y for x in range(3) for y in (1, 2) if x if not y]
    d = {k: v for k, v in more.items()}, {i for i in rest}, (i for i in rest)
    if (n := len(rest)) > 3 and 0 < n <= 5 != 7 or n is not None and n not in rest:
        pass
    elif n: del d
    else:
        assert n, f"bad {n}"
    for i, (j, *k) in enumerate(rest): continue
    else: j = i // 2 % 3 << 1 >> 1 & 7 ^ 8 | ~i
    while True: break
    with open("a") as f, open("b"):
        f.read()[1:, ::2, ..., None, -1:n]
    try:
        raise ValueError("x") from None
    except (KeyError, ValueError) as error: print(error, *rest, sep="", **more)
    except Exception: raise
    else: n -= 1
    finally: n @= 2
    match job:
        case Thing(size=0 | 1 as s, name="q") if s: return s
        case {"k": [1, *others], **left}: return others, left
        case None | True | -1.5: return False
        case [a, (b, _)]: return lambda x, *, y=1: x + y
        case m.inf: yield
        case _: return (yield from inner())
    try: pass
    except* OSError: pass
    from os import path as p
    return p.join("a", key)[0].b().c, Thing, waits, B, C, D, E
'''
STORED = "8c00607a04c0d740"


def sample(tmp_path: Path, text: str) -> str:
    (tmp_path / "pipeline").mkdir(exist_ok=True)
    (tmp_path / "pipeline" / "__init__.py").write_text("")
    (tmp_path / "pipeline" / "sample.py").write_text(text, encoding="utf-8")
    return Code(tmp_path / "pipeline").digest("sample")


def test_the_digest_is_the_same_under_every_python(tmp_path: Path) -> None:
    """The stored digest is what Python 3.11 to 3.15 say of this text."""
    assert sample(tmp_path, SAMPLE) == STORED


def test_layout_is_not_in_the_digest(tmp_path: Path) -> None:
    assert sample(tmp_path, ast.unparse(ast.parse(SAMPLE))) == STORED


def edits(tree: ast.Module) -> Iterable[str]:
    """The sample with one constant, name, operator, argument or attribute changed, or one statement left out."""
    # A module's imports count where their names are used, and that is tested on packages.
    nodes = (node for part in tree.body if not isinstance(part, ast.Import | ast.ImportFrom) for node in ast.walk(part))
    for node in nodes:
        if isinstance(node, ast.Constant | ast.MatchSingleton):
            for value in {0, None, "", 1.0} - {node.value}:
                yield from changed(tree, node, "value", value)
        for name, value in ast.iter_fields(node):
            if name in ("id", "attr", "arg", "name", "module", "asname", "rest") and isinstance(value, str):
                yield from changed(tree, node, name, "changed")
            elif name in ("op", "ops"):
                other: ast.AST = ast.Is() if name == "ops" else ast.And() if isinstance(value, ast.Or) else ast.Or()
                other = ast.Div() if isinstance(value, ast.operator) else other
                other = ast.UAdd() if isinstance(value, ast.unaryop) else other
                yield from changed(tree, node, name, [other, *value[1:]] if name == "ops" else other)
            elif isinstance(value, list):
                for k, item in enumerate(value):
                    if isinstance(item, ast.stmt | ast.expr | ast.comprehension | ast.keyword | ast.alias | ast.arg):
                        yield from changed(tree, node, name, value[:k] + value[k + 1 :])


def changed(tree: ast.Module, node: ast.AST, field: str, value: object) -> Iterable[str]:
    before = getattr(node, field)
    setattr(node, field, value)
    try:
        text = ast.unparse(tree)
        ast.parse(text)
        yield text
    except (ValueError, SyntaxError, TypeError, AttributeError, IndexError):
        pass  # not every change is Python
    finally:
        setattr(node, field, before)


def test_whatever_is_changed_shows(tmp_path: Path) -> None:
    tree = Strip().visit(ast.parse(SAMPLE))
    text = ast.unparse(tree)
    same = ast.dump(ast.parse(text))
    assert sample(tmp_path, text) == STORED
    tried, silent = 0, []
    for edited in edits(tree):
        if ast.dump(ast.parse(edited)) != same:
            tried += 1
            if sample(tmp_path, edited) == STORED:
                silent += list(difflib.unified_diff(text.split("\n"), edited.split("\n"), n=0, lineterm=""))[2:]
    assert tried > 500
    assert silent == []


class Strip(ast.NodeTransformer):
    """Leaves out what does not count: docstrings, annotations outside class bodies."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if isinstance(node.target, ast.Name) and node.target.id in ("A", "count"):
            return ast.Assign([node.target], node.value, lineno=0)
        return None if isinstance(node.target, ast.Name) and node.target.id == "later" else node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else node


def test_the_pythons_of_this_machine_agree() -> None:
    """Run by hand under others: PYTHONPATH=. python3.x -m pipeline.core.digest STAGE"""
    program = (
        "from pipeline.core.digest import code_digest\n"
        f"print([code_digest(stage) for stage in {STAGES}], end='')"
    )  # fmt: skip
    own = repr([code_digest(stage) for stage in STAGES])
    tried = []
    for minor in range(11, 20):
        python = shutil.which(f"python3.{minor}")
        if python is None or minor == sys.version_info.minor:
            continue
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, env=environment)
        if done.returncode == 127:  # a version manager's stand-in for a Python that is not chosen
            continue
        tried.append(python)
        assert done.stdout == own, f"{python}: {done.stdout}{done.stderr}"
    if not tried:
        pytest.skip("no second Python from 3.11 on is on PATH")


# -------------------------------------------------------------------------------------------- the real package


def test_every_stage_has_a_digest_of_its_own() -> None:
    digests = {stage: code_digest(stage) for stage in STAGES}
    assert len(set(digests.values())) == len(STAGES) > 10
    assert all(len(value) == 16 and set(value) <= set("0123456789abcdef") for value in digests.values())


@pytest.mark.parametrize("stage", STAGES)
def test_stages_reach_their_run_the_store_and_no_excluded_module(stage: str) -> None:
    names = reached(stage)
    assert any(name.startswith(f"pipeline.{stage}.") for name in names)
    if stage != "prepare":  # the others get artifacts from the command line, which counts not itself
        assert "pipeline.core.store.Artifact" in names
    assert not any(name.startswith(f"{module}.") for name in names for module in digest.NOT_CODE)


def test_excluded_modules_that_exist_are_spelled_as_they_are() -> None:
    existing = {name for name in digest.NOT_CODE if Code(ROOT / "pipeline").file(name)}
    assert {"pipeline.core.config", "pipeline.core.cli", "pipeline.core.digest", "pipeline.core.syntax"} <= existing


def test_saliency_reaches_no_network() -> None:
    modules = {name.rsplit(".", 1)[0] for name in reached("saliency")}
    assert not any("networks" in name or name.endswith((".models", ".train")) for name in modules), modules


def test_the_methods_of_saliency_are_a_table_of_choices() -> None:
    assert "pipeline.saliency.frequency_tuned" in reached("saliency", ["ft"])
    assert "pipeline.saliency.robust_background" not in reached("saliency", ["ft"])


def test_a_new_head_reruns_nothing_that_does_not_choose_it(tmp_path: Path) -> None:
    copy = shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (file,) = (path for path in copy.rglob("*.py") if re.search(r"^HEADS\b.*= \{", path.read_text("utf-8"), re.M))
    code = Code(copy)
    before = {(stage, head): code.digest(stage, [head]) for stage in STAGES for head in ("largefov", "new")}
    new = re.sub(r"^(HEADS\b.*= \{)", r'\1"new": NewHead, ', file.read_text("utf-8"), flags=re.M)
    file.write_text(f"{new}\n\nclass NewHead(LargeFov):\n    width = 3\n", encoding="utf-8")
    after = Code(copy)
    assert [stage for stage in STAGES if after.digest(stage, ["largefov"]) != before[stage, "largefov"]] == []
    assert after.digest("segment", ["new"]) != before["segment", "new"]
    assert "NewHead" in {name.rsplit(".", 1)[1] for name in after.reached("segment", ["new"])}


def test_no_stage_counts_the_whole_package() -> None:
    """One name that cannot be followed would do that, and every edit would rerun everything."""
    for stage in STAGES:
        others = {f"pipeline.{other}" for other in STAGES if other != stage}
        assert not {name for name in reached(stage) if name.rsplit(".", 1)[0] in others}, stage


def test_reading_code_imports_nothing_heavy() -> None:
    program = (
        "import sys; from pipeline.core import digest; digest.code_digest('segment')\n"
        "assert not {'torch', 'numpy', 'pydantic', 'zarr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
