"""train: teaches a tri-plane generator; one process, or as many as torchrun starts on any number of hosts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Literal, Optional, Union, get_args, get_origin, get_type_hints

import click

from dnnlib import EasyDict
from eg3d.cli import options, ranks
from training import config as configs


class Size(click.IntRange):
    """A number of pictures, or auto."""

    name = "integer|auto"

    def convert(self, value, param, ctx):
        return value if value == "auto" else super().convert(value, param, ctx)


def training_options(command: Callable) -> Callable:
    """Every field of training/config.py's Options as an option; the command gets one `asked`."""

    @functools.wraps(command)
    def wrapper(dry_run, **kwargs):
        network = kwargs["resume"]
        if network.endswith((".pkl", ".safetensors")):
            if kwargs["init_from"] is not None:
                raise click.UsageError(f"--resume={network} acts as --init-from, which is given too: leave one out")
            if "RANK" not in os.environ:
                click.echo(f"--resume={network} names a network, not a run: it acts as --init-from, for a new run.", err=True)
            kwargs.update(resume="auto", init_from=network)
        try:
            asked = configs.Options(**kwargs)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        return command(asked, dry_run)

    hints = get_type_hints(configs.Options)
    made = [_option(field, hints[field.name]) for field in dataclasses.fields(configs.Options)]
    made.append(click.option("--dry-run", "-n", "dry_run", is_flag=True, help="Print the configuration and stop."))
    return functools.reduce(lambda wrapped, decorator: decorator(wrapped), reversed(made), wrapper)


def _option(field, hint) -> Callable:
    """The click option of a field."""
    name = configs.flag(field.name)
    needed = field.name in configs.REQUIRED and "usual" not in field.metadata
    about = dict(required=needed, help=field.metadata["help"])
    about.update({} if needed else dict(default=field.default, show_default=_default(field)))
    parts = [part for part in get_args(hint) if part is not type(None)] if get_origin(hint) is Union else [hint]
    low, high = field.metadata["low"], field.metadata["high"]
    if bool in parts:
        return options.switch(name, field.name, **{key: value for key, value in about.items() if key != "required"})
    if len(parts) > 1:
        kind: Any = Size(low, high)
    elif get_origin(parts[0]) is Literal:
        kind = click.Choice(get_args(parts[0]))
    else:
        text = options.Output(folder=True) if field.name == "outdir" else str
        kind = {int: click.IntRange(low, high), float: options.Finite(low, high), str: text}[parts[0]]
    return click.option(name, field.name, type=kind, **about)


def _default(field) -> Union[bool, str]:
    """How help shows what stands for an option that is not given."""
    if "usual" not in field.metadata:
        return field.default is not None
    shown = [] if field.metadata["usual"] is None else [str(field.metadata["usual"])]
    shown += [f"of {name} {preset.usual[field.name]}" for name, preset in configs.PRESETS.items() if field.name in preset.usual]
    return ", ".join(shown) or False


def _without(because: str, needed: Callable) -> Callable:
    needed.__doc__ = because
    return needed


# Options that nothing reads unless another is given.
USELESS_WITHOUT = {
    "p": _without("--aug=fixed", lambda asked: asked.aug == "fixed"),
    "target": _without("--aug=ada", lambda asked: asked.aug == "ada"),
    "yaw_std": _without("--cond=false", lambda asked: not asked.cond),
    "pitch_std": _without("--cond=false", lambda asked: not asked.cond),
    "disc_c_noise": _without("the data's labels: leave --cond true", lambda asked: asked.cond),
    "detector": _without("metrics that use it", lambda asked: asked.metrics.lower() != configs.NO_METRICS),
}


@click.command("train", context_settings=dict(token_normalize_func=lambda name: name.replace("_", "-")))
@training_options
def train(asked: configs.Options, dry_run: bool) -> None:
    """Train a generator on posed pictures; the same command again goes on where it was stopped."""
    from eg3d import generator
    from training import run_folder

    device = generator.choose_device(asked.device)
    count = ranks.count(asked.gpus)
    if "RANK" in os.environ and not dry_run:
        return _run(asked, count, device)
    dataset, config = _resolved(asked, count)
    if dry_run:
        folder = run_folder.next_folder(Path(asked.outdir), config.run_name)
        click.echo(json.dumps(dict(config, run_dir=str(folder)), indent=2))
    elif ranks.are_to_start(count):
        ranks.start(count, device)
    else:
        _run(asked, count, device)
    return None


def _resolved(asked: configs.Options, count: int):
    """The data set, and the configuration of a run on `count` ranks."""
    from training.dataset import ImageFolderDataset

    for name, needed in USELESS_WITHOUT.items():
        if not needed(asked):
            options.needs(name, because=needed.__doc__)
    dataset = ImageFolderDataset(asked.data, use_labels=asked.cond, xflip=asked.mirror)
    if dataset.num_channels != 3:
        raise click.UsageError(f"--data={asked.data} holds grey pictures: make them RGB by dataset_tool.py")
    items = len(dataset) // (1 + asked.mirror)
    return dataset, configs.resolve(asked, configs.Facts(dataset.name, items, dataset.resolution, count))


# ------------------------------------------------------------------------------------------------ one rank

def _run(asked: configs.Options, count: int, device) -> None:
    """Joins the other ranks, and trains."""
    import torch

    from torch_utils import custom_ops, distributed

    device = distributed.start(device)
    if distributed.rank() > 0:
        custom_ops.verbosity = "none"
    torch.backends.cudnn.benchmark = not asked.nobench
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = asked.tf32
    try:
        with distributed.watched(), contextlib.ExitStack() as held:
            dataset, config = _resolved(asked, count)
            finished = _train(asked, config, dataset, device, held)
    except (click.ClickException, ValueError, OSError, MemoryError, RuntimeError) as error:
        message = _told(error)
        if message is None:
            raise
        if distributed.size() == 1:
            raise click.ClickException(message) from error
        lost = isinstance(error, distributed.RankLost)  # which one process tells
        if not lost or (distributed.rank() == 0 and ranks.STARTED not in os.environ):
            click.echo(f"Error: rank {distributed.rank()}: {options.one_line(message)}", err=True)
        os._exit(options.USER_ERROR)  # leaving the group would wait for ranks that may be gone
    distributed.stop()
    if not finished and not distributed.launched():
        sys.exit(options.INTERRUPTED)


def _told(error: BaseException) -> Optional[str]:
    """What to say of an error that is the user's or the machine's; None: it is ours."""
    from torch_utils.distributed import RankLost
    from torch_utils.misc import is_out_of_memory

    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, RankLost):
        return f"{error}, so training stops; the same command goes on from the last checkpoint"
    if is_out_of_memory(error):
        return "there is too little memory: give --batch-gpu=auto or a smaller --batch-gpu, or shrink the networks"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if "DataLoader worker" in str(error):
        return "a process that reads pictures has ended: give --workers=0, or the machine (a container's /dev/shm) more memory"
    return None if isinstance(error, RuntimeError) else str(error)


def _train(asked: configs.Options, config, dataset, device, held: contextlib.ExitStack) -> bool:
    """Prepares what the loop gets, on all ranks alike, and runs it; returns whether the run is finished."""
    from dnnlib.util import Logger
    from torch_utils import distributed
    from training import batch_size, run_folder
    from training.training_loop import Calls, train

    place, resumed, initial = None, None, None
    if config.metrics:
        from eg3d import metrics

        metrics.check(config.metrics, config.detectors)
    prints = distributed.collected(dataset.fingerprint())
    asked_for = distributed.collected(json.dumps(config))
    if distributed.rank() == 0:
        _require_same_data(prints, asked.data)
        _require_same_options(asked_for)
        dataset.check()
        place = run_folder.chosen(asked.resume, Path(asked.outdir), json.loads(json.dumps(config)))
        if place is not None:
            resumed = run_folder.load(place, prints[0], click.echo)
            stored = run_folder.stored_options(run_folder.of(place))
            config.batch_gpu, config.G_kwargs = stored["batch_gpu"], _easy(stored["G_kwargs"])
        elif config.init_from is not None:
            initial = _opened(config)
    config = distributed.shared(config)
    if config.batch_gpu == configs.AUTO:
        config.batch_gpu = batch_size.largest(config, dataset, device)
    folder = None
    if distributed.rank() == 0:
        folder = run_folder.begin(Path(asked.outdir), config.run_name) if place is None else run_folder.of(place)
        held.enter_context(run_folder.lock(folder))
        run_folder.write_options(folder, config)
        held.enter_context(Logger(folder / "log.txt"))
    stop = Stop()
    if folder is not None:
        _introduce(config, dataset, device, folder, resumed)
    cameras = None if config.cond else functools.partial(_drawn_cameras, config.camera_kwargs)
    evaluate = functools.partial(_evaluate, config, dataset, device, cameras, folder) if config.metrics else None
    finished = train(config, dataset, device, folder, Calls(stop, evaluate, cameras), initial=initial, resumed=resumed)
    if folder is not None:
        click.echo(f"Finished: {folder}" if finished else
                   f"Stopped; the state is kept in {folder}. The same command goes on from there.")
    return finished


def _require_same_data(prints: List[str], data: str) -> None:
    others = [rank for rank, one in enumerate(prints) if one != prints[0]]
    if others:
        raise ValueError(f"--data={data}: rank {others[0]} has other data under this name than rank 0: copy them anew")


def _require_same_options(configurations: List[str]) -> None:
    own = json.loads(configurations[0])
    for rank, text in enumerate(configurations):
        other = json.loads(text)
        differing = [key for key in own if own[key] != other[key] and key not in ("training_set_kwargs", "run_name")]
        if differing:
            raise ValueError(f"rank {rank} was started with another {differing[0]} than rank 0: give all hosts the same")


def _easy(tree: Any) -> Any:
    """Nested dicts as EasyDicts."""
    return EasyDict({key: _easy(value) for key, value in tree.items()}) if isinstance(tree, dict) else tree


def _opened(config) -> Dict[str, Any]:
    """The snapshot of --init-from, whose plane axes the configuration takes over: weights make sense with theirs only."""
    from eg3d import generator
    from training.volumetric_rendering.renderer import OFFICIAL_AXES

    snapshot = generator.load_snapshot(config.init_from)
    axes = generator.generator_of(snapshot, config.init_from).renderer.plane_axes.tolist()
    config.G_kwargs.pop("plane_axes", None)
    official = axes == [[list(axis) for axis in plane] for plane in OFFICIAL_AXES]
    if not official:
        config.G_kwargs.plane_axes = axes
    click.echo(f"Beginning with the weights of {config.init_from} and its {'official' if official else 'own'} plane axes.")
    return snapshot


def _introduce(config, dataset, device, folder: Path, resumed: Optional[dict]) -> None:
    """What is about to happen, in a few lines."""
    click.echo(f"Run: {folder}")
    data = config.training_set_kwargs
    click.echo(f"Data: {data.path}, {len(dataset)} pictures of {dataset.resolution} x {dataset.resolution}"
               f"{', half of them mirrored' if data.xflip else ''}")
    click.echo(f"Ranks: {config.num_gpus} ({device.type}); batches of {config.batch_size}, {config.batch_gpu} at once")
    if resumed is not None:
        click.echo(f"Going on from {resumed['common']['counters']['nimg'] / 1000:.3f} kimg (--resume=none begins a new run)")


def _drawn_cameras(camera, count: int):
    """Labels [count, 25] of random cameras."""
    from eg3d import cameras
    from training import labels

    poses = cameras.LookAtPoseSampler.sample(
        cameras.FRONTAL, cameras.FRONTAL, camera.pivot, camera.yaw_std, camera.pitch_std, camera.radius, count)
    return labels.pack(poses, cameras.intrinsics(camera.focal))


def _evaluate(config, dataset, device, cameras, folder: Optional[Path], G_ema, snapshot: str) -> Dict[str, Dict[str, float]]:
    """A run's metrics of a snapshot, which rank 0 writes beside it. All ranks call it."""
    from eg3d import metrics
    from torch_utils import distributed

    found = {}
    for name in config.metrics:
        began = time.time()
        found.update(metrics.evaluate([name], G_ema, dataset, device, detectors=config.detectors, batch=config.batch_gpu,
                                      progress=folder is not None, cameras=cameras))
        if folder is not None:
            metrics.write_result(folder, name, found[name], time.time() - began, distributed.size(), snapshot)
            click.echo(f"{name}: {', '.join(f'{key} {value:.4f}' for key, value in found[name].items())}")
    return found


class Stop:
    """Hears Ctrl-C and SIGTERM; calling it tells whether one came. A second Ctrl-C in a terminal ends at once."""

    def __init__(self):
        self._asked = False
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._hear)

    def __call__(self) -> bool:
        return self._asked

    def _hear(self, number: int, _frame) -> None:
        from torch_utils import distributed

        if self._asked and number == signal.SIGINT and not distributed.launched():
            raise KeyboardInterrupt
        self._asked = True


def main() -> None:
    """The train.py command."""
    options.run(train)
