"""Many configurations of one sweep for the price of a few."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict


class SharedComposition:
    """Composes once for each choice of groups, and sets the values of every point in a copy.

    Hydra does the same in this order: no value has a say in which files a configuration is made of. Composing takes
    0.2 s, a point 5 ms; its copy is read from a pickle, which takes a seventh of the time of `copy.deepcopy`.

    Args:
        compose: makes a configuration of overrides, each time anew.
        is_group: whether a key is the name of a group.
    """

    def __init__(self, compose: Callable[[list[str]], DictConfig], is_group: Callable[[str], bool]) -> None:
        self._is_group = cache(is_group)
        self._base = cache(lambda chosen: pickle.dumps(_without_hydra(compose(list(chosen)))))
        self._parse = cache(lambda text: OverridesParser.create().parse_overrides([text])[0])

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Compose one configuration.

        Args:
            overrides: in Hydra's grammar, without sweeps.

        Returns:
            Plain containers, interpolations resolved, without Hydra's own section.
        """
        parsed = list(map(self._parse, overrides))
        chosen = [o for o in parsed if o.is_hydra_override() or o.package or self._is_group(o.key_or_group)]
        config = pickle.loads(self._base(tuple(o.input_line for o in chosen)))
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if o not in chosen], config)
        return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def _without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        config.pop("hydra", None)
    return config
