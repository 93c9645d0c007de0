"""Runs trainings in processes that may be killed. Imports once, forks for each request; see conftest.py.

A request is a line of JSON: `config` (a file) and any of `kill_after_s`, `slow_writes_s`, `file_limit` (bytes),
`signal_at` and `group_signal_at` (step, signal), and `delete_at` (step, folder). The answer has `code`, of the process,
negative for a signal, and `printed`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from catalyst import dl
from rdtrain.callbacks import RunRecord

from rdtrain import build, files, train
from rdtrain.cli import exit_code
from rdtrain.config.check import check
from rdtrain.quiet import silence_libraries


class At(dl.Callback):
    """Does something in the middle of a step."""

    def __init__(self, step: int, act: Callable[[], object]) -> None:
        super().__init__(order=0)
        self.step, self.act = step, act

    def on_batch_start(self, runner: Any) -> None:
        if runner.is_train_loader and runner.steps == self.step:
            self.act()


def child(request: dict[str, Any]) -> int:
    torch.set_num_threads(1)
    if request.get("slow_writes_s"):
        fsync = os.fsync
        files.os.fsync = lambda number: (time.sleep(request["slow_writes_s"]), fsync(number))  # type: ignore[assignment]
    if request.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    made, extra = build.callbacks, {}
    if request.get("signal_at"):
        step, signum = request["signal_at"]
        extra["signal"] = At(step, lambda: os.kill(os.getpid(), signum))
    if request.get("group_signal_at"):
        os.setpgid(0, 0)
        step, signum = request["group_signal_at"]
        extra["signal"] = At(step, lambda: os.killpg(os.getpgid(0), signum))
    if request.get("delete_at"):
        step, folder = request["delete_at"]
        extra["delete"] = At(step, lambda: shutil.rmtree(folder))
    build.callbacks = lambda config: {**made(config), **extra}
    config, problems = check(yaml.safe_load(Path(request["config"]).read_text()))
    assert config is not None, problems
    return exit_code(lambda: train.train(config))


def run(request: dict[str, Any]) -> dict[str, Any]:
    output = Path(request["config"]).with_suffix(".out")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open(output, "w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            code = child(request)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    if request.get("kill_after_s") is not None:
        time.sleep(request["kill_after_s"])
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), "printed": output.read_text()}


if __name__ == "__main__":
    silence_libraries()
    assert RunRecord  # imported with all that it needs
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
