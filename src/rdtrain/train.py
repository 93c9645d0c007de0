"""One run, from a configuration to a finished run folder. Reads from top to bottom."""

from __future__ import annotations

from collections.abc import Sequence

from rdtrain import build, checkpoint, environment, preflight, ranks
from rdtrain.config.schema import Config
from rdtrain.data.inventory import Inventory, make_stores, take_inventory
from rdtrain.data.loaders import explain_loader_error
from rdtrain.data.store import ImageStore
from rdtrain.engine import Engine, make_engine
from rdtrain.errors import UserError
from rdtrain.files import remove_leftovers, write_tensors
from rdtrain.health import Diverged
from rdtrain.interruption import Interrupted, Interruption
from rdtrain.lock import locked
from rdtrain.models import complete
from rdtrain.probes import LatentOverflow
from rdtrain.rollback import lowered_checkpoint
from rdtrain.run_folder import RunFolder
from rdtrain.runners import ImageCompressionRunner


def train(config: Config, overrides: Sequence[str] = ()) -> RunFolder:
    """Train, or continue, or leave alone what is finished.

    Args:
        config: checked by `rdtrain.config.check`.
        overrides: what the user typed, for the record.

    Returns:
        The run's folder.

    Raises:
        UserError: anything is wrong that the user can put right; what was complete before is intact.
        Interrupted: a signal ended the run; the same call continues it.
    """
    with Interruption() as interruption:
        if problems := preflight.problems(config.to_dict()):
            raise UserError(problems + take_inventory(config.dataset, config.infer.max_images)[1])
        config = complete(config)
        folder = RunFolder.of(config)
        inventory, problems = take_inventory(config.dataset, config.infer.max_images)
        if problems or inventory is None:
            if _is_finished(folder):  # it needs no images any more
                return folder
            raise UserError(problems)
        folder.check_data(inventory.describe())
        engine = make_engine(config.engine)
        with locked(folder.path, engine.is_main_process):
            if not _is_finished(folder):
                _run(config, overrides, inventory, folder, engine, interruption)
        ranks.leave()
        interruption.check()
    return folder


def _is_finished(folder: RunFolder) -> bool:
    finished = folder.read_summary().get("status") == "finished"
    if finished:
        print(f"already finished: {folder.path} (delete it to run it again)")
    return finished


def _run(
    config: Config,
    overrides: Sequence[str],
    inventory: Inventory,
    folder: RunFolder,
    engine: Engine,
    interruption: Interruption,
) -> None:
    stores = make_stores(inventory, config.dataset)
    try:
        with interruption.deferred():
            finished = _attempt(config, overrides, inventory, stores, folder, engine, interruption)
            while not finished:
                engine.free_memory()  # of what the attempt before has left
                finished = _attempt(config, None, inventory, stores, folder, engine, interruption)
    except Exception as error:  # an image, a worker process, a disk or a signal may be behind it
        if interruption.received is not None and "DataLoader worker" in str(error):  # it got the signal as well
            raise Interrupted(interruption.received) from error
        if explained := explain_loader_error(error, stores.values()) or folder.explain_write_error(error):
            raise explained from error
        raise


def _attempt(
    config: Config,
    overrides: Sequence[str] | None,
    inventory: Inventory,
    stores: dict[str, ImageStore],
    folder: RunFolder,
    engine: Engine,
    interruption: Interruption,
) -> bool:
    # Whether the run has come to its end; if not, its last checkpoint is one to go on from. The first attempt, the one
    # with overrides, makes the folder.
    state, damage = checkpoint.newest(folder.last, folder.best)
    model = build.model(config, state)
    optimizers = build.optimizers(config, model)
    loaders = build.loaders(config, stores, engine.num_processes)
    epoch_steps = -(-len(loaders["train"]) // (config.engine.accumulate * engine.num_processes))
    schedulers = build.schedulers(config, optimizers, epoch_steps)
    callbacks = build.callbacks(config)
    runner = build.runner(config, folder, stores, state, interruption)

    notes = [damage] if damage else []
    if state is None:
        notes = inventory.warnings()
        runner.warnings += notes
    if engine.is_main_process:
        if overrides is not None:
            remove_leftovers(folder.path)
            folder.make(config, list(overrides), environment.describe(engine.device, config.seed, inventory.describe()))
        print("\n".join([*notes, f"{'continues' if state else 'run folder'}: {folder.path}"]))
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
    except (Diverged, LatentOverflow) as error:
        _go_back(config, folder, engine, runner, str(error))
        return False
    return True


def _go_back(config: Config, folder: RunFolder, engine: Engine, runner: ImageCompressionRunner, reason: str) -> None:
    # All processes find the same; none reads what another one is writing.
    state = lowered_checkpoint(config, folder, runner.epoch_step, runner.steps, reason)
    engine.wait_for_everyone()
    if engine.is_main_process:
        print(state["warnings"][-1], flush=True)
        write_tensors(folder.last, state)
    engine.wait_for_everyone()
