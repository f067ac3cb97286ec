"""What the end of a run says on the terminal: where the report is and the models are, how to use one, what is wrong.

Runs inside Snakemake, so nothing heavy is imported, and nothing here may fail a run that has succeeded.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.report.listing import Finding, Listing, few, over_seeds

WIDTH = 80  # columns; a path is never broken, so that it can be copied
MODELS, RECIPES, FINDINGS = 6, 6, 3  # lines of models; recipes with warnings, and warnings of each: the page has all


def asked(workflow: Any) -> bool:
    """Whether this Snakemake made the default target, as its user's own command: not a job of another, nor a part."""
    chosen = workflow.dag_settings
    whole = not chosen.targets or set(chosen.targets) == {"all"}
    return whole and not (chosen.target_jobs or chosen.until or chosen.omit_from)


def tell(
    workflow: Any,
    report: str,
    listings: Sequence[str],
    say: Callable[[str], None] = print,
    fail: Callable[[str], None] = print,
) -> None:
    """`lines` of a run that made the default target. fail: told in one line why nothing can be said."""
    try:
        if asked(workflow):
            say("\n" + "\n".join(lines(report, listings)) + "\n")
    except Exception as error:  # of whatever sort: the results are there
        fail(f"The end of the run could not be told ({type(error).__name__}: {error}); the report is {report}")


def lines(report: str, listings: Iterable[str]) -> list[str]:
    """Report, models, a command that uses one, and the warnings of each recipe; WIDTH columns but for paths."""
    runs = [found for found in map(read, listings) if found]
    models = {f"{run.recipe}, seed {run.seed}": model for run in runs if (model := model_of(run))}
    told = [f"Report: {report}"]
    for number, (name, model) in enumerate(models.items()):
        if number == MODELS and len(models) > MODELS + 1:
            told.append(f"        and {len(models) - MODELS} more: the report names them")
            break
        told += [f"Model:  {model}"] + ([f"        ({name})"] if len(models) > 1 else [])
    sound = [model_of(run) for run in runs if run.verdict and run.verdict.judged and not run.verdict.findings]
    best = next(filter(None, [*sound, *models.values()]), None)
    if best:
        told += ["Use it on photographs (a folder):", f"  python -m pipeline.predict {shlex.quote(best)} \\"]
        told.append("    PHOTOS --out MASKS")
    return told + verdicts(runs)


def verdicts(runs: Sequence[Listing]) -> list[str]:
    """Warnings of each recipe; of recipes without any, that nothing was found."""
    by_recipe: dict[str, list[Listing]] = {}
    for run in runs:
        if run.verdict:
            by_recipe.setdefault(run.recipe, []).append(run)
    found = {recipe: over_seeds((run.seed, run.verdict) for run in given) for recipe, given in by_recipe.items()}
    told, bad = [], {recipe: findings for recipe, findings in found.items() if findings}
    for recipe, findings in list(bad.items())[:RECIPES]:
        told.append(wrapped(f"Warning: {recipe}", "", "  "))
        for finding, seeds in findings[:FINDINGS]:
            told += about(finding, seeds if len(by_recipe[recipe]) > 1 else [])
        if len(findings) > FINDINGS:
            told.append(f"  - and {len(findings) - FINDINGS} more: see its page")
    if len(bad) > RECIPES:
        told.append(f"Warning: {len(bad) - RECIPES} more recipes, see the report")
    fine = [recipe for recipe in found if recipe not in bad]
    sure = [recipe for recipe in fine if all(run.verdict and run.verdict.judged for run in by_recipe[recipe])]
    left = [recipe for recipe in fine if recipe not in sure]
    told += [wrapped(f"Nothing suspicious: {few(sure)}", "", "  ")] if sure else []
    return told + ([wrapped(f"Too little on val to judge by: {few(left)}", "", "  ")] if left else [])


def about(finding: Finding, seeds: Sequence[int]) -> list[str]:
    """seeds: those that have it, where a recipe has several."""
    of = f" (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})" if seeds else ""
    head = f"{finding.kind[0].upper()}{finding.kind[1:]}{of}. {finding.found}"
    return [wrapped(head, "  - ", "    "), wrapped(f"Next: {finding.next}", "    ", "    ")]


def wrapped(text: str, first: str, rest: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)


def read(listing: str) -> Listing | None:
    """None of a page that was not made, or by another version."""
    try:
        return Listing.model_validate_json(Path(listing).read_text())
    except (OSError, ValidationError):
        return None


def model_of(run: Listing) -> str | None:
    """Manifest of its last network."""
    return next((str(stage.manifest) for stage in reversed(run.stages) if stage.kind == "model"), None)
