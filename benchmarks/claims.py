"""Published claims against our rows: does what the papers say hold here?

A claim compares two things (`Side`: a recipe, and what of it is scored) on the same seeds. It holds, or does not, only
where the mean of the paired differences exceeds twice its standard error; else it is undecided. Written by
`python -m benchmarks.systems tables` into docs/results/claims.json and claims.md; `cause` and `note` of a row are
written by hand into claims.json and kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Row = dict[str, Any]
DATA = "voc_systems"


class Side(NamedTuple):
    """What is scored. stage: 'network' (the recipe's last model, on val), 'labels' (what taught it, on the training
    images with masks), or a stage's name. value: a number of its row (`after 10`: steps of a descent). without: classes
    left out of the mean."""

    recipe: str
    stage: str = "network"
    value: str = "miou"
    without: tuple[str, ...] = ()


class Claim(NamedTuple):
    claim: str
    source: str
    paper: str
    better: Side
    worse: Side


def claimed(recipe: str, stage: str) -> Side:
    return Side(recipe, stage, "claimed")


AE, STC, PR = "Wei et al., CVPR 2017", "Wei et al., TPAMI 2017", "Wei et al., Pattern Recognition 2016"
MM, PC, DIS = "Zhan et al., AAAI 2018", "Zhao et al., ICCV 2021", "Luo et al., ICCV 2017"
PERSON = ("person",)
SHARES = ("2", "5", "20")  # per cent of the photographs that have masks, as recipes of few.yaml are named


def at(share: str, claim: str, source: str, paper: str, better: str, worse: str) -> Claim:
    """Of two networks that learn from masks of so many per cent of the photographs."""
    return Claim(f"{claim}, {share} % of the masks", source, paper, Side(f"{better}-{share}"), Side(f"{worse}-{share}"))


CLAIMS = [
    Claim(
        "erasing, 1 round > CAM: what is claimed",
        AE,
        "AE 1 < 2 < 3 steps: 44.9, 49.5, 50.9 (val, network)",
        claimed("erasing-3", "mine 1"),
        claimed("erasing-3", "cam"),
    ),
    Claim(
        "erasing, 2 rounds > 1: what is claimed",
        AE,
        "49.5 > 44.9",
        claimed("erasing-3", "mine 2"),
        claimed("erasing-3", "mine 1"),
    ),
    Claim(
        "erasing, 3 rounds > 2: what is claimed",
        AE,
        "50.9 > 49.5; a fourth step hurts: 48.8",
        claimed("erasing-3", "mine 3"),
        claimed("erasing-3", "mine 2"),
    ),
    Claim(
        "erasing, 1 round > CAM: labels after saliency and CRF",
        AE,
        "",
        Side("erasing-1", "labels"),
        Side("tags", "labels"),
    ),
    Claim(
        "erasing, 2 rounds > CAM: labels after saliency and CRF",
        AE,
        "",
        Side("erasing", "labels"),
        Side("tags", "labels"),
    ),
    Claim(
        "erasing, 3 rounds > 2: labels after saliency and CRF",
        AE,
        "",
        Side("erasing-3", "labels"),
        Side("erasing", "labels"),
    ),
    Claim(
        "erasing, 1 round > CAM: labels after CRF, no saliency",
        AE,
        "",
        Side("erasing-1-plain", "labels"),
        Side("cam-plain", "labels"),
    ),
    Claim(
        "erasing, 2 rounds > 1: labels after CRF, no saliency",
        AE,
        "",
        Side("erasing-plain", "labels"),
        Side("erasing-1-plain", "labels"),
    ),
    Claim("erasing, 2 rounds > CAM: network", AE, "49.5 > 44.9", Side("erasing"), Side("tags")),
    Claim("PSL > cross-entropy on the same masks", AE, "54.1 > 50.9", Side("ae-psl"), Side("erasing")),
    Claim("PSL > cross-entropy, both three times as long", AE, "54.1 > 50.9", Side("ae-psl-12"), Side("erasing-12")),
    Claim("PSL+ > PSL", AE, "55.0 > 54.1", Side("ae-psl-plus"), Side("ae-psl")),
    Claim("PSL+ > cross-entropy relabelled alike", AE, "", Side("ae-psl-plus"), Side("erasing-relabelled")),
    Claim("STC: E-DCNN > I-DCNN", STC, "46.8 > 44.1", Side("stc-enhanced"), Side("stc-initial")),
    Claim(
        "STC: E-DCNN > I-DCNN, both three times as long",
        STC,
        "46.8 > 44.1",
        Side("stc-enhanced-12"),
        Side("stc-initial-12"),
    ),
    Claim("STC: P-DCNN > E-DCNN", STC, "49.8 > 46.8", Side("stc"), Side("stc-enhanced")),
    Claim(
        "STC: E-DCNN > I-DCNN, without person",
        STC,
        "46.8 > 44.1",
        Side("stc-enhanced", without=PERSON),
        Side("stc-initial", without=PERSON),
    ),
    Claim(
        "STC: P-DCNN > E-DCNN, without person",
        STC,
        "49.8 > 46.8",
        Side("stc", without=PERSON),
        Side("stc-enhanced", without=PERSON),
    ),
    Claim("AE-PSL > STC", AE, "55.0 > 49.8", Side("ae-psl-plus"), Side("stc")),
    Claim(
        "AE-PSL > STC, without person",
        AE,
        "55.0 > 49.8",
        Side("ae-psl-plus", without=PERSON),
        Side("stc", without=PERSON),
    ),
    Claim("STC > proposals", STC, "49.8 > 42", Side("stc"), Side("hcp")),
    Claim(
        "STC > proposals, without person", STC, "49.8 > 42", Side("stc", without=PERSON), Side("hcp", without=PERSON)
    ),
    Claim(
        "proposals: soft maps (MCE) > one label a pixel", PR, "compared; no number read", Side("hcp"), Side("hcp-hard")
    ),
    Claim(
        "hypotheses cut out > pooled from one feature map: votes",
        "Wei et al., PAMI 2016",
        "cut out; no comparison",
        Side("hcp", "vote"),
        Side("hcp-pooled", "vote-pooled"),
    ),
    Claim(
        "excitation > CAM as seeds: labels",
        "Zhang et al., ECCV 2016",
        "better localisation than CAM-like maps",
        Side("excitation", "labels"),
        Side("tags", "labels"),
    ),
    Claim("excitation > CAM as seeds: network", "Zhang et al., ECCV 2016", "", Side("excitation"), Side("tags")),
]
FEW = [
    *(at(share, "contrast > cross-entropy", PC, "", "contrast", "ce") for share in SHARES),
    *(at(share, "contrast > cross-entropy as long", PC, "", "contrast", "ce-long") for share in SHARES),
    at("5", "contrast > cross-entropy as long, from scratch", PC, "62.7 > 39.1", "contrast-scratch", "scratch-long"),
    at("5", "after contrast, ImageNet > scratch", PC, "+0 and +1.1", "contrast", "contrast-scratch"),
    at("5", "contrast between images > within one", PC, "", "contrast", "contrast-within"),
    at("5", "contrast between images > in the batch as one", PC, "", "contrast", "contrast-batch"),
    at("5", "released denominator > the paper's", PC, "", "contrast", "contrast-paper"),
    at("5", "contrast of two colours > of one", PC, "less than 0.5", "contrast", "contrast-plain"),
    at("5", "semi-supervised contrast > contrast", PC, "", "contrast-semi", "contrast"),
    at("5", "contrast > cross-entropy, tags for the rest", PC, "", "contrast-tags", "tags"),
    *(at(share, "patches and triplets > as long without, ImageNet", MM, "", "tuned", "ce-long") for share in SHARES),
    at("5", "mix-and-match > its proxy, as long", MM, "64.5 > 60.2", "mix-and-match", "few-only-long"),
    at("5", "proxy > random weights, as long or longer", MM, "", "few-only", "scratch-long"),
    at("5", "mix-and-match > the same from random weights", MM, "", "mix-and-match", "mix-and-match-random"),
    at("5", "ImageNet > mix-and-match", MM, "64.2 < 64.5", "ce", "mix-and-match"),
    at("5", "tags for the rest > masks alone, two thirds as long", "", "", "tags", "ce-long"),
    Claim("DIS: images with tags alone help, 5 % of the masks", DIS, "", Side("dis-5"), Side("dis-long-5")),
    at("5", "DIS > cross-entropy as long", DIS, "", "dis", "ce-long"),
    Claim(
        "DIS: 10 steps > none, 5 % of the masks",
        DIS,
        "",
        Side("dis-5", value="after 10"),
        Side("dis-5", value="after 0"),
    ),
    Claim(
        "DIS: 20 steps > 10, 5 % of the masks",
        DIS,
        "",
        Side("dis-5", value="after 20"),
        Side("dis-5", value="after 10"),
    ),
]
BETTER_LABELS = "better label scores make better networks"


def value(rows: list[Row], side: Side, seed: int) -> float | None:
    """The number of one side and seed; None where the study has no row of it."""
    own = [row for row in rows if row["recipe"] == side.recipe and row["seed"] == seed]
    match side.stage:
        case "network":
            own = [row for row in own if row["last"] and row["split"] == "val"]
        case "labels":
            own = [row for row in own if row["last"] and row["split"] == "score"]
        case stage:
            own = [row for row in own if row["stage"] == stage]
    if not own:
        return None
    if side.without:
        return float(np.mean([iou for name, iou in own[-1]["classes"].items() if name not in side.without]))
    found = own[-1].get(side.value)
    return None if found is None else float(found)


def verdict(differences: list[float]) -> str:
    """yes or no where |mean| > 2 standard errors of the mean, else undecided; so with fewer than three seeds."""
    if len(differences) < 3:
        return "undecided"
    mean, error = np.mean(differences), np.std(differences, ddof=1) / np.sqrt(len(differences))
    return "undecided" if abs(mean) <= 2 * error else ("yes" if mean > 0 else "no")


def entry(claim: str, source: str, paper: str, differences: list[float], unit: str) -> Row:
    sd = float(np.std(differences, ddof=1)) if len(differences) > 1 else None
    return {
        "claim": claim,
        "source": source,
        "paper": paper,
        "ours": round(float(np.mean(differences)), 2),
        "unit": unit,
        "sd": None if sd is None else round(sd, 2),
        "seeds": len(differences),
        "holds": verdict(differences),
    }


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's, ties by their mean rank."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def evaluate(rows: list[Row]) -> list[Row]:
    """A row per claim that at least one seed can speak to."""
    rows = [row for row in rows if row["data"] == DATA]
    seeds = sorted({row["seed"] for row in rows})
    out = []
    for claim in [*CLAIMS, *FEW]:
        pairs = [(value(rows, claim.better, seed), value(rows, claim.worse, seed)) for seed in seeds]
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        if differences:
            out.append(entry(claim.claim, claim.source, claim.paper, differences, "mIoU"))
    correlations = []
    given = {row["recipe"] for row in rows if row["stage"].startswith("few")}  # true masks of a few, not labels of all
    scored = [{row["recipe"] for row in rows if row["seed"] == seed} - {"supervised"} - given for seed in seeds]
    names = sorted(set.intersection(*scored)) if scored else []  # the same recipes for every seed
    for seed in seeds:
        pairs = [(value(rows, Side(name, "labels"), seed), value(rows, Side(name), seed)) for name in names]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        if len(both) > 3:
            correlations.append(rank_correlation([a for a, _ in both], [b for _, b in both]))
    if correlations:
        out.append(entry(BETTER_LABELS, "disputed; see docs/methods.md", "", correlations, "rank correlation"))
    return out


def write(rows: list[Row], file: Path, markdown: Path) -> None:
    """claims.json and its table. What was written by hand into `cause` stays."""
    before = {row["claim"]: row.get("cause", "") for row in json.loads(file.read_text())} if file.is_file() else {}
    found = [row | {"cause": before.get(row["claim"], "")} for row in evaluate(rows)]
    file.write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")
    head, _, rest = markdown.read_text().partition("<!-- tables: begin -->")
    tail = rest.partition("<!-- tables: end -->")[2]
    markdown.write_text(f"{head}<!-- tables: begin -->\n\n{table(found)}\n<!-- tables: end -->{tail}")


def table(found: list[Row]) -> str:
    lines = ["| claim | source | paper | ours | seeds | holds | cause |", "|---|---|---|---|---|---|---|"]
    for row in found:
        spread = "" if row["sd"] is None else f" ± {row['sd']:.1f}" if row["unit"] == "mIoU" else f" ± {row['sd']:.2f}"
        ours = f"{row['ours']:+.1f}" if row["unit"] == "mIoU" else f"ρ = {row['ours']:.2f}"
        cells = (row["claim"], row["source"], row["paper"], ours + spread, row["seeds"], row["holds"], row["cause"])
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"
