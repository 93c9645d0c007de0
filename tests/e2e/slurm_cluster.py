"""A real SLURM on this machine for the time of a test: munged, slurmctld and one slurmd, as root.

`with cluster(folder) as slurm:` gives its commands; Debian's packages slurmctld, slurmd and munge are enough. A job in
the partition `high` preempts those in `low`, which are queued again; cred_expire makes that take seconds instead of two
minutes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CPUS = 2  # of the node as SLURM sees it, so two jobs at a time, whatever the machine has

_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmdParameters=config_overrides
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}/socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{signal_at_preemption}
KillWait=20
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install slurmctld slurmd munge)"
    return None if os.getuid() == 0 else "SLURM's daemons are started as root"


class Cluster:
    """The daemons, by the files that they write."""

    def __init__(self, folder: Path, signal_at_preemption: bool) -> None:
        self.folder = folder
        self.munge = Path(tempfile.mkdtemp(prefix="munge-"))  # a short name: a socket's has 107 bytes at most
        self.environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(folder / "slurm.conf")}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        text = _CONFIGURATION.format(
            host=socket.gethostname().split(".")[0],
            ports=[_free_port(), _free_port()],
            folder=folder,
            munge=self.munge,
            cpus=CPUS,
            signal_at_preemption="SlurmctldParameters=preempt_send_user_signal" if signal_at_preemption else "",
        )
        (folder / "slurm.conf").write_text(text)

    def start(self) -> None:
        """Start all three, and wait until the node takes jobs."""
        files = [f"--{name}={self.munge}/{name}" for name in _MUNGE_FILES]
        self.call("munged", "--force", f"--key-file={self.folder}/munge.key", *files)
        self.start_controller()
        self.call("slurmd", "-N", socket.gethostname().split(".")[0])
        self.wait_for(lambda: self.ask("sinfo", "-h", "-o", "%P %t").split() == ["low*", "idle", "high", "idle"])

    def start_controller(self) -> None:
        """Start slurmctld, which takes up its state where there is one."""
        self.call("slurmctld")

    def kill_controller(self) -> None:
        """End slurmctld as if its machine failed."""
        _kill(self.folder / "slurmctld.pid", 9)

    def stop(self) -> None:
        """Cancel what runs and end the daemons, also where a test has failed between the ends of one."""
        if not _lives(self.folder / "slurmctld.pid"):
            with contextlib.suppress(AssertionError):
                self.start_controller()
        self.ask("scancel", "--user=root")
        deadline = time.monotonic() + 20
        while self.ask("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.5)
        for file in (self.folder / "slurmd.pid", self.folder / "slurmctld.pid", self.munge / "pid-file"):
            _kill(file, 15)
        shutil.rmtree(self.munge, ignore_errors=True)

    def call(self, *words: str) -> None:
        """Run a command that must succeed."""
        done = subprocess.run(words, env=self.environment, timeout=60, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"

    def ask(self, *words: str) -> str:
        """What a command prints; nothing where it fails or does not answer."""
        try:
            done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    def wait_for(self, condition: object, seconds: float = 300) -> None:
        """Wait until something is true."""
        assert callable(condition)
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "slurmctld.log").read_text()[-3000:]
            time.sleep(0.5)


@contextmanager
def cluster(folder: Path, signal_at_preemption: bool = True) -> Iterator[Cluster]:
    """A cluster that lives in a folder and ends with the block."""
    folder.mkdir(parents=True)
    made = Cluster(folder, signal_at_preemption)
    try:
        made.start()
        yield made
    finally:
        made.stop()


_MUNGE_FILES = ("socket", "pid-file", "log-file", "seed-file")


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _kill(pid_file: Path, signum: int) -> None:
    # A slurmd that waits for a job does not end by SIGTERM.
    if (pid := _pid(pid_file)) is None:
        return
    deadline = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.2)
        os.kill(pid, signal.SIGKILL)


def _pid(file: Path) -> int | None:
    text = file.read_text().strip() if file.is_file() else ""
    return int(text) if text else None


def _lives(pid_file: Path) -> bool:
    pid = _pid(pid_file)
    return pid is not None and Path(f"/proc/{pid}").is_dir()
