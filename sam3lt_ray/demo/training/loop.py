"""The training loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
from torch import nn

from sam3lt_ray.demo.prompts import demo_labels
from sam3lt_ray.demo.training.architecture import WIDTH, new_model
from sam3lt_ray.demo.training.auxiliary import DenseHeads
from sam3lt_ray.demo.training.batches import Batch, make_batch
from sam3lt_ray.demo.training.capture import CapturedStep, StepFunction
from sam3lt_ray.demo.training.evaluation import evaluate_model
from sam3lt_ray.demo.training.export import export_checkpoint
from sam3lt_ray.demo.training.held_out import HeldOutScene, render_held_out
from sam3lt_ray.demo.training.losses import batch_loss
from sam3lt_ray.demo.training.phrases import PhraseTable
from sam3lt_ray.demo.training.producers import producing
from sam3lt_ray.demo.training.regions import compiled_regions
from sam3lt_ray.demo.training.ring import RecordRing
from sam3lt_ray.demo.training.schedule import WeightAverage, learning_rate_factor
from sam3lt_ray.demo.training.settings import TrainingSettings
from sam3lt_ray.demo.training.state import TrainingState, scenes_rendered_before

_CHUNK_SIZE = 32
_MAX_GRADIENT_NORM = 1.0


def train(settings: TrainingSettings, stop_wanted: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """Trains, or continues, and leaves the checkpoint, curve.jsonl and figures.json in the output folder.

    Args:
        settings: The run's settings.
        stop_wanted: Asked after every step; True ends the run early, in good order.

    Returns:
        The figures of `evaluation.evaluate_model` on the held-out scenes.
    """
    settings.output.mkdir(parents=True, exist_ok=True)
    held_out = render_held_out(settings.held_out_seed, settings.held_out_scenes, settings.workers)
    first_index = scenes_rendered_before(settings.state)
    with producing(settings.seed, first_index, settings.workers, _CHUNK_SIZE) as exchange:
        device = torch.device(settings.device)
        torch.set_float32_matmul_precision("high")
        state = _new_state(settings, device)
        if settings.state.exists():
            state.load(settings.state)
        ring = RecordRing(exchange, settings.ring_scenes, device)
        try:
            run = _Run(settings, state, ring, held_out, device)
            run.train(stop_wanted)
        finally:
            ring.close()
    return run.finish()


def _new_state(settings: TrainingSettings, device: torch.device) -> TrainingState:
    model = new_model(settings.seed)
    nn.Module.to(model, device)
    model.train()
    heads = DenseHeads(WIDTH).to(device)
    # The geometry encoder takes box prompts, which the demo does not train; it keeps its first weights.
    model.geometry_encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, heads, settings.weight_decay),
        # A tensor, because a captured step reads it from the device.
        lr=torch.tensor(settings.learning_rate, device=device),
        betas=(0.9, 0.98),
        fused=device.type == "cuda",
        capturable=device.type == "cuda",
    )
    generator = torch.Generator(device).manual_seed(settings.seed)
    return TrainingState(model, heads, WeightAverage(model, settings.ema_decay), optimizer, generator)


def _parameter_groups(model: nn.Module, heads: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weights in [*model.named_parameters(), *heads.named_parameters()]:
        if weights.requires_grad:
            (decayed if weights.ndim >= 2 and "embed" not in name else others).append(weights)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class _Run:
    """One process's part of a training run."""

    def __init__(
        self,
        settings: TrainingSettings,
        state: TrainingState,
        ring: RecordRing,
        held_out: list[HeldOutScene],
        device: torch.device,
    ) -> None:
        self._settings, self._state, self._ring = settings, state, ring
        self._held_out, self._device = held_out, device
        self._table = PhraseTable.build(device)
        self._curve = settings.output / "curve.jsonl"
        self._scenes_before = state.scenes_rendered
        self._learn: StepFunction = self._learn_from

    def train(self, stop_wanted: Callable[[], bool]) -> None:
        state, settings = self._state, self._settings
        while self._ring.num_filled < min(2048, settings.ring_scenes):
            self._ring.refresh(wait_s=5.0)
        if settings.capture and self._device.type == "cuda":
            self._set_learning_rate()
            with self._ring.device_lock:
                self._learn = CapturedStep(self._learn_from, self._next_batch())
        sums: dict[str, torch.Tensor] = {}
        done_before, started = state.elapsed_s, time.monotonic()
        logged_s, logged_step = state.elapsed_s, state.step
        next_evaluation = started + settings.evaluate_every_s
        paused_s = 0.0
        while self._share_done() < 1.0 and not stop_wanted():
            for name, value in self._step().items():
                sums[name] = sums[name] + value if name in sums else value.clone()
            now = time.monotonic()
            state.elapsed_s = done_before + now - started - paused_s
            if state.step % settings.log_every == 0:
                self._log(sums, state.step - logged_step, state.elapsed_s - logged_s)
                sums, logged_s, logged_step = {}, state.elapsed_s, state.step
            if now >= next_evaluation:
                self._evaluate_on_the_way()
                paused_s += time.monotonic() - now
                next_evaluation = time.monotonic() + settings.evaluate_every_s

    def finish(self) -> dict[str, float]:
        state, settings = self._state, self._settings
        state.average.recalibrate(self._table)
        export_checkpoint(state.average.model, settings.output / "checkpoint")
        figures = evaluate_model(state.average.model, self._held_out, demo_labels(), self._device)
        self._write_line({"step": state.step, "elapsed_s": round(state.elapsed_s, 1), "final": figures})
        (settings.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        state.save(settings.state)
        return figures

    def _step(self) -> dict[str, torch.Tensor]:
        self._set_learning_rate()
        terms = self._learn(self._next_batch())
        self._state.average.update(self._state.step)
        self._state.step += 1
        return terms

    def _set_learning_rate(self) -> None:
        state, settings = self._state, self._settings
        factor = learning_rate_factor(state.step, self._share_done(), settings.warmup_steps, settings.decay_from)
        for group in state.optimizer.param_groups:
            group["lr"].fill_(settings.learning_rate * factor)

    def _next_batch(self) -> Batch:
        state, settings = self._state, self._settings
        self._ring.refresh()
        state.scenes_rendered = self._scenes_before + self._ring.num_received
        records = self._ring.sample(settings.images_per_step, state.generator)
        return make_batch(records, self._table, settings.present_prompts, settings.absent_prompts, state.generator)

    def _learn_from(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One optimizer step; everything in it stays on the device."""
        state, table = self._state, self._table
        state.optimizer.zero_grad(set_to_none=True)
        with (
            compiled_regions(self._settings.compile),
            torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False),
        ):
            loss = batch_loss(
                state.model, state.heads, batch, table.input_ids, table.mask, self._settings.present_prompts
            )
        loss.total.backward()
        nn.utils.clip_grad_norm_(
            [*state.model.parameters(), *state.heads.parameters()], _MAX_GRADIENT_NORM, foreach=True
        )
        state.optimizer.step()
        return loss.terms

    def _share_done(self) -> float:
        state, settings = self._state, self._settings
        of_time = state.elapsed_s / (60.0 * settings.minutes) if settings.minutes else 0.0
        of_steps = state.step / settings.steps if settings.steps else 0.0
        return max(of_time, of_steps)

    def _log(self, sums: dict[str, torch.Tensor], num_steps: int, duration_s: float) -> None:
        names = list(sums)
        means = (torch.stack([sums[name] for name in names]) / num_steps).tolist()  # waits for the device
        self._write_line(
            {
                "step": self._state.step,
                "elapsed_s": round(self._state.elapsed_s, 1),
                "step_ms": round(1000.0 * duration_s / num_steps, 1),
                "scenes_rendered": self._state.scenes_rendered,
                "learning_rate": float(self._state.optimizer.param_groups[0]["lr"]),
                **{name: round(mean, 4) for name, mean in zip(names, means, strict=True)},
            }
        )

    def _evaluate_on_the_way(self) -> None:
        state = self._state
        state.average.recalibrate(self._table)
        few = self._held_out[: max(1, len(self._held_out) // 5)]
        figures = evaluate_model(state.average.model, few, demo_labels(), self._device)
        self._write_line({"step": state.step, "elapsed_s": round(state.elapsed_s, 1), "evaluation": figures})
        export_checkpoint(state.average.model, self._settings.output / "checkpoint")
        state.save(self._settings.state)

    def _write_line(self, content: dict[str, object]) -> None:
        with self._curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
