"""What follows a multirun: one comparison of its runs."""

from __future__ import annotations

from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CompareRuns(Callback):
    """Reports on all runs in `paths.runs` when a multirun ends, into `comparison/` beside them.

    In the configuration of an experiment:

        hydra:
          callbacks:
            compare:
              _target_: rdtrain.compare.CompareRuns
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the report.

        Args:
            config: of the multirun, Hydra's own node included.
            kwargs: what Hydra may add.

        Raises:
            RuntimeError: the report could not be written; it has said why.
        """
        from rdtrain.report.cli import main
        from rdtrain.run_folder import runs_root

        runs = runs_root(config.paths.runs)
        if main([str(runs), "--out", str(runs / "comparison")]) != 0:
            raise RuntimeError(f"no comparison of {runs}")
