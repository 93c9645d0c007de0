"""One run, from a configuration to a finished run folder. Reads from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence

from rdtrain import build, checkpoint, environment, preflight
from rdtrain.config.schema import Config
from rdtrain.data.inventory import make_stores, take_inventory
from rdtrain.data.loaders import explain_loader_error
from rdtrain.engine import make_engine
from rdtrain.errors import UserError
from rdtrain.models import complete
from rdtrain.probes import LatentOverflow
from rdtrain.run_folder import RunFolder


def train(config: Config, overrides: Sequence[str] = ()) -> RunFolder:
    """Train, or continue, or leave alone what is finished.

    Args:
        config: checked by `rdtrain.config.check`.
        overrides: what the user typed, for the record.

    Returns:
        The run's folder.

    Raises:
        UserError: anything is wrong that the user can put right; nothing was created then.
    """
    inventory, problems = take_inventory(config.dataset, config.infer.max_images)
    problems += preflight.problems(config.to_dict())
    if problems or inventory is None:
        raise UserError(problems)
    config = complete(config)
    folder = RunFolder.of(config)
    folder.check_data(inventory.describe())
    if folder.read_summary().get("status") == "finished":
        print(f"already finished: {folder.path} (delete it to run it again)")
        return folder
    state = checkpoint.read(folder.last) if folder.last.exists() else None

    engine = make_engine(config.engine)
    model = build.model(config, state)
    optimizers = build.optimizers(config, model)
    stores = make_stores(inventory, config.dataset)
    loaders = build.loaders(config, stores, engine.num_processes)
    epoch_steps = -(-len(loaders["train"]) // (config.engine.accumulate * engine.num_processes))
    schedulers = build.schedulers(config, optimizers, epoch_steps)
    callbacks = build.callbacks(config)
    runner = build.runner(config, folder, stores, state)

    if state is None:
        runner.warnings += inventory.warnings()
    if engine.is_main_process:
        folder.make(config, list(overrides), environment.describe(engine.device, config.seed, inventory.describe()))
        print("\n".join([*inventory.warnings(), f"{'continues' if state else 'run folder'}: {folder.path}"]))
    try:
        runner.train(
            engine=engine,
            model=model,
            criterion=build.criterion(config),
            optimizer=optimizers,
            scheduler=schedulers,
            loaders=loaders,
            callbacks=callbacks,
            seed=config.seed,
            num_epochs=config.engine.num_epochs,
        )
    except Exception as error:  # an image or a worker process may be behind it
        if isinstance(error, LatentOverflow):
            raise UserError(
                f"the run has diverged, its latents cannot be coded: {error}; try a lower optimizer.net.lr"
            ) from error
        if explained := explain_loader_error(error, stores.values()):
            raise explained from error
        raise
    return folder
