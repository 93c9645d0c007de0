"""A search as Optuna keeps it: what was tried, what is being tried, and what to try next (ask and tell).

Every answer is a function of the study's history alone, so a search that was killed and goes on asks for the same
points as one that nobody stopped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from rdtrain.sweep.bracket import proposals

_RANDOM_FIRST = 5  # trials before the sampler begins to learn
_RETRY_OF, _MEASURED = "retry_of", "measured"


@dataclass(frozen=True)
class Goal:
    """What is searched for.

    Args:
        ranges: smallest and largest value by key; the search is over their logarithms.
        seed: of the sampler.
        target: the measured value to be hit; None: the smallest one is wanted.
        rising: whether the measured value rises with the parameter, of which there is one where there is a target.
        tolerance: share of the target that the measured value may be away from it; no more trials are begun then.
    """

    ranges: dict[str, tuple[float, float]]
    seed: int = 1
    target: float | None = None
    rising: bool = True
    tolerance: float = 0.0

    def objective(self, measured: float) -> float:
        """What is minimised.

        Args:
            measured: of a run, above 0 where there is a target.

        Returns:
            The same, or |log(measured / target)|.
        """
        return measured if self.target is None else abs(math.log(measured / self.target))


class Search:
    """A study in a file of SQLite, which only the process that searches writes to.

    Args:
        file: made where it does not exist.
        name: of the study in it.
        goal: what is searched for.
    """

    def __init__(self, file: Path, name: str, goal: Goal) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.name, self.goal = name, goal
        self._study = optuna.create_study(
            storage=f"sqlite:///{file}", study_name=name, direction="minimize", load_if_exists=True
        )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All of them but those that another one has taken the place of, in their order."""
        everything = self._study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get(_RETRY_OF) for trial in everything}
        return [trial for trial in everything if trial.number not in replaced]

    def retry_failed(self) -> None:
        """Let every failed trial be asked for again, as a new one with the same parameters."""
        for trial in self._in_state(TrialState.FAIL):
            self._study.enqueue_trial(trial.params, user_attrs={_RETRY_OF: trial.number})

    def ask(self, at_once: int, total: int) -> list[Trial]:
        """What to run now: what was begun and has not come to its end, then new trials.

        Args:
            at_once: most trials to be given.
            total: trials of the whole search.

        Returns:
            Trials; `parameters` says where. None when all are done, or the target is hit.
        """
        begun = [Trial(self._study, trial._trial_id) for trial in self._in_state(TrialState.RUNNING)][:at_once]
        waiting = self._in_state(TrialState.WAITING)
        left = 0 if self.hit else total - len(self.trials) + len(waiting)
        new = max(0, min(at_once - len(begun), left))
        if self.goal.target is not None:
            self._propose(new - len(waiting))
        asked = [*begun, *(self._study.ask() for _ in range(new))]
        for trial in asked:
            self.parameters(trial)
        return asked

    def parameters(self, trial: Trial) -> dict[str, float]:
        """The values of a trial, chosen where that was not done yet.

        Args:
            trial: of `ask`.

        Returns:
            Value by key.
        """
        seed = int(np.random.SeedSequence([self.goal.seed, trial.number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_FIRST)
        return {key: trial.suggest_float(key, *limits, log=True) for key, limits in self.goal.ranges.items()}

    def tell(self, trial: Trial, measured: float | None) -> None:
        """Write down what came out.

        Args:
            trial: of `ask`.
            measured: of its run; None or no finite number: it failed.
        """
        if measured is None or not math.isfinite(measured):
            self._study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr(_MEASURED, measured)
        self._study.tell(trial, self.goal.objective(measured))

    def results(self) -> list[tuple[FrozenTrial, float]]:
        """Finished trials.

        Returns:
            Each with what its run measured, in their order.
        """
        return [(trial, trial.user_attrs[_MEASURED]) for trial in self._in_state(TrialState.COMPLETE)]

    def best(self) -> tuple[FrozenTrial, float] | None:
        """The finished trial with the smallest objective.

        Returns:
            It and what its run measured; None while none is finished.
        """
        return min(self.results(), key=lambda result: _value(result[0]), default=None)

    @property
    def hit(self) -> bool:
        """Whether a trial has come close enough to the target."""
        target, tolerance = self.goal.target, self.goal.tolerance
        return target is not None and any(abs(measured / target - 1) <= tolerance for _, measured in self.results())

    def _in_state(self, state: Any) -> Sequence[FrozenTrial]:
        return [trial for trial in self.trials if trial.state == state]

    def _places(self, key: str, state: TrialState) -> list[float]:
        return [math.log(trial.params[key]) for trial in self._in_state(state) if key in trial.params]

    def _propose(self, count: int) -> None:
        ((key, limits),) = self.goal.ranges.items()
        known = [(math.log(trial.params[key]), math.log(measured)) for trial, measured in self.results()]
        pending, failed = (self._places(key, state) for state in (TrialState.RUNNING, TrialState.FAIL))
        ends = (math.log(limits[0]), math.log(limits[1]))
        assert self.goal.target is not None
        target, rising = math.log(self.goal.target), self.goal.rising
        for place in proposals(known, pending, target, ends, max(0, count), rising, failed):
            self._study.enqueue_trial({key: min(max(math.exp(place), limits[0]), limits[1])})


def _value(trial: FrozenTrial) -> float:
    return math.inf if trial.value is None else trial.value
