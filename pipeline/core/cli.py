"""Makes a stage's `run(job)` a command: `python -m pipeline.<stage> --settings JSON --images ... --out ...`.

Snakemake calls these commands, and so can anybody. Settings are parsed by the class that checked config.yaml; inputs
are manifests; nothing is computed when the output is already complete for the same settings, code, seed and inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pipeline.core import recipe, store
from pipeline.core.config import ConfigError, Imagenet, Step, parse_step


class InputError(ValueError):
    """Data a stage cannot use. The message says what was found, what was expected, what to do, and which file."""


@dataclass(frozen=True)
class Job:
    """All a stage needs: its settings, its inputs by kind, and where the result goes."""

    settings: Any
    inputs: dict[str, store.Artifact]
    out: Path
    header: store.Header
    seed: int
    device: str
    precision: str
    threads: int
    workers: int = 0

    @property
    def images(self) -> store.Artifact:
        return self.inputs["images"]

    @property
    def images_at_once(self) -> int:
        """Processes for a network that looks at single photographs."""
        return images_at_once(self.device, self.threads)

    @property
    def part(self) -> Path:
        """Scratch folder; gone once the artifact is complete."""
        return store.part_of(self.out)


def main(run: Callable[[Job], None], *methods: type[Step], argv: Sequence[str] | None = None) -> None:
    """Parse the command line of a stage and run it. Exits 2 with one clear message on bad input."""
    parser = _parser(run, methods)
    args = parser.parse_args(argv)

    def work() -> None:
        job = _job(args, methods)
        if store.finished(job.out, job.header):
            print(f"{job.out}: complete already", flush=True)
            return
        limit_threads(job.threads)
        run(job)

    guarded(work)


def guarded(work: Callable[[], None]) -> None:
    """Run; turn the errors a user can mend into one message and exit code 2, without a traceback."""
    try:
        work()
    except (ConfigError, InputError, store.ArtifactError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _parser(run: Callable[[Job], None], methods: tuple[type[Step], ...]) -> argparse.ArgumentParser:
    module = sys.modules[run.__module__]
    takes = sorted({kind.removesuffix("?") for method in methods for kind in method.takes})
    parser = argparse.ArgumentParser(
        prog=f"python -m pipeline.{methods[0].stage}",
        description=(module.__doc__ or "").strip(),
        epilog="\n\n".join(_describe(method) for method in methods),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for kind in takes:
        needed = all(kind in method.takes for method in methods)
        parser.add_argument(f"--{kind}", type=Path, required=needed, help=f"manifest of {kind} (.json)")
    parser.add_argument("--out", type=Path, required=True, help=f"manifest to write, e.g. {methods[0].makes}.json")
    parser.add_argument("--settings", default="{}", help="JSON with any of the settings below")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="single settings, by name")
    add_compute(parser)
    return parser


def add_compute(parser: argparse.ArgumentParser) -> None:
    """The options every command has that say where and how to compute."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", choices=("auto", "bf16", "f32"), default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=0, help="loader processes")


def _describe(method: type[Step]) -> str:
    lines = [f"settings of method '{method.model_fields['method'].default}':"]
    for name, about in method.model_fields.items():
        if name != "method":
            choices = get_args(about.annotation)
            words = f"  one of {choices}" if choices and all(isinstance(choice, str) for choice in choices) else ""
            lines.append(f"  {name} = {about.default!r}{words}  {about.description or ''}".rstrip())
    return "\n".join(lines)


def _job(args: argparse.Namespace, methods: tuple[type[Step], ...]) -> Job:
    try:
        raw = json.loads(args.settings)
    except ValueError as error:
        raise ConfigError(f"--settings: not JSON ({error})") from None
    for item in args.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set {item}: KEY=VALUE expected")
        try:
            raw[key] = json.loads(value)
        except ValueError:
            raw[key] = value
    raw.setdefault("method", methods[0].model_fields["method"].default)
    settings = parse_step(json.dumps(raw))
    if not isinstance(settings, methods):
        raise ConfigError(f"--settings: method '{settings.method}' is run by python -m pipeline.{settings.stage}")
    inputs = {}
    for kind in settings.takes:
        kind, optional = kind.removesuffix("?"), kind.endswith("?")
        path = getattr(args, kind)
        if path is not None:
            inputs[kind] = store.Artifact(path, kind)
        elif not optional:
            raise ConfigError(f"--{kind} is missing: method '{settings.method}' needs {kind}")
    device = pick_device(args.device)
    precision = pick_precision(args.precision, device)
    header = store.Header(
        kind=settings.makes,
        stage=settings.stage,
        settings=settings.model_dump(mode="json"),
        code=recipe.code_digest(settings.stage),
        seed=args.seed if settings.seeded else None,
        precision=precision if settings.trains or settings.infers else None,
        parents={role: artifact.digest for role, artifact in inputs.items()} | _file_digest(settings),
    )
    return Job(settings, inputs, args.out, header, args.seed, device, precision, args.threads, args.workers)


def _file_digest(settings: Step) -> dict[str, str]:
    """A local file of weights counts by its content. One that is missing is reported by the stage."""
    file = settings.file if isinstance(settings, Imagenet) else None
    return {"file": hashlib.sha256(file.read_bytes()).hexdigest()[:32]} if file and file.is_file() else {}


def pick_device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: this machine has no usable GPU; use cpu or auto")
    return name


def pick_precision(name: str, device: str) -> str:
    """'auto' → bf16 where the hardware has bf16 arithmetic; emulated, it is four times slower than f32."""
    import torch

    if name != "auto":
        return name
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "f32"
    native = any(getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("avx512_bf16", "amx_tile"))
    return "bf16" if native else "f32"


def images_at_once(device: str, threads: int) -> int:
    """Processes for a network that looks at single photographs: on a CPU one for each core."""
    return threads if device == "cpu" else 1


def limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(max(1, threads))
