"""--gpus: a command in several processes of this machine, started by torchrun's own elastic agent."""

from __future__ import annotations

import os
import sys
from typing import Optional

import click

from eg3d.cli import options

STARTED = "EG3D_RANKS"  # in the environment of ranks that were started here: this process tells that one has died
PATIENCE = 600  # seconds that a rank may take to write its checkpoint when asked to stop


def count(gpus: Optional[int]) -> int:
    """How many processes work together: those that torchrun started, else --gpus, else one."""
    started = os.environ.get("WORLD_SIZE")
    if started is None:
        return gpus or 1
    if gpus is not None and gpus != int(started):
        raise click.UsageError(f"--gpus ({gpus}) is not what torchrun started ({started}): leave --gpus out")
    return int(started)


def are_to_start(number: int) -> bool:
    """Whether this process is alone and should be several."""
    return number > 1 and "RANK" not in os.environ


def start(number: int, device) -> None:
    """Runs this command again in `number` processes, and ends as they end."""
    import logging

    import torch
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if device.type == "cuda" and number > torch.cuda.device_count():
        raise click.UsageError(f"--gpus ({number}) is more than this machine has ({torch.cuda.device_count()})")
    logging.disable(logging.CRITICAL)  # of the agent's: ranks tell their errors themselves
    os.environ[STARTED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // number, 1)))
    arguments = run.get_args_parser().parse_args(["--standalone", f"--nproc-per-node={number}", *sys.argv])
    arguments.shutdown_timeout = PATIENCE  # releases that do not know it wait for 30 seconds
    try:
        run.run(arguments)
    except SignalException:
        sys.exit(options.INTERRUPTED)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode != options.USER_ERROR:
            click.echo(f"Error: rank {rank} ended with exit code {failure.exitcode}, so the others were stopped: run the same "
                       "command again", err=True)
        sys.exit(options.USER_ERROR)
