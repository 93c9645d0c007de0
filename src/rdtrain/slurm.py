"""`launcher=slurm`: hydra-submitit-launcher without what it loses. Nothing heavy is imported.

hydra-submitit-launcher 1.2.0 gives up on all jobs when one of them fails, waits forever for one that was cancelled
where the cluster keeps no accounts (sacct), and cannot leave after submission. submitit 1.5.4 ignores SIGTERM, which
is all that SLURM sends before it preempts, unless `SlurmctldParameters=preempt_send_user_signal` is set.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from rdtrain.errors import UserError

_POLL_S = 10  # between two looks at the queue
_MAX_ARRAY_SIZE = 1001  # SLURM's default
_ABSENT = 3  # looks in a row that do not find a job which has left no result
_SHARED = {field.name for field in fields(BaseQueueConf)}  # parameters that submitit has for all kinds of cluster
_TERMINATED = 128 + signal.SIGTERM


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """Submits the points of a sweep as one job array, or as several where the cluster takes none as large.

    A job that is preempted or that reaches its time limit is queued again by submitit's handler of SIGUSR2, which
    `rdtrain.interruption` calls after the checkpoint.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """Run one point, in its job.

        Args:
            args: as hydra-submitit-launcher gives them.
            kwargs: likewise.

        Returns:
            What Hydra wants to know of it.

        Raises:
            SystemExit: the run was interrupted, and the job has been queued again where that is due.
        """
        try:
            return super().__call__(*args, **kwargs)
        except SystemExit as stop:
            while stop.code == _TERMINATED:  # SLURM queues a job again that it has to kill, not one that ends by itself
                signal.pause()
            raise

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs, and wait for them if `launcher.wait` says so.

        Args:
            job_overrides: of each point.
            initial_job_idx: number of the first one.

        Returns:
            One result a job that came to its end; what became of the others stands in their run folders.

        Raises:
            SystemExit: Ctrl-C; the jobs go on.
            UserError: sbatch takes no jobs.
        """
        jobs = self._submit(job_overrides, initial_job_idx)
        array = " ".join(dict.fromkeys(job.job_id.split("_")[0] for job in jobs))
        print(f"submitted: {len(jobs)} jobs as {array}; logs in {jobs[0].paths.folder.parent}", flush=True)
        if self.config is None or not self.config.launcher.wait:
            return []
        try:
            _wait(jobs)
        except KeyboardInterrupt as error:
            print(f"the jobs go on; scancel {array} ends them")
            raise SystemExit(128 + signal.SIGINT) from error
        return [result for result in map(_result, jobs) if result is not None]

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Any]:
        import submitit

        named = {(name if name in _SHARED else f"slurm_{name}"): value for name, value in self.params.items()}
        named["slurm_additional_parameters"] = sbatch_options(named["slurm_additional_parameters"])
        folder, requeues = named.pop("submitit_folder"), named.pop("slurm_max_num_timeout")
        parts = list(shares(len(job_overrides), largest_array()))
        named["slurm_array_parallelism"] = max(1, named["slurm_array_parallelism"] // len(parts))
        state, jobs = Singleton.get_state(), []
        try:
            executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=requeues)
            executor.update_parameters(**named)
            for part in parts:
                words = [list(job_overrides[i]) for i in part]
                numbers = [first + i for i in part]
                folders, states = ["hydra.sweep.dir"] * len(part), [state] * len(part)
                jobs += executor.map_array(self, words, folders, numbers, map(str, numbers), states)
        except (
            RuntimeError,
            FileNotFoundError,
        ) as error:  # what submitit makes of sbatch's refusal, or finds no sbatch
            raise _refusal(error, len(jobs), len(job_overrides)) from error
        return jobs


def sbatch_options(typed: Mapping[str, Any]) -> dict[str, Any]:
    """Options as submitit writes them: it makes `--name=False` of a false one.

    Args:
        typed: `launcher.sbatch`; one that is false is not wanted.

    Returns:
        The others, and `no_requeue` for a requeue that is not wanted, which a cluster may have as its default.
    """
    wanted = {name: value for name, value in typed.items() if value is not False}
    return {**wanted, "no_requeue": True} if typed.get("requeue") is False else wanted


def largest_array() -> int:
    """How many jobs a cluster takes as one array.

    Returns:
        Its `MaxArraySize`, SLURM's default where it does not answer.
    """
    try:
        said = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        said = ""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", said, re.MULTILINE)
    return max(1, int(found[1])) if found else _MAX_ARRAY_SIZE


def shares(count: int, most: int) -> Iterator[range]:
    """Divide jobs among as few arrays as possible, of nearly equal size.

    Args:
        count: of the jobs, at least one.
        most: jobs of an array.

    Yields:
        The numbers of the jobs of each array.
    """
    arrays = -(-count // most)
    for i in range(arrays):
        yield range(i * count // arrays, (i + 1) * count // arrays)


def take_over() -> None:
    """Put our launcher in the place of the one that it extends: Hydra takes none from outside of hydra_plugins."""
    theirs = submitit_launcher.SlurmLauncher
    Plugins.instance().class_name_to_class[f"{theirs.__module__}.{theirs.__name__}"] = SlurmLauncher


def _refusal(error: Exception, submitted: int, wanted: int) -> UserError:
    said = " ".join(str(error).split())
    return UserError(
        f"launcher=slurm: {submitted} of {wanted} jobs are submitted, the others were refused ({said}); "
        "type launcher. keys that the cluster takes, or launcher=local where there is no SLURM"
    )


def _wait(jobs: Sequence[Any]) -> None:
    absent: Counter[str] = Counter()
    while open_jobs := [job for job in jobs if not job.paths.result_pickle.exists() and absent[job.job_id] < _ABSENT]:
        time.sleep(_POLL_S)
        queued = _queue()
        for job in open_jobs:
            if queued is not None:
                absent[job.job_id] = 0 if job.job_id in queued else absent[job.job_id] + 1


def _queue() -> set[str] | None:
    # Ids of jobs that wait or run; None while the controller does not answer.
    command = ["squeue", "--user", str(os.getuid()), "--noheader", "--array", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True)
    return set(done.stdout.split()) if done.returncode == 0 else None


def _result(job: Any) -> JobReturn | None:
    if not job.paths.result_pickle.exists():
        print(f"job {job.job_id} was cancelled or killed; its log: {job.paths.stderr}")
        return None
    error = job.exception()
    if error is not None:
        print(f"job {job.job_id} did not come to its end; its log: {job.paths.stderr}")
        return None
    result: JobReturn = job.result()
    return result
