"""The way of one batch: uint8 images -> float in [0, 1] -> CompressAI model -> rate-distortion terms -> steps.

Shapes: x, x_hat (B, 3, H, W). The runner does not know whether the model's convs are spectral or plain.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from catalyst import dl
from compressai.models import CompressionModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from rdtrain import random_state
from rdtrain.config.schema import Config
from rdtrain.conv.convert import Converted, to_plain
from rdtrain.conv.layers import cached_kernels, spectral_layers
from rdtrain.conv.moments import Moments, ShadowMoments
from rdtrain.conv.optimizers import innermost
from rdtrain.data.sampler import CropSampler
from rdtrain.data.store import ImageStore
from rdtrain.early_stop import BestSoFar
from rdtrain.engine import autocast
from rdtrain.entropy.mended import mend_bottlenecks
from rdtrain.entropy.quantizer import noise_terms
from rdtrain.errors import UserError
from rdtrain.evaluation import ImageRow, evaluate_image, evaluation_copy, forward_variants, mean_row
from rdtrain.gdn import normalize_in_blocks
from rdtrain.health import Diverged, Event, StepGuard, nonfinite_gradients
from rdtrain.infer_plan import Budget, real_policy
from rdtrain.interruption import Interruption
from rdtrain.latents import Shown, Watch, keeps_images, watched
from rdtrain.metrics import Means
from rdtrain.probes import LatentOverflow, Undecodable
from rdtrain.ranks import agreed, gathered, keep_quantiles_local, merged, rank_share
from rdtrain.rollback import TrainedStep, save_batch
from rdtrain.run_folder import RunFolder
from rdtrain.variants import quantizer_terms

_SHOWN = 8  # infer images kept to be looked at


class ImageCompressionRunner(dl.Runner):
    """Trains an image compression model; loaders `train`, `valid` and `infer`.

    Gradients are clipped before the auxiliary backward pass, as in CompressAI's examples/train.py: the quantiles'
    gradients would shrink the network's. Infer images are judged on a copy with probability tables, through forward
    and through real bitstreams.

    Args:
        config: a completed configuration; `runner.monitor` is the `<loader>/<metric>` that decides about schedulers,
            the best checkpoint and early stopping.
        folder: where the run writes.
        stores: the images by loader, for their names.
        resume_from: what its last checkpoint held, None for a new run.
        interruption: takes the signals that end the run.

    Attributes:
        steps: optimizer steps since the beginning of the run.
        elapsed_s: seconds in loaders, over all parts of a continued run.
        stepped: whether this batch made an optimizer step.
        is_last_epoch: whether no epoch follows this one.
        within_epoch: where in its first epoch a continued run goes on, None for its beginning.
        best: the best monitored value and its epoch.
        is_best: whether this epoch is the best so far.
        final: last measured value by `<loader>/<metric>`.
        switch_pending: whether spectral convs are still to become plain.
        switched_at: epoch, step and circumstances at which they did.
        drop_absorbed: whether the switch took the place of this epoch's scheduler step.
        warnings: what the user should know afterwards.
        events: what happened to the run's health, `rdtrain.health.Event` as dicts.
        skipped: optimizer steps that were left out (`health.on_nan=skip`) since the beginning of the run.
        shown: infer images to look at.
        drawn: PNG files by name, made of them by `rdtrain.callbacks.Figures`.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        stores: Mapping[str, ImageStore],
        resume_from: dict[str, Any] | None = None,
        interruption: Interruption | None = None,
    ) -> None:
        super().__init__()
        self.interruption = interruption or Interruption()
        self.config, self.folder, self.stores, self.resume_from = config, folder, stores, resume_from
        self.monitor_loader, self.monitor_metric = config.runner.monitor.split("/", 1)
        self.steps, self.elapsed_s = 0, 0.0
        self.stepped = self.is_last_epoch = self.is_best = False
        self.within_epoch: dict[str, Any] | None = None
        self.best = BestSoFar()
        self.final: dict[str, float] = {}
        self.switch_pending = self.drop_absorbed = False
        self.switched_at: dict[str, Any] | None = None
        self.warnings: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.skipped = self._skipped_in_a_row = 0
        self.shown: list[Shown] = []
        self.drawn: dict[str, bytes] = {}
        self.ema: AveragedModel | None = None
        self._evaluated: nn.Module | None = None
        self._unwrapped: tuple[nn.Module | None, nn.Module | None] = None, None

    # Set-up

    def get_loggers(self) -> dict[str, Any]:
        """No loggers of Catalyst's: ours are callbacks.

        Returns:
            An empty dict.
        """
        return {}

    def get_model(self) -> nn.Module:
        """Hand over the model, ready to be wrapped.

        Returns:
            The model.
        """
        model = super().get_model()
        mend_bottlenecks(model)
        normalize_in_blocks(model)
        if self.engine.num_processes > 1:
            keep_quantiles_local(model)
        return model

    def _setup_loaders(self) -> None:
        loaders: dict[str, DataLoader] = self.get_loaders()
        self.train_sampler = cast(CropSampler, loaders["train"].sampler)
        self.loaders = {
            key: self.engine.prepare(loader) if key == "train" else rank_share(loader, self.engine)
            for key, loader in loaders.items()
        }

    def on_experiment_start(self, runner: dl.IRunner) -> None:
        """Set up what Catalyst does not know of.

        Args:
            runner: this runner.
        """
        super().on_experiment_start(runner)
        self.best = BestSoFar()
        decay = self.config.engine.ema_decay
        if decay is not None:
            self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(decay))
        late = self.engine.device.type == "cuda" and self.config.health.on_nan != "skip"
        self._guard: StepGuard[TrainedStep] = StepGuard(late)
        self.real_policy = real_policy(self.config.infer.real, self.net, self.config.runner.monitor)

    # What callbacks read

    @property
    def net(self) -> CompressionModel:
        """The CompressAI model without any wrapper."""
        wrapped, net = self._unwrapped
        if wrapped is not self.model:  # unwrapping walks through all modules
            net = self.engine.unwrap_model(self.model)
            self._unwrapped = self.model, net
        return cast(CompressionModel, net)

    @property
    def judged(self) -> nn.Module:
        """The model that is validated and exported: the moving average where there is one."""
        return self.net if self.ema is None else self.ema.module

    @property
    def monitored(self) -> float:
        """This epoch's monitored value; lower is better."""
        return self.epoch_metrics[self.monitor_loader][self.monitor_metric]

    @property
    def is_last_batch(self) -> bool:
        """Whether the loader has no batch after this one."""
        return self._batches >= self.loader_batches

    @property
    def is_spectral(self) -> bool:
        """Whether any conv is stored in the frequency domain."""
        return bool(spectral_layers(self.net))

    @property
    def keeps_images(self) -> bool:
        """Whether the images of this epoch's infer pass are kept, were there one."""
        return keeps_images(self.epoch_step, self.config.infer.every_n_epochs, self.is_last_epoch)

    def measured(self) -> dict[str, dict[str, float]]:
        """This epoch's metrics.

        Returns:
            Value by metric name by loader; loaders that did not run are left out.
        """
        return {loader: values for loader, values in self.epoch_metrics.items() if loader != "_epoch_"}

    def note(self, event: Event) -> None:
        """Tell the user of an event, now and in the run's record.

        Args:
            event: that is new.
        """
        self.events.append(event.to_dict())
        self.warnings.append(event.sentence)
        if self.engine.is_main_process:
            print(event.sentence, flush=True)

    def become_plain(self, moments: Moments, shadow: ShadowMoments | None = None) -> list[Converted]:
        """Turn all spectral convs plain, in the model and its moving average.

        Args:
            moments: what the optimizer keeps.
            shadow: the tracked second moments, with `moments=shadow`.

        Returns:
            What was converted.
        """
        net = self.net
        converted = to_plain(net, [self.optimizer["net"]], moments, shadow)
        if self.ema is not None:
            to_plain(self.ema.module)
        if self.engine.num_processes > 1:
            # The reducer of DistributedDataParallel keeps the old parameters, and ranks would drift apart silently.
            self.engine._models.clear()
            self.model = self.engine.prepare(net)
        self.switch_pending = False
        return converted

    # The loop

    def on_epoch_start(self, runner: dl.IRunner) -> None:
        """Choose the epoch's samples.

        Args:
            runner: this runner.
        """
        self.train_sampler.seek(self.epoch_step + 1)
        super().on_epoch_start(runner)
        self.is_last_epoch = self.epoch_step >= self.num_epochs
        self.drop_absorbed = self.is_best = False
        self._skipped_in_a_row = 0
        self.experiment_metrics.clear()  # Catalyst keeps those of every epoch, and nothing reads them

    def _run_epoch(self) -> None:
        for key, loader in self.loaders.items():
            self.loader_key, self.loader = key, loader
            if self.loader_key == "infer" and not self._infer_is_due():
                continue
            self._run_event("on_loader_start")
            self._run_loader()
            self._run_event("on_loader_end")

    def _infer_is_due(self) -> bool:
        return self.is_last_epoch or self.epoch_step % self.config.infer.every_n_epochs == 0

    def _run_loader(self) -> None:
        self.means = Means()
        # Catalyst's own counters are multiplied by the number of processes.
        self._batches = self._samples = 0
        self._overflow: LatentOverflow | None = None
        self._undecoded: list[str] = []
        self.loader_batches = len(self.loader)
        self._loader_start = time.monotonic()
        with self._prepared_for_loader():
            if self._batches < self.loader_batches:
                super()._run_loader()
        start = self._loader_start
        self.elapsed_s += time.monotonic() - start
        self._refuse_overflow()
        if self.is_infer_loader:  # not every image has every metric
            self.loader_metrics.update(mean_row(gathered(self._rows, self.engine)))
        else:
            self.loader_metrics.update(merged(self.means.compute(), self._samples, self.engine))
        self._add_times(time.monotonic() - start)
        self.final.update({f"{self.loader_key}/{name}": float(value) for name, value in self.loader_metrics.items()})
        self._refuse_divergence()
        if self.loader_key == self.monitor_loader:
            self._refuse_nothing_monitored()
            self.is_best = self.best.update(self.epoch_step, float(self.loader_metrics[self.monitor_metric]))

    @contextlib.contextmanager
    def _prepared_for_loader(self) -> Iterator[None]:
        if self.is_infer_loader:
            self._rows: list[ImageRow] = []
            self.shown = []
            self._evaluated = evaluation_copy(self.judged)
            self._real = self.real_policy == "always" or self.is_best or self.is_last_epoch
            self._budget = Budget(self.config.infer.max_seconds)
            with self.interruption.at_once():
                yield
            self._evaluated = None
            self._say_what_infer_left_out()
        elif self.is_valid_loader:
            self.judged.eval()
            with cached_kernels(self.judged), self.interruption.at_once():
                yield
        else:
            if self.within_epoch is not None:
                self._go_on(self.within_epoch)
                self.within_epoch = None
            yield

    def place_in_epoch(self) -> dict[str, Any]:
        """Where the training loader stands; all processes call this together.

        Returns:
            Seconds in the loader, and for each process its batches, samples, sums of metrics and random generators.
        """
        own = {
            "batches": self._batches,
            "samples": self._samples,
            "means": self.means.state_dict(),
            "random": random_state.capture(),
        }
        return {"seconds": time.monotonic() - self._loader_start, "processes": gathered([own], self.engine)}

    def _go_on(self, place: dict[str, Any]) -> None:
        processes = self.engine.num_processes
        if len(place["processes"]) != processes:
            raise UserError(
                f"the run was interrupted within an epoch of {len(place['processes'])} process(es), "
                f"and cannot go on with {processes}: start it with as many"
            )
        own = place["processes"][self.engine.process_index]
        self._batches, self._samples = own["batches"], own["samples"]
        self._loader_start -= place["seconds"]
        self.loader_batch_step, self.loader_sample_step = self._batches * processes, self._samples * processes
        self.means.load_state_dict(own["means"], self.engine.device)
        self.train_sampler.seek(self.epoch_step, self._samples * processes)
        random_state.restore(own["random"])

    def _say_what_infer_left_out(self) -> None:
        undecoded = gathered(self._undecoded, self.engine)
        if not self.engine.is_main_process:
            return
        if undecoded:
            print(
                f"infer of epoch {self.epoch_step}: bitstreams of {len(undecoded)} image(s) cannot be decoded here, "
                f"which are measured forward only ({undecoded[0]}); rdtrain-eval measures them on the CPU"
            )
        if not self._real:
            print(
                f"infer of epoch {self.epoch_step}: forward only, since {self.config.model.name} codes pixel by pixel; "
                "bitstreams are written at the best epochs and the last (infer.real=always: at every pass)"
                if self.config.infer.real == "auto"
                else f"infer of epoch {self.epoch_step}: forward only (infer.real=best)"
            )
        if self._budget.skipped:
            print(
                f"infer of epoch {self.epoch_step}: stopped after {self._budget.taken} of "
                f"{self._budget.taken + self._budget.skipped} images (infer.max_seconds={self._budget.seconds:g})"
            )

    def _refuse_overflow(self) -> None:
        # One process may see it alone; the others wait for its rows.
        if self.is_infer_loader and agreed(int(self._overflow is not None), self.engine):
            raise Diverged(f"infer of epoch {self.epoch_step}: {self._overflow or 'latents that cannot be coded'}")

    def _refuse_divergence(self) -> None:
        nothing = math.nan if self.is_train_loader else 0.0  # all of its steps were left out
        loss = self.loader_metrics.get("loss/forward/unclamped", nothing)
        if not math.isfinite(loss):
            raise Diverged(f"the {self.loader_key} loss of epoch {self.epoch_step} is {float(loss)}")

    def _refuse_nothing_monitored(self) -> None:
        if self._undecoded and self.monitor_metric not in self.loader_metrics:
            raise UserError(
                f"runner.monitor={self.config.runner.monitor}: no bitstream of infer can be decoded on this device "
                f"({self._undecoded[0]}); type engine.device=cpu, or a monitor of the forward path"
            )

    def _add_times(self, seconds: float) -> None:
        self.loader_metrics["time/step_ms"] = 1000 * seconds / max(1, self._batches)
        self.loader_metrics["time/samples_per_s"] = self._samples * self.engine.num_processes / seconds
        self.loader_metrics["time/elapsed_s"] = self.elapsed_s
        if self.is_train_loader:
            self.loader_metrics["conv/spectral"] = float(self.is_spectral)
            self.loader_metrics["health/skipped"] = float(self.skipped)
            for name, optimizer in self.optimizer.items():
                self.loader_metrics[f"lr/{name}"] = optimizer.param_groups[0]["lr"]

    # One batch

    def handle_batch(self, batch: dict[str, Tensor]) -> None:
        """Train on, validate or infer one batch.

        Args:
            batch: `x`, uint8 images (B, 3, H, W).
        """
        layout = torch.channels_last if self.config.engine.channels_last else torch.contiguous_format
        x = batch["x"].to(self.engine.device, non_blocking=True).to(torch.float32, memory_format=layout).div_(255)
        if self.is_train_loader:
            self._train(x, batch["x"])
        elif self.is_infer_loader:
            self._infer(x, batch)
        else:
            self._validate(x)
        self._batches += 1
        self._samples += len(x)

    def _infer(self, x: Tensor, batch: dict[str, Tensor]) -> None:
        if self._overflow is not None or not self._budget.take():
            return
        try:
            row, watch = self._measured(x)
        except LatentOverflow as error:
            self._overflow = error
            return
        self._rows.append(
            replace(row, image=torch.empty(0), strings=None)
        )  # those of many images would fill the memory
        if len(self.shown) < _SHOWN:
            name = self.stores["infer"].images[int(batch["index"])].path.stem
            self.shown.append(Shown(name, batch["x"][0].cpu(), row.image, watch.latents(maps=not self.shown)))

    def _measured(self, x: Tensor) -> tuple[ImageRow, Watch]:
        def measured(real: bool) -> tuple[ImageRow, Watch]:
            with watched(self._evaluated) as watch:
                return evaluate_image(self._evaluated, x, self.criterion, self.config.ledger.mode, real), watch

        try:
            return measured(self._real)
        except Undecodable as error:  # the run is worth more than one image's bitstream
            self._undecoded.append(str(error))
            return measured(real=False)

    def _validate(self, x: Tensor) -> None:
        out = self.judged(x)
        self.means.update(forward_variants(self.criterion, out, x))

    def _train(self, x: Tensor, images: Tensor) -> None:
        place, in_group = place_in_group(self._batches, self.loader_batches, self.config.engine.accumulate)
        self.stepped = place == in_group - 1
        if place == 0:
            self._group: list[tuple[Tensor, dict[str, Tensor]]] = []
            for optimizer in self.optimizer.values():
                innermost(optimizer).zero_grad()  # accelerate's wrapper looks for optional packages at every step
        with contextlib.nullcontext() if self.stepped else self.engine.no_sync(self.model):
            with autocast(self.engine.device, self.config.engine.precision):
                out = self.model(x)
            terms = self.criterion(out, x)
            self.engine.backward(terms["loss"] / in_group)
        values = {name: value.detach() for name, value in terms.items()}
        self.batch_metrics.update(named_terms(values))
        self._group.append((images, dict(self.batch_metrics)))
        if self.stepped:
            self._step(x, values)

    def _compare_quantizers(self, x: Tensor, terms: dict[str, Tensor]) -> None:
        every = self.config.ledger.every_n_steps
        if every is not None and self.steps % every == 0:
            under_noise = self.config.model.quantizer == "noise"
            noise = terms if under_noise else noise_terms(self.criterion, self.net, x)
            self.means.update(quantizer_terms(self.criterion, self.net, x, noise), len(x))

    def _step(self, x: Tensor, noise: dict[str, Tensor]) -> None:
        parameters = [p for group in self.optimizer["net"].param_groups for p in group["params"] if p.grad is not None]
        max_norm = self.config.engine.clip_grad_norm
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        self.stepped = self._is_healthy(norm)
        if not self.stepped:
            return
        for images, terms in self._group:
            self.means.update(terms, len(images))
        self._compare_quantizers(x, noise)
        if max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        innermost(self.optimizer["net"]).step()
        extra = {"grad_norm": norm.detach()}
        if "aux" in self.optimizer:
            aux_loss = self.net.aux_loss()
            self.engine.backward(aux_loss)
            innermost(self.optimizer["aux"]).step()
            extra["aux_loss"] = aux_loss.detach()
        if self.ema is not None:
            self.ema.update_parameters(self.net)
        self.steps += 1
        self.batch_metrics.update(extra)
        self.means.update(extra, 1)

    def _is_healthy(self, norm: Tensor) -> bool:
        images, terms = map(list, zip(*self._group, strict=True))
        number = norm
        if self.engine.num_processes == 1:  # averaged gradients are those of all processes, losses are each one's own
            number = norm + sum(values["loss/forward/unclamped"] for values in terms)
        lr = self.optimizer["net"].param_groups[0]["lr"]
        failed = self._guard.look(number, TrainedStep(self.epoch_step, self.steps + 1, lr, images, terms, norm))
        if failed is not None:
            self._skip_or_stop(failed)
        else:
            self._skipped_in_a_row = 0
        return failed is None

    def _skip_or_stop(self, failed: TrainedStep) -> None:
        gradients = [] if self._guard.late else nonfinite_gradients(self.net.named_parameters())
        save_batch(self.folder.path, failed, gradients, self.engine.process_index)
        if self.config.health.on_nan != "skip" or self._skipped_in_a_row >= self.config.health.skips:
            raise Diverged(failed.describe())
        if self.skipped == 0:
            done = "the step is left out, as all others like it will be (health.on_nan=skip)"
            self.note(Event("skip", self.epoch_step, self.steps, failed.describe(), done))
        self.skipped += 1
        self._skipped_in_a_row += 1

    def settle(self) -> None:
        """Wait until all steps so far are known to be finite, before their weights are written anywhere.

        Raises:
            Diverged: one is not.
        """
        if (failed := self._guard.settle()) is not None:
            self._skip_or_stop(failed)


def place_in_group(batch: int, batches: int, accumulate: int) -> tuple[int, int]:
    """Where a batch stands among those whose gradients are added up.

    Args:
        batch: its number in the epoch, from 0.
        batches: in the epoch.
        accumulate: batches a group; the last group of an epoch may be smaller.

    Returns:
        Its place in its group, from 0, and the group's size.
    """
    place = batch % accumulate
    return place, min(accumulate, batches - (batch - place))


def named_terms(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss's terms under the names that are logged.

    Args:
        terms: `loss`, `bpp` and `mse` or `ms_ssim`.

    Returns:
        `loss/forward/unclamped`, `bpp/forward` and so on.
    """
    return {f"{name}/forward" + ("" if name == "bpp" else "/unclamped"): value for name, value in terms.items()}
