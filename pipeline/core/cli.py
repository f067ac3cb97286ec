"""Makes a stage's `run(job)` a command: `python -m pipeline.<stage> --settings JSON --<role> … --out ...`.

Snakemake calls these commands, and so can anybody. Settings are parsed by the class that checked config.yaml; inputs
are manifests; nothing is computed when the output is already complete for the same settings, code, seed and inputs.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import get_args

from pipeline.core import cards, integrity, progress, store
from pipeline.core.config import DEVICE, ConfigError, parse_step
from pipeline.core.data import LARGEST
from pipeline.core.digest import code_digest
from pipeline.core.job import InputError, Job
from pipeline.core.lock import alone
from pipeline.core.processes import usable_cores
from pipeline.core.recipe import Role, role
from pipeline.core.steps.base import Settings, Step
from pipeline.core.steps.weights import Imagenet


def main(run: Callable[[Job], None], *methods: type[Step], argv: Sequence[str] | None = None) -> None:
    """Parse the command line of a stage and run it. Exits 2 with one clear message on bad input."""
    args = _parser(run, methods).parse_args(argv)

    def work() -> None:
        roles = {title for method in methods for title in method.takes}
        with integrity.blaming([path for title in sorted(roles) if (path := getattr(args, title))]):
            steps()

    def steps() -> None:
        job = _job(args, methods)
        with alone(job.out):
            if store.finished(job.out, job.header):
                print(f"{job.out}: complete already", flush=True)
                return
            if job.settings.gpu:
                limit_threads(job.threads)
            run(job)

    guarded(work)


@contextmanager
def told_to_stop() -> Iterator[None]:
    """Say of a SIGTERM (a cluster's time limit, `kill`) that it came, and end by it all the same: without a word nobody
    could tell it from want of memory. A training listens for itself (core/loop.py)."""
    owner = os.getpid()

    def end(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        if os.getpid() == owner:  # not one that was forked in here
            progress.stopped(signal.Signals(signum).name)
            _complain("stopped by SIGTERM (a time limit, kill); what is finished is kept, run again to go on", now=True)
        os.kill(os.getpid(), signum)

    taken = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if taken:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if taken:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def guarded(work: Callable[[], None]) -> None:
    """Run; turn the errors a user can mend into one message and exit code 2, without a traceback.

    What goes wrong is said on the terminal too, where a rule has put the rest into a log: TAGMASK_TERMINAL is the
    number of its file descriptor.
    """
    try:
        with told_to_stop():
            work()
    except (ConfigError, InputError, store.ArtifactError) as error:
        _complain(f"error: {error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        _complain("error: stopped by Ctrl-C; what is finished is kept, run again to go on")
        raise SystemExit(1) from None
    except SystemExit as end:
        if isinstance(end.code, str):  # a training that saved and stopped (core/loop.py)
            _complain(end.code)
            raise SystemExit(1) from None
        raise
    except Exception as error:
        if found := _no_room(error):
            _complain(f"error: {found}")
            raise SystemExit(1) from None
        _complain(f"error: {type(error).__name__}: {error}", "the log has the traceback")
        raise


ROOM = {
    errno.ENOSPC: "free space on that disk",
    errno.EDQUOT: "free some of your share of that disk",
    errno.EROFS: "mount it writable again, or set `results` to another place",
}


def _no_room(error: BaseException | None) -> str:
    """What to say where a disk would not take what was written; also if that made something else fail."""
    while error:
        if isinstance(error, OSError) and error.errno in ROOM:
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{error.strerror}; {ROOM[error.errno]}, then run again: what is finished is kept"
        error = error.__cause__ or error.__context__
    return ""


def _complain(message: str, there: str = "", now: bool = False) -> None:
    """there: what else to say on the terminal. now: maybe in the middle of a print."""
    if terminal := os.environ.get("TAGMASK_TERMINAL"):
        with suppress(OSError, ValueError):  # closed: not begun by a rule
            os.write(int(terminal), "\n".join(["", *filter(None, [message, there]), ""]).encode())
    if now:
        os.write(2, f"{message}\n".encode())
    elif not there:
        print(message, file=sys.stderr)


def _parser(run: Callable[[Job], None], methods: tuple[type[Step], ...]) -> argparse.ArgumentParser:
    module = sys.modules[run.__module__]
    roles = {title: role(text) for method in methods for title, text in method.takes.items()}
    parser = argparse.ArgumentParser(
        prog=f"python -m pipeline.{methods[0].stage}",
        description=(module.__doc__ or "").strip(),
        epilog="\n\n".join(_describe(method) for method in methods),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for title, about in roles.items():
        needed = not about.optional and all(title in method.takes for method in methods)
        parser.add_argument(f"--{title}", type=Path, required=needed, help=f"manifest (.json) of {about}")
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
    parser.add_argument("--threads", type=threads, default=usable_cores())
    parser.add_argument("--workers", type=int, default=0, help="loader processes")


def threads(text: str) -> int:
    """Of `--threads`: no more than there are usable cores. Snakemake counts those of the machine."""
    return max(1, min(int(text), usable_cores()))


def _describe(method: type[Step]) -> str:
    lines = [f"settings of method '{method.model_fields['method'].default}':"]
    for name, about in method.model_fields.items():
        if name != "method":
            choices = get_args(about.annotation)
            words = f"  one of {choices}" if choices and all(isinstance(choice, str) for choice in choices) else ""
            lines.append(f"  {name} = {about.default!r}{words}  {about.description or ''}".rstrip())
    return "\n".join(lines)


def _job(args: argparse.Namespace, methods: tuple[type[Step], ...]) -> Job:
    settings = _settings(args, methods)
    inputs = _inputs(args, settings)
    if "photographs" in inputs:
        settings = settings.sized(_side(inputs["photographs"]))
    device, precision = pick_compute(args.device, args.precision) if settings.gpu else ("cpu", "f32")
    picked = chosen(settings, inputs.values())
    header = store.Header(
        kind=settings.makes,
        stage=settings.stage,
        settings=settings.model_dump(mode="json"),
        code=code_digest(settings.stage, picked),
        seed=args.seed if settings.seeded else None,
        precision=precision if settings.gpu else None,
        parents={title: artifact.digest for title, artifact in inputs.items()} | _file_digest(settings),
        choices=picked,
    )
    return Job(settings, inputs, args.out, header, args.seed, device, precision, args.threads, args.workers)


def _settings(args: argparse.Namespace, methods: tuple[type[Step], ...]) -> Step:
    try:
        raw = json.loads(args.settings)
    except ValueError as error:
        raise ConfigError(f"--settings: not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"--settings: a JSON object of settings expected (found: {args.settings})")
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
    return settings


def _inputs(args: argparse.Namespace, settings: Step) -> dict[str, store.Artifact]:
    inputs = {}
    for title, text in settings.takes.items():
        wanted, path = role(text), getattr(args, title)
        if path is not None:
            inputs[title] = store.Artifact(path, "|".join(wanted.kinds))
            _made_by(wanted, inputs[title])
        elif not wanted.optional:
            raise ConfigError(f"--{title} is missing: method '{settings.method}' needs {wanted}")
    return inputs


def _side(photographs: store.Artifact) -> int:
    """Of their canvas. What a damaged artifact says of it would size every array that is made from it."""
    side = int(photographs["rgb"].shape[1])
    if side > LARGEST:
        found = f"photographs of {side} pixels a side, at most {LARGEST} expected"
        raise store.ArtifactError(
            f"{photographs.path}: {found}; it is damaged, delete it with its store and make it again"
        )
    return side


def _made_by(wanted: Role, artifact: store.Artifact) -> None:
    method = artifact.manifest["settings"].get("method")
    if wanted.method not in (None, method):
        raise store.ArtifactError(f"{artifact.path}: made by '{method}', {wanted} expected")


def chosen(settings: Settings, inputs: Iterable[store.Artifact]) -> list[str]:
    """Names among these settings and those that the inputs rest on, sorted: what the code digest follows in a table."""
    own = {value for value in settings.model_dump().values() if isinstance(value, str)}
    return sorted(own.union(*(artifact.manifest.get("choices", ()) for artifact in inputs)))


def _file_digest(settings: Step) -> dict[str, str]:
    """A local file of weights counts by its content. One that is missing is reported by the stage."""
    file = settings.file if isinstance(settings, Imagenet) else None
    return {"file": hashlib.sha256(file.read_bytes()).hexdigest()[:32]} if file and file.is_file() else {}


def pick_compute(device: str, precision: str) -> tuple[str, str]:
    """Device and precision from what was asked for; on a workstation a GPU that no other job of ours is using.

    'auto' precision → bf16 where the hardware has bf16 arithmetic; emulated, it is four times slower than f32.
    Raises ConfigError when a GPU was asked for that is not there, or what is no device.
    """
    if not re.fullmatch(DEVICE, device):
        raise ConfigError(f"--device {device}: auto, cpu, cuda or cuda:<number> expected")
    cards.claim(device)  # before torch looks at the GPUs
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {device}: this machine has no usable GPU; use cpu or auto")
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise ConfigError(f"--device {device}: this machine has {torch.cuda.device_count()} GPUs, cuda:0 the first")
    if precision != "auto":
        return device, precision
    if device.startswith("cuda"):
        return device, "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "f32"
    native = any(getattr(torch.cpu, f"_is_{unit}_supported", bool)() for unit in ("avx512_bf16", "amx_tile"))
    return device, "bf16" if native else "f32"


def limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(max(1, threads))
