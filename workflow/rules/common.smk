# Thin bridge to pipeline.core: nothing here decides anything, and nothing heavy is imported.
import atexit
import hashlib
import json
import os
import re
import shlex
import sys
from functools import cache, partial
from pathlib import Path

from snakemake.common.configfile import load_configfile

CHECKOUT = Path(workflow.current_basedir).parents[1]
sys.path.insert(0, str(CHECKOUT))

from pipeline.core import cards, cluster, digest, processes, progress, recipe as recipes, resources as costs
from pipeline.core.config import ConfigError, refuse_repeated
from pipeline.core.config import parse as parse_config
from pipeline.core.steps import METHODS
from pipeline.datasets.fingerprint import scanned_once
from pipeline.datasets.layouts import absent
from pipeline.report import ending

processes.run_code_of(CHECKOUT)


def refuse(message):
    """End here with this message alone: an exception would be shown with places in this file, which say nothing."""
    logger.error(f"\n{message}")
    raise SystemExit(1)


def config_files():
    """Name → content of those that `config` was merged from: config.yaml, then --configfile's."""
    *given, own = (min(str(file), os.path.relpath(file), key=len) for file in workflow.configfiles)
    for file in (own, *given):
        refuse_repeated(Path(file))
    return {file: load_configfile(file) for file in [own, *(file for file in given if file != own)]}


try:
    CONFIG = parse_config(config, config_files())
    NODES = {(name, seed): recipes.recipe_nodes(CONFIG, name, seed) for name in CONFIG.run for seed in CONFIG.seeds}
    SCAN = scanned_once(CONFIG.data, workflow.is_main_process)
    if not SCAN.masked:
        for (name, _), nodes in NODES.items():
            recipes.refuse_without_masks(name, nodes)
except ConfigError as error:
    refuse(str(error))

ROOT = f"{CONFIG.results}/{CONFIG.data.name}"
PARTS = {part: f"{ROOT}/{part}.json" for part in recipes.PARTS}
BEGAN = progress.now()
SITE = cluster.Site.of(workflow)
cards.limit(workflow)  # on this machine no more GPU jobs at once than it has cards
os.environ.setdefault("GOMP_SPINCOUNT", "500")  # idle threads sleep soon: jobs on shared cores would wait for them


if any(word.startswith("--delete-all") for word in sys.argv):  # it knows of manifests alone, which have no bytes
    from pipeline import artifacts

    atexit.register(artifacts.follow, artifacts.manifests(Path(ROOT)))


wildcard_constraints:
    recipe=r"[^/]+",
    seed=r"\d+",
    kind="seeds|labels|soft|model",


def made_by(method):
    """Output of a rule: the manifest of every step of this method, wherever its folder lies."""
    names = {name for name, step in CONFIG.steps.items() if step.method == method}
    names |= {method} - {name for name, step in CONFIG.steps.items() if step.method != method}
    steps = "|".join(map(re.escape, sorted(names))) or "(?!)"
    return f"{ROOT}/{{folder,(.+/)?({steps})}}/{METHODS[method].makes}.json"


@cache
def node(folder):
    try:
        return recipes.node_of(CONFIG, folder)
    except ConfigError as error:
        raise WorkflowError(f"{ROOT}/{folder}: {error}") from None


def inputs(wildcards):
    """role → manifest, for everything the step takes; and the file of weights that a step names."""
    step = node(wildcards.folder)
    file = getattr(step.settings, "file", None)
    return {role: f"{ROOT}/{source.file}" for role, source in step.inputs.items()} | ({"file": file} if file else {})


def command(wildcards):
    """The stage's command, but for output and threads: every value in it is quoted.

    It takes wildcards alone: Snakemake does not rerun a job for a changed parameter that was derived from its input.
    """
    step = node(wildcards.folder)
    words = ["python", "-m", f"pipeline.{step.settings.stage}"]
    for role, source in step.inputs.items():
        words += [f"--{role}", f"{ROOT}/{source.file}"]
    words += ["--settings", step.settings.model_dump_json()]
    # Nothing of a step without a seed may follow from one: other seeds would recompute it.
    words += [] if step.seed is None else ["--seed", str(step.seed)]
    return shlex.join(words + (compute() if step.settings.gpu else []))


def photographs_there(wildcards):
    """No input; a folder that is missing is named before anything runs. Not where the photographs are no concern."""
    if workflow.is_main_process and (problem := absent(CONFIG.data)):
        refuse(f"data set '{CONFIG.data.name}': {problem}")
    return []


def compute():
    c = CONFIG.compute
    return ["--device", c.device, "--precision", c.precision, "--workers", str(c.workers)]


def code(wildcards):
    """Digest of the definitions that the stage can reach with these settings: a real edit there reruns the step."""
    step = node(wildcards.folder)
    return digest.code_digest(step.settings.stage, step.choices)


def reports(suffix):
    """Of every recipe and seed that is asked for."""
    return [f"{ROOT}/report/{name}-seed{seed}{suffix}" for name, seed in NODES]


@cache
def planned(recipe, seed):
    try:
        return recipes.recipe_nodes(CONFIG, recipe, seed)
    except (ConfigError, KeyError) as error:
        raise WorkflowError(f"recipe {recipe}: {error}") from None


def metrics_of(step):
    return f"{ROOT}/{step.folder}/{step.kind}.metrics.json" if step.scored and SCAN.masked else None


def stages(recipe, seed):
    """What the report shows, in the recipe's order."""
    return [
        {
            "step": step.name,
            "method": step.method,
            "folder": step.folder,
            "kind": step.kind,
            "manifest": f"{ROOT}/{step.file}",
            "inputs": {role: f"{ROOT}/{source.file}" for role, source in step.inputs.items()},
            "metrics": metrics_of(step),
            "benchmark": f"logs/benchmark/{ROOT}/{step.folder}/{step.method}.tsv",
        }
        for step in planned(recipe, int(seed))
        if step.settings
    ]


def shown(part, *runs):
    """The manifests, or the metrics, of these runs: (recipe, seed) each."""
    return list(dict.fromkeys(stage[part] for run in runs for stage in stages(*run) if stage[part]))


def code_of_evaluate(wildcards):
    return digest.code_digest("evaluate", node(wildcards.folder).choices | {wildcards.kind})


def code_of_page(name, *runs):
    """Of the code of a page that shows these runs, and of its templates."""
    choices = set().union(*(step.choices for run in runs for step in planned(*run)))
    files = [Path(CHECKOUT, "pipeline", "report", f"{file}.j2") for file in (f"{name}.html", "style.css")]
    templates = b"".join(file.read_bytes() for file in files)
    return digest.code_digest(f"report.{name}", choices) + hashlib.sha256(templates).hexdigest()[:16]


def on_gpu(uses):
    """Whether a job computes on a GPU: its stage can, and `compute.device` lets it."""
    return bool(uses) and CONFIG.compute.device != "cpu"


def runtime(method=None):
    """Minutes, from the size of the data and the method's settings; more with each retry."""

    def minutes(wildcards, attempt, threads):
        step = method or node(wildcards.folder).settings
        gpu = on_gpu(getattr(step, "gpu", False))
        return costs.minutes(step, SCAN.count, CONFIG.data.max_side, threads, gpu, attempt, SITE.max_runtime)

    return minutes


def memory(method=None):
    """Megabytes, likewise."""

    def megabytes(wildcards, attempt, threads):
        step = method or node(wildcards.folder).settings
        gpu = on_gpu(getattr(step, "gpu", False))
        return costs.memory(step, CONFIG.data.max_side, threads, gpu, CONFIG.compute.workers, attempt)

    return megabytes


def needed():
    """The manifests of everything that is asked for."""
    return [*PARTS.values(), *shown("manifest", *NODES), *shown("metrics", *NODES)]


def under_way():
    """name → scratch folder, of all of it: where a stage at work says how far it is."""
    return {file.removeprefix(f"{ROOT}/").removesuffix(".json"): Path(file).with_suffix(".part") for file in needed()}
