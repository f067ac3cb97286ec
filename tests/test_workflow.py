"""Snakemake for real: every recipe on a small folder of photographs, and exactly which jobs an edit brings back.

One run makes all recipes of config.yaml; most other tests are dry runs over what it left. Its paths are as awkward as
paths can be, so that whatever reaches a shell unquoted fails here. Rules' commands are forked from warm processes
(warm.py), but where Snakemake is killed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import warm
import yaml
from conftest import ENVIRONMENT, ROOT
from PIL import Image

from pipeline.datasets import collage

pytestmark = pytest.mark.workflow
SHIPPED = ("Snakefile", "config.yaml", "workflow", "pipeline", "configs", "envs", "slurm")
TINY = str(ROOT / "tests" / "tiny.yaml")
RESULTS = "my results & $(touch executed) it's; touch executed"
PHOTOS = "my photos & $(touch executed) it's"
PLACE = f"{RESULTS}/tiny"
SAID = "said.txt"  # what the run of all recipes said
TRACEBACK = "Traceback (most recent call last)"

# Recipe → jobs of a dry run: the data set's three, its steps, their scores, the report, the index of all reports.
RECIPES = {
    "card": 22,
    "no-crf": 22,
    "no-erasing": 16,
    "no-tuning": 20,
    "tags": 14,
    "no-saliency": 13,
    "erasing": 20,
    "erasing-uncut": 20,
    "ae-psl": 20,
    "ae-psl-plus": 24,
    "tuned": 16,
    "relabelled": 18,
    "excitation": 14,
    "erasing-relabelled": 24,
    "stc-initial": 11,
    "stc-enhanced": 15,
    "stc": 19,
    "hcp": 14,
    "hcp-hard": 16,
    "masks": 10,
    "few-only": 10,
    "mix-and-match": 12,
    "mix-and-match-jigsaw": 12,
    "mix-and-match-random": 12,
    "contrast": 11,
    "contrast-semi": 18,
    "tags-few": 18,
    "ae-psl-few": 24,
    "contrast-tags": 19,
    "dis": 16,
    "supervised": 10,
}
ALL = 191  # of all together: they share the rest


def words(*args: str, files: tuple[str, ...] = (TINY, "own.yaml")) -> list[str]:
    """Arguments of snakemake; what follows '--' are targets."""
    split = args.index("--") if "--" in args else len(args)
    configuration = ["--configfile", *files] if files else []
    return ["--nocolor", *args[:split], *configuration, "--", *args[split + 1 :]]


def environment(where: Path, python: str = str(Path(sys.executable).parent)) -> dict[str, str]:
    """python: the folder whose `python` the rules run."""
    path = os.pathsep.join([python, str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**ENVIRONMENT, "PATH": path, "PYTHONPATH": str(where), "TAGMASK_PROGRESS": "0.5"}


def snakemake(
    where: Path, *args: str, fails: bool = False, files: tuple[str, ...] = (TINY, "own.yaml"), as_cloned: bool = False
) -> str:
    """What it said. as_cloned: nobody has edited the code that lies there, so it need not be read anew."""
    server = warm.server_of(where) if as_cloned else ""
    given = environment(where, warm.stand_in(where / "bin", server))
    status, said = warm.run("snakemake", words(*args, files=files), where, given, server=server)
    assert (status != 0) == fails, said[-6000:]
    assert not list(where.rglob("executed")), "a path or a name has reached a shell"
    return said


def jobs(said: str) -> dict[str, int]:
    """Rule → count, from the statistics of a dry run."""
    if "Job stats:" not in said:
        return {}
    found = re.findall(r"^(\w+)\s+(\d+)$", said.split("Job stats:")[1].split("total")[0], re.M)
    return {name: int(count) for name, count in found if name != "all"}


def planned(where: Path, *targets: str) -> dict[str, int]:
    """Rule → count of what a dry run of these targets (all) would do."""
    return jobs(snakemake(where, "-n", "--", *targets))


def page(recipe: str) -> str:
    return f"{PLACE}/report/{recipe}-seed0.html"


def checkout(where: Path) -> Path:
    """A copy of what a clone has, so that files can be edited."""
    for name in SHIPPED:
        source, target = ROOT / name, where / name
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return where


def configure(where: Path, name: str = "own.yaml", photos: str = PHOTOS, run: tuple[str, ...] = tuple(RECIPES)) -> None:
    data = {"name": "tiny", "format": "folder", "folder": {"root": photos}}
    (where / name).write_text(yaml.safe_dump({"results": RESULTS, "data": data, "run": list(run)}))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone and a folder of photographs; nothing has been run."""
    where = checkout(tmp_path_factory.mktemp("clone"))
    configure(where)
    collage.write(where / PHOTOS, train=12, val=4, seed=0)
    mask = where / PHOTOS / "masks" / "00003.png"
    rewrite(mask, np.asarray(Image.open(mask)))
    return where


def rewrite(path: Path, mask: np.ndarray) -> None:
    """A mask's file, uncompressed: its size says nothing of what is in it."""
    image = Image.fromarray(mask).convert("P")
    image.putpalette(collage.PALETTE)
    image.save(path, compress_level=0)


@pytest.fixture(scope="module")
def done(clone: Path) -> Path:
    """Every recipe, made by one `snakemake --cores 2`. Tests leave it as they find it."""
    said = snakemake(clone, "--cores", "2", as_cloned=True)
    assert f"{ALL + 1} of {ALL + 1} steps (100%) done" in said  # the rule `all` is one
    (clone / SAID).write_text(said)
    return clone


@pytest.fixture
def copy(done: Path, tmp_path: Path) -> Path:
    """A copy of it without what is seeded, which is large: the data set, saliency, initial weights, reports."""
    where = tmp_path / "copy"
    shutil.copytree(done, where, symlinks=True, ignore=shutil.ignore_patterns("seed0", "locks", "bin"))
    return where


# ------------------------------------------------------------------------------------------------------ dry runs


def test_a_dry_run_shows_the_whole_chain(clone: Path) -> None:
    """As shipped: `snakemake -n` in a fresh clone."""
    assert jobs(snakemake(clone, "-n", files=())) == {
        "prepare_photographs": 1,
        "prepare_tags": 1,
        "prepare_masks": 1,
        "proxy": 1,
        "saliency": 1,
        "classify": 1,
        "cam": 1,
        "erase": 2,
        "mine": 2,
        "crf": 1,
        "patches": 1,
        "triplet": 1,
        "segment": 1,
        "evaluate": 4,
        "evaluate_model": 1,
        "page": 1,
        "index": 1,
    }


def test_every_recipe_of_config_yaml_is_counted_here() -> None:
    assert list(yaml.safe_load((ROOT / "config.yaml").read_text())["recipes"]) == list(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_jobs_of_each_recipe(recipe: str, clone: Path) -> None:
    configure(clone, "one.yaml", run=(recipe,))
    found = jobs(snakemake(clone, "-n", files=(TINY, "one.yaml"), as_cloned=True))
    assert sum(found.values()) == RECIPES[recipe], found


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"data": {"name": "mine"}}, ["data.name is 'mine' but nothing says where the photographs are"]),
        ({"data": {"format": "demo", "folder": {"root": "x"}}}, ["data.folder is set but data.format is 'demo'"]),
        ({"steps": {"x": "cam"}}, ["steps.x: a block of settings expected, such as {method: cam} (found: 'cam')"]),
        ({"evaluate": {"thresholds": 0}}, ["evaluate.thresholds: Input should be greater than or equal to 1"]),
        ({"recipes": {"a $(touch executed) b": ["random"]}}, ["recipes", "a name begins with a letter or digit"]),
        ({"results": "my {results}"}, ["results", "Snakemake would take it for a pattern"]),
        ({"recipes": {"broken": ["colorize", "cam"]}, "run": ["broken"]}, ["recipe 'broken', step 2 'cam'"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_run_is_explained_on_the_terminal(change: dict, parts: list[str], clone: Path) -> None:
    (clone / "bad.yaml").write_text(yaml.safe_dump(change))
    said = snakemake(clone, "-n", files=("bad.yaml",), fails=True)
    assert TRACEBACK not in said
    for part in parts:
        assert part in said


def test_a_recipe_that_needs_masks_is_refused_where_the_data_has_none(clone: Path) -> None:
    if not (clone / "bare").is_dir():
        collage.write(clone / "bare", train=12, val=4, seed=0)
        shutil.rmtree(clone / "bare" / "masks")
    configure(clone, "bare.yaml", photos="bare", run=("tags", "few-only"))
    said = snakemake(clone, "-n", files=(TINY, "bare.yaml"), fails=True)
    assert "recipe 'few-only', step 'few': it needs true masks, and this data set has none" in said
    assert TRACEBACK not in said
    configure(clone, "bare.yaml", photos="bare", run=("tags",))
    found = jobs(snakemake(clone, "-n", files=(TINY, "bare.yaml")))
    assert found["segment"] == found["page"] == 1
    assert not {"evaluate", "evaluate_model"} & set(found)


def test_a_missing_data_set_is_explained_on_the_terminal(clone: Path) -> None:
    configure(clone, "away.yaml", photos="nowhere", run=("tags",))
    for how in ("-n",), ("--cores", "1"):
        said = snakemake(clone, *how, "--", f"{PLACE}/tags.json", files=(TINY, "away.yaml"), fails=True)
        assert "nowhere/images: no such folder; put the photographs there" in said
        assert "Exception" not in said and "common.smk" not in said, "the message alone"
    assert jobs(snakemake(clone, "-n", "--", "verify", files=(TINY, "away.yaml"))) == {"verify": 1}


def test_from_another_folder_the_code_of_the_checkout_runs(tmp_path: Path) -> None:
    """With the checkout's config.yaml where the folder has none, as a workflow that is deployed elsewhere."""
    where, here = tmp_path / "check out", tmp_path / "he re"
    where.mkdir()
    checkout(where)
    with (where / "pipeline" / "prepare.py").open("a") as code:
        code.write("    print('made by', __file__)\n")
    here.mkdir()
    (here / "own.yaml").write_text(
        "{results: made here, data: {name: x, format: demo, max_side: 32, demo: {train: 4, val: 1}}}"
    )
    given = [sys.executable, "-m", "snakemake", "--cores", "1", "-s", str(where / "Snakefile")]
    given += ["--configfile", "own.yaml", "--", "made here/x/photographs.json"]
    env = {name: value for name, value in environment(where).items() if name != "PYTHONPATH"}
    done = subprocess.run(given, cwd=here, env=env, capture_output=True, text=True)
    assert f"made by {where}/pipeline/prepare.py" in done.stdout + done.stderr
    made = here / "made here" / "x"
    assert {path.name for path in made.iterdir()} == {"photographs.json", "photographs.zarr", "inventory.npz"}
    for how in ("--dry-run", "--quiet"):
        subprocess.run([*given[:3], "--delete-all-output", how, *given[3:]], cwd=here, env=env, check=True)
        assert any(made.iterdir()) == (how == "--dry-run"), "stores too"
    module = f"module tagmask:\n    snakefile: {str(where / 'workflow/Snakefile')!r}\n    config: config\n"
    (here / "Snakefile").write_text(f"{module}use rule * from tagmask\n")
    shutil.copy(where / "config.yaml", here / "all.yaml")
    files = ["--configfile", *(str(here / name) for name in ("all.yaml", "own.yaml"))]
    plans = []
    for how in (["-s", str(where / "Snakefile")], ["-s", str(where / "workflow/Snakefile")], []):
        said = subprocess.run(
            [*given[:3], "-n", "--nocolor", "--directory", str(here), *how, *files],
            cwd=tmp_path if how else here,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        plans.append(jobs(said.stdout + said.stderr))
    assert plans[0] == plans[1] == plans[2] and plans[0]["triplet"] == 1, plans


# ----------------------------------------------------------------------------------------------------- one run


def test_the_terminal_told_of_stages_at_work_and_how_to_use_what_they_made(done: Path) -> None:
    before, end = (done / SAID).read_text().split(f"Report: {PLACE}/report/index.html\n")
    assert re.search(r"^\S*/?photographs  \d+/16 photographs|^\S+  \d+/\d+ photographs  ", before, re.M)
    assert re.search(r"^\S+  epoch \d+/\d+  loss [\d.]+  [\d.]+ img/s", before, re.M), "of a training"
    model = re.search(r"^Model:  (.+/model\.json)$", end, re.M)
    assert model and (done / model[1]).exists()
    use = re.search(r"^  (python -m pipeline\.predict .+) \\\n    PHOTOS --out MASKS$", end, re.M)
    assert use and (done / shlex.split(use[1])[3]).exists(), "its path quoted"
    judged = re.findall(r"^(?:Warning: |Nothing suspicious: |Too little on val to judge by: )(.+)", end, re.M)
    assert judged, "the verdict"


def test_every_recipe_has_its_report(done: Path) -> None:
    for recipe in RECIPES:
        text = (done / page(recipe)).read_text()
        assert len(text) > 50_000
        assert not re.search(r'(src|href)="https?://', text), "the page must not need a network"


def test_the_index_sets_all_recipes_side_by_side(done: Path) -> None:
    text = (done / PLACE / "report" / "index.html").read_text()
    links = set(re.findall(r'href="([^#"][^"]*)"', re.sub(r'"data:[^"]+"', '""', text)))
    assert links == {Path(page(recipe)).name for recipe in RECIPES}
    table = text.split('<table class="side sortable">')[1].split("</table>")[0]
    assert re.findall(r'<th scope="row" data-v="(.*?)"', table) == list(RECIPES)
    assert "not measured" not in table and "not scored" not in table
    assert len(text) < 6e6


def test_other_recipes_bring_back_the_index_alone(done: Path) -> None:
    configure(done, "fewer.yaml", run=("card", "supervised"))
    assert jobs(snakemake(done, "-n", files=(TINY, "fewer.yaml"))) == {"index": 1}
    (done / "fewer.yaml").unlink()


def test_every_artifact_is_as_its_manifest_says(done: Path) -> None:
    assert "are as their manifests say" in snakemake(done, "--cores", "1", "--", "verify")


def test_nothing_to_do_after_a_run_and_after_a_touch(done: Path) -> None:
    assert planned(done) == {}
    for path in (done / "pipeline" / "mine.py", done / "config.yaml", *done.glob("*/tiny/seed0/**/seeds.json")):
        path.touch()
    assert planned(done) == {}


def test_one_stage_alone_and_a_path_no_recipe_names(done: Path) -> None:
    assert planned(done, f"{PLACE}/seed0/colorize/classify/cam/crf/labels.json") == {"crf": 1}


def test_a_path_that_means_nothing_is_explained(done: Path) -> None:
    said = snakemake(done, "-n", "--", f"{PLACE}/seed0/colorize/cam/seeds.json", fails=True)
    assert "needs classifier" in said and TRACEBACK not in said


# ------------------------------------------------------------------------------------------- what an edit brings back


@contextmanager
def edited(path: Path, *changes: tuple[str, str]) -> Iterator[None]:
    """A file with these texts replaced, for a while."""
    text, about = path.read_text(), path.stat()
    new = text
    for before, after in changes:
        assert new.count(before) == 1, f"{before!r} in {path}"
        new = new.replace(before, after)
    path.write_text(new)
    try:
        yield
    finally:
        path.write_text(text)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


TUNING = {"patches": 1, "triplet": 1, "segment": 1, "evaluate_model": 1, "page": 1}


def test_a_comment_brings_nothing_back(done: Path) -> None:
    with edited(done / "pipeline" / "mine.py", ("def settle(", "# why\ndef settle(")):
        assert planned(done) == {}


def test_a_line_of_mining_brings_back_what_follows_and_not_the_first_round_of_erasing(done: Path) -> None:
    with edited(done / "pipeline" / "mine.py", ("    if settings.elsewhere:", "    if not settings.elsewhere:")):
        assert planned(done, page("card")) == {"mine": 2, "erase": 1, "crf": 1, "evaluate": 3, **TUNING}
        assert planned(done, page("no-erasing")) == {}


def test_a_setting_brings_back_its_step_and_what_follows(done: Path) -> None:
    change = (
        "  crf:                          # seeds + saliency → labels\n    background: 0.08",
        "  crf:\n    background: 0.05",
    )
    with edited(done / "config.yaml", change):
        assert planned(done, page("card")) == {"crf": 1, "evaluate": 1, **TUNING}
        assert planned(done, page("no-crf"), page("supervised")) == {}


def test_a_line_that_no_recipe_reaches_brings_nothing_back(done: Path) -> None:
    """In modules that stages load."""
    loop, soft = (done / "pipeline" / name for name in ("core/loop.py", "kinds/soft.py"))
    with edited(loop, ("return torch.stack(list(quotients(losses).values())).sum()", "return torch.zeros(())")):
        assert planned(done) == {}
    with edited(soft, ("    shape = (slots_per_image, side, side)", "    shape = (slots_per_image, side, side + 1)")):
        assert planned(done, *(page(recipe) for recipe in RECIPES if not recipe.startswith(("stc", "hcp")))) == {}


def test_a_new_head_and_a_new_kind_of_model_bring_nothing_back(done: Path) -> None:
    """Registered where a stage finds them: in the table of heads and behind the one door."""
    heads, door = (done / "pipeline" / "networks" / name for name in ("heads.py", "door.py"))
    head = "class NewHead(LargeFov):\n    pass\n\n\nHEADS: dict["
    row = '    "deeplabv3+": DeepLabV3Plus,\n'
    kind = "\ndef open_other(artifact, device, precision, scales, flip):\n    return None\n\n\nDOORS"
    entry = '"segment": open_segmenter'
    with (
        edited(heads, ("HEADS: dict[", head), (row, f"    'new': NewHead,\n{row}")),
        edited(door, ("\nDOORS", kind), (entry, f'{entry}, "other": open_other')),
    ):
        assert planned(done) == {}


def test_a_new_method_brings_nothing_back(done: Path) -> None:
    """Two places: a class of settings and a stage's file."""
    steps = done / "pipeline" / "core" / "steps" / "labels.py"
    settings = (
        'class Blur(Step):\n    takes: ClassVar[dict[str, str]] = {"labels": "labels"}\n'
        '    makes: ClassVar[Kind] = "labels"\n    stage: ClassVar[str] = "blur"\n'
        '    method: Literal["blur"] = "blur"\n\n\nLabelsStep'
    )
    stage = done / "pipeline" / "blur.py"
    stage.write_text(
        "from pipeline.core import cli\nfrom pipeline.core.steps.labels import Blur\n\n\ndef run(job):\n    pass\n"
    )
    target = f"{PLACE}/seed0/few/blur/labels.json"
    try:
        with edited(steps, ("\nLabelsStep", f"\n{settings}"), ("| Merge", "| Merge | Blur")):
            assert planned(done, page("card"), page("tags-few")) == {}
            assert planned(done, target) == {"blur": 1}
    finally:
        stage.unlink()


@contextmanager
def swapped(path: Path, content: bytes) -> Iterator[None]:
    """A file with another content, for a while."""
    before, about = path.read_bytes(), path.stat()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_corrected_mask_retrains_nothing_that_learns_from_tags(done: Path, tmp_path: Path) -> None:
    """Though the file is as long as it was."""
    path = done / PHOTOS / "masks" / "00003.png"
    mask = np.array(Image.open(path))
    mask[40:50, 40:50] = 0
    rewrite(tmp_path / "corrected.png", mask)
    corrected = (tmp_path / "corrected.png").read_bytes()
    assert len(corrected) == path.stat().st_size and corrected != path.read_bytes()
    with swapped(path, corrected):
        assert planned(done, page("card")) == {"prepare_masks": 1, "evaluate": 4, "evaluate_model": 1, "page": 1}
        everything = planned(done)
    untouched = {"imagenet", "proxy", "classify", "cam", "erase", "mine", "saliency", "crf", "simple", "hcp", "soften"}
    assert not set(everything) & {"prepare_photographs", "prepare_tags", *untouched}
    counts = {name: everything[name] for name in ("masks", "contrast", "relabel", "psl", "segment")}
    # few-only, masks, mix-and-match and its two other proxies, tags-few, supervised, the three of contrast, once more
    # in contrast-semi
    assert counts == {"masks": 2, "contrast": 3, "relabel": 1, "psl": 1, "segment": 10}


def test_another_seed_recomputes_nothing_that_has_none(done: Path) -> None:
    found = jobs(snakemake(done, "-n", "--config", "seeds=[1]"))
    assert found["classify"] == 2
    unseeded = {"prepare_photographs", "prepare_tags", "prepare_masks", "saliency", "imagenet", "hypotheses", "simple"}
    assert not set(found) & unseeded, found


def test_another_tag_trains_no_proxy_and_computes_no_saliency(done: Path) -> None:
    path = done / PHOTOS / "tags.csv"
    line = next(line for line in path.read_text().splitlines() if line.startswith("00003,"))
    name = next(name for name in ("cat", "owl", "fish") if name not in line)
    with edited(path, (line, f"{line} {name}")):
        found = planned(done, page("card"))
        assert found == {
            "prepare_tags": 1,
            "classify": 1,
            "cam": 1,
            "erase": 2,
            "mine": 2,
            "crf": 1,
            "evaluate": 4,
            **TUNING,
        }
        everything = planned(done)
    assert not set(everything) & {"prepare_photographs", "prepare_masks", "proxy", "saliency", "imagenet"}


def test_five_new_photographs_are_five_more_to_compute(copy: Path) -> None:
    photos = copy / PHOTOS
    fresh = [f"{index:05d}" for index in range(16, 21)]
    for index, name in enumerate(fresh, 16):
        rgb, mask, tags = collage.compose(0, index)
        Image.fromarray(rgb).save(photos / "images" / f"{name}.png")
        rewrite(photos / "masks" / f"{name}.png", mask)
        with (photos / "tags.csv").open("a") as file:
            file.write(f"{name},{' '.join(tags)}\n")
    with (photos / "splits" / "train.txt").open("a") as file:
        file.write("".join(f"{name}\n" for name in fresh))
    targets = [f"{PLACE}/{part}.json" for part in ("masks", "saliency/saliency")]
    snakemake(copy, "--cores", "2", "--", *targets)
    logs = copy / "logs" / PLACE
    for part, count in (("photographs", 21), ("masks", 21), ("saliency/saliency", 17)):
        name = Path(part).name
        assert f"{name}.json: 5 of {count} images computed" in (logs / f"{part}.log").read_text()


def test_a_touched_photograph_is_read_again_and_changes_nothing(copy: Path) -> None:
    parts = [copy / PLACE / f"{part}.json" for part in ("photographs", "tags", "masks", "saliency/saliency")]
    before = [path.read_bytes() for path in parts]
    (copy / PHOTOS / "images" / "00001.png").touch()
    snakemake(copy, "--cores", "2", "--", *(str(path.relative_to(copy)) for path in parts))
    assert [path.read_bytes() for path in parts] == before
    assert "saliency.json: complete already" in (copy / "logs" / PLACE / "saliency" / "saliency.log").read_text()


def test_an_upstream_rerun_with_the_same_result_brings_nothing_back(done: Path) -> None:
    target = done / PLACE / "seed0/colorize/classify/classifier.json"
    before = target.read_bytes()
    shutil.rmtree(target.with_suffix(".zarr"))
    snakemake(done, "--cores", "2", "--force", "--", str(target.relative_to(done)))
    assert "epoch 1/" in (done / "logs" / target.relative_to(done).parent / "classify.log").read_text()
    assert target.read_bytes() == before
    assert planned(done) == {}


# ------------------------------------------------------------------------------------------------- house-keeping


def test_a_flipped_byte_is_found(copy: Path) -> None:
    chunks = (path for path in (copy / PLACE).glob("saliency/saliency.zarr/saliency/c/**/*") if path.is_file())
    chunk = max(chunks, key=lambda path: path.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 3] ^= 1
    chunk.write_bytes(data)
    before = (copy / PLACE / "saliency" / "saliency.json").read_bytes()
    said = snakemake(copy, "--cores", "1", "--", "verify", fails=True)
    assert "1 of " in said and "artifacts are damaged" in said
    assert f"{PLACE}/seed0/random/weights.json: missing" in said, "the copy has nothing that is seeded"
    remove, make = (shlex.split(line) for line in re.findall(r"^  ((?:rm|snakemake) .*)$", said, re.M))
    subprocess.run(remove, cwd=copy, check=True)
    saliency = f"{PLACE}/saliency/saliency.json"
    assert make[:4] == ["snakemake", "--cores", "all", saliency]
    snakemake(copy, "--cores", "1", "--", saliency)
    assert (copy / saliency).read_bytes() == before
    assert "0 of " in snakemake(copy, "--cores", "1", "--", "verify", fails=True)


def test_clean_leaves_nothing_of_ours_and_nothing_else_undone(copy: Path) -> None:
    root = copy / PLACE
    foreign = [root / "notes" / "annotations.json", root / "other.zarr" / "x", root / "my.part" / "x"]
    for file in foreign:
        file.parent.mkdir(parents=True)
        file.write_text('{"mine": 1}')
    left = [root / "seed0" / "gone.part" / "shards.jsonl", root / "seed0" / "gone.zarr" / "zarr.json"]
    left.append(root / ".photographs.zarr.discarded" / "zarr.json")
    for file in left:
        file.parent.mkdir(parents=True)
        file.write_text("{}")
    (root / "empty").mkdir()
    snakemake(copy, "--cores", "1", "--", "clean")
    assert {path for path in root.rglob("*") if path.is_file()} == set(foreign)
    assert (root / "empty").is_dir() and not (root / "seed0").exists()


def test_a_target_after_configfile_is_explained(done: Path) -> None:
    """`--configfile` takes every word that follows it for a file."""
    target = f"{PLACE}/saliency/saliency.json"
    status, said = warm.run("snakemake", ["-n", "--configfile", TINY, "own.yaml", target], done, environment(done))
    assert status != 0 and TRACEBACK not in said
    assert "one of the files is an artifact's manifest (saliency), not a configuration" in said
    assert "name targets first, `snakemake --cores all TARGET --configfile FILE ...`" in said


def test_the_report_of_snakemake_holds_the_pages(done: Path) -> None:
    snakemake(done, "--cores", "1", "--report", "report.zip")
    with zipfile.ZipFile(done / "report.zip") as report:
        held = [report.read(entry) for entry in report.infolist()]
    for recipe in RECIPES:
        assert (done / page(recipe)).read_bytes() in held


def test_after_a_kill_of_snakemake_the_same_command_goes_on(copy: Path) -> None:
    """With processes of its own: nothing is warm here."""
    saliency = copy / PLACE / "saliency" / "saliency.json"
    before = saliency.read_bytes()
    saliency.unlink()
    shutil.rmtree(saliency.with_suffix(".zarr"))
    target = str(saliency.relative_to(copy))
    command = [sys.executable, "-m", "snakemake", *words("--cores", "2", "--", target)]
    process = subprocess.Popen(command, cwd=copy, env=environment(copy), start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600
    while not saliency.with_suffix(".zarr").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not saliency.exists()
    assert "unlock" in snakemake(copy, "--cores", "2", "--", target, fails=True)
    snakemake(copy, "--unlock")
    snakemake(copy, "--cores", "2", "--", target)
    assert saliency.read_bytes() == before
