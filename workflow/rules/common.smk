# Thin bridge to pipeline.core.recipe: nothing here decides anything, and nothing heavy is imported.
import hashlib
import json
import os
import shlex
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(workflow.basedir))

from pipeline.core import recipe as recipes
from pipeline.core.config import METHODS, ConfigError
from pipeline.core.config import parse as parse_config
from pipeline.core.sources import fingerprint

try:
    CONFIG = parse_config(config)
    NODES = {(name, seed): recipes.recipe_nodes(CONFIG, name, seed) for name in CONFIG.run for seed in CONFIG.seeds}
except ConfigError as error:
    raise WorkflowError(f"\n{error}") from None

ROOT = f"{CONFIG.results}/{CONFIG.data.name}"
IMAGES = f"{ROOT}/images.json"
os.environ.setdefault("GOMP_SPINCOUNT", "500")  # idle threads sleep soon: jobs on shared cores would wait for them
THREADS = 8  # of a job, at most --cores; a profile's set-threads changes it rule by rule


wildcard_constraints:
    recipe=r"[^/]+",
    seed=r"\d+",
    kind="seeds|labels|model",


def made_by(method):
    """Output of a rule: the manifest of every step of this method, wherever its folder lies."""
    names = [name for name, step in CONFIG.steps.items() if step.method == method]
    names = sorted({*names, method} - {n for n, s in CONFIG.steps.items() if s.method != method})
    steps = "|".join(names) or "(?!)"
    return f"{ROOT}/{{folder,(.+/)?({steps})}}/{METHODS[method].makes}.json"


@cache
def node(folder):
    try:
        return recipes.node_of(CONFIG, folder)
    except ConfigError as error:
        raise WorkflowError(f"{ROOT}/{folder}: {error}") from None


def inputs(wildcards):
    """kind → manifest, for everything the step takes."""
    step = node(wildcards.folder)
    found = {kind: f"{ROOT}/{source.file}" for kind, source in step.inputs.items()}
    return found | ({"images": IMAGES} if "images" in step.settings.takes else {})


def flags(wildcards):
    """The command line after `python -m pipeline.<stage>`, but for output and threads.

    It takes wildcards alone: Snakemake does not rerun a job for a changed parameter that was derived from its input.
    """
    step = node(wildcards.folder)
    parts = [f"--{kind} {shlex.quote(path)}" for kind, path in inputs(wildcards).items()]
    parts.append(f"--settings {shlex.quote(step.settings.model_dump_json())}")
    parts.append(f"--seed {CONFIG.seeds[0] if step.seed is None else step.seed}")
    return " ".join([*parts, compute()])


def compute():
    c = CONFIG.compute
    return f"--device {c.device} --precision {c.precision} --workers {c.workers}"


def code(stage):
    """Digest of the stage's syntax tree and of what it imports: a real edit reruns it, a comment does not."""
    return recipes.code_digest(stage)


def reports():
    return [f"{ROOT}/report/{name}-seed{seed}.html" for name, seed in NODES]


def more(base):
    """Memory that grows with each retry."""
    return lambda wildcards, attempt: base * attempt


@cache
def planned(recipe, seed):
    try:
        return recipes.recipe_nodes(CONFIG, recipe, seed)
    except (ConfigError, KeyError) as error:
        raise WorkflowError(f"recipe {recipe}: {error}") from None


def stages(wildcards):
    """What the report shows, in the recipe's order."""
    return [
        {
            "step": n.name,
            "method": n.settings.method,
            "folder": n.folder,
            "kind": n.kind,
            "manifest": f"{ROOT}/{n.file}",
            "metrics": f"{ROOT}/{n.folder}/{n.kind}.metrics.json" if n.scored else None,
            "benchmark": f"logs/benchmark/{ROOT}/{n.folder}/{n.settings.method}.tsv",
        }
        for n in planned(wildcards.recipe, int(wildcards.seed))
    ]
