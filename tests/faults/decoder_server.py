"""Decodes bitstream files in processes that may crash, with the product's limits. Loads once, forks for each file.

The arguments are the state dicts, each named after its model. A request is a line of JSON: `order` (text, see
`rdtrain.eval.decode.Order`) and `file`. The answer has `code`, of the process, negative for a signal; `timed_out`;
`out` and `err`, what it printed; `seconds`, and `peak_kb`, its largest resident memory.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rdtrain.eval import decoder_process
from rdtrain.eval.models import load_subject

SUBJECTS = {source: load_subject(Path(source), Path(source).stem) for source in sys.argv[1:]}
decoder_process.load_subject = lambda source, model_name: SUBJECTS[str(source)]


def child(request: dict[str, Any], outputs: dict[int, Path]) -> None:
    code = 1
    try:
        for number, path in outputs.items():
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        code = decoder_process.main(request["order"], Path(request["file"]).read_bytes())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(request: dict[str, Any]) -> dict[str, Any]:
    file = Path(request["file"])
    outputs = {1: file.with_suffix(".out"), 2: file.with_suffix(".err")}
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(request, outputs)
    with open(os.pidfd_open(pid), "rb") as process:
        timed_out = not select.select([process], [], [], json.loads(request["order"])["seconds"])[0]
    if timed_out:
        os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "timed_out": timed_out,
        **{name: outputs[number].read_text(errors="replace") for name, number in (("out", 1), ("err", 2))},
        "seconds": time.monotonic() - start,
        "peak_kb": used.ru_maxrss,
    }


if __name__ == "__main__":
    gc.freeze()  # a child that collects would copy all that was imported
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
