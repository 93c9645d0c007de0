"""What the engine changes in its process."""

from __future__ import annotations

import pytest

from rdtrain import engine
from rdtrain.config.check import check
from rdtrain.config.compose import composed
from rdtrain.run_folder import run_id


@pytest.mark.parametrize("malloc", ["tuned", "default"])
def test_memory_is_kept_as_configured(monkeypatch: pytest.MonkeyPatch, malloc: str) -> None:
    calls: list[str] = []
    monkeypatch.setattr(engine, "keep_memory", lambda: calls.append("kept"))
    raw, _ = composed([f"engine.malloc={malloc}", "engine.device=cpu"])
    config, problems = check(raw or {})
    assert problems == []
    engine.make_engine(config.engine)
    assert calls == (["kept"] if malloc == "tuned" else [])
    other = config.model_copy(update={"engine": config.engine.model_copy(update={"malloc": "default"})})
    assert run_id(other) == run_id(config)
