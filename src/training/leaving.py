"""A training that is told to leave: it saves at its next step, and the same command continues as if it never had."""

import interrupts

from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import Seq2SeqTrainer, TrainerCallback

from training.processes import everywhere, process_count

# Of a checkpoint's state: what its step had still to do, and the losses that it had not logged.
LEFT = "left"


def told(device: torch.device | str) -> bool:
    """Whether one of the job's processes, which all ask at the same moment, was told to leave."""
    if process_count() == 1:
        return interrupts.asked()  # without a word to a device, which would wait for it
    return not everywhere(torch.tensor(not interrupts.asked(), device=device))


class LeavingTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer that saves at the end of the step in which a process was told to leave, or of that whose
    evaluation was under way, and then raises `interrupts.Leave` in all processes.

    What the step had still to do, its evaluation or the end of its epoch, is done before the next when the training
    continues from there, with the random numbers and the mean losses it would have had.

    Attributes:
        leaves: Whether the checkpoint being written is that last one.
        unplanned: Step of the checkpoint continued from, if it was written for this alone.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.leaves, self.unplanned = False, None
        self._owed: dict[str, Any] = {}  # by the step that was continued from
        self._owing: dict[str, Any] = {}  # by this one
        self._planned: int | None = None  # step of the last checkpoint that was, or would have been written anyway
        self._continued: str | None = None
        self._random: TemporaryDirectory | None = None
        self._epoch_ended = False
        self.add_callback(Moments(self))

    def _init_training_state(self, max_steps, steps_per_epoch, epochs, checkpoint, trial) -> tuple[int, int]:
        found = super()._init_training_state(max_steps, steps_per_epoch, epochs, checkpoint, trial)
        self._continued = checkpoint
        self._owed = self.state.stateful_callbacks.pop(LEFT, {})
        self.unplanned = self.state.global_step if self._owed.get("unplanned") else None
        self._planned = None if self.unplanned else self.state.global_step
        return found

    # ------------------------------------------------------------------------------------------------------- leaving
    def _maybe_log_save_evaluate(
        self, tr_loss, grad_norm, model, trial, epoch, ignored, start_time, learning_rate=None
    ) -> None:
        control = self.control
        planned = control.should_save
        ends = control.should_epoch_stop or control.should_training_stop or self.state.epoch >= epoch + 1
        owed = {
            "evaluate": control.should_evaluate,
            "save": planned and control.should_evaluate,  # which may name a best one
            "epoch_end": ends and not self._epoch_ended,
            "unplanned": not planned and self.state.global_step != self._planned,
            "grad_norm": grad_norm,  # a number where it is saved: each step would wait for its device
            "learning_rate": learning_rate,
        }
        self._owing = owed | {"epoch_end": self.state.epoch >= epoch + 1 and not self._epoch_ended}
        given = (tr_loss, grad_norm, model, trial, epoch, ignored, start_time, learning_rate)
        if told(self.args.device):
            control.should_evaluate = control.should_save = False
            super()._maybe_log_save_evaluate(*given)
            self._leave(model, trial, owed)
        held = self._random_numbers() if control.should_evaluate else None
        try:
            super()._maybe_log_save_evaluate(*given)
        except interrupts.Leave:
            super()._load_rng_state(held.name)
            self._leave(model, trial, owed)

    def _leave(self, model, trial, owed: dict) -> None:
        held = not owed["evaluate"] and not owed["epoch_end"] and self.state.global_step == self._planned
        if not held and not self._is_where_it_began(owed):
            self.leaves, self._owing = True, owed
            self._save_checkpoint(model, trial)
        raise interrupts.Leave

    def _is_where_it_began(self, owed: dict) -> bool:
        """Whether nothing was done since a training continued."""
        began = self.state.global_step == self._initial_global_step
        return began and all(self._owed.get(name) == value for name, value in owed.items())

    def _save_checkpoint(self, model, trial) -> None:
        done = {} if self.leaves else {"evaluate": False, "save": False, "unplanned": False}
        unlogged = self.accelerator.gather(self._tr_loss.reshape(1)).mean().item()
        losses = {"unlogged": unlogged, "logged_at": self._globalstep_last_logged}
        left = self._owing | done | losses
        left["grad_norm"] = getattr(left.get("grad_norm"), "item", lambda: left.get("grad_norm"))()
        self.state.stateful_callbacks[LEFT] = left
        super()._save_checkpoint(model, trial)
        if not self.leaves:
            self._planned = self.state.global_step

    def prediction_step(self, *args, **kwargs):
        """The library's, of an evaluation by the loss alone; in training it ends where a process was told to leave."""
        if self.is_in_train and told(self.args.device):
            raise interrupts.Leave
        return super().prediction_step(*args, **kwargs)

    # ---------------------------------------------------------------------------------------------------- continuing
    def _run_epoch(self, **kwargs) -> None:
        self._catch_up(*(kwargs[name] for name in ("model", "trial", "ignore_keys_for_eval", "start_time")))
        # The library would take one more step where it continues from the last checkpoint of an epoch's middle.
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(**kwargs)

    def _finalize_training(self, trial, num_train_samples, start_time):
        self._catch_up(self.model_wrapped, trial, None, start_time)
        found = super()._finalize_training(trial, num_train_samples, start_time)
        self.state.stateful_callbacks.pop(LEFT, None)
        return found

    def _catch_up(self, model, trial, ignored, start_time) -> None:
        """Do what the step that the training continues from had still to do."""
        owed, self._owed = self._owed, {}
        if not owed.get("evaluate") and not owed.get("epoch_end"):
            return
        super()._load_rng_state(self._continued)
        given = (self._tr_loss, owed["grad_norm"], model, trial, -1, ignored, start_time, owed["learning_rate"])
        self._epoch_ended = not owed["epoch_end"]
        if owed["evaluate"]:
            self._owed = owed  # to be found as it was where this is told to leave again
            self.control.should_evaluate, self.control.should_save = True, owed["save"]
            self._maybe_log_save_evaluate(*given)
            self._owed = {}
        if owed["epoch_end"] or self.control.should_training_stop:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._maybe_log_save_evaluate(*given)
        self._epoch_ended = False
        self._random = self._random_numbers()

    def restore_losses(self) -> None:
        """The sum of the losses that were not logged yet, which count in the next mean that is."""
        if self._owed:
            self._tr_loss += self._owed["unlogged"]
            self._total_loss_scalar -= self._owed["unlogged"]
            self._globalstep_last_logged = self._owed["logged_at"]

    def _random_numbers(self) -> TemporaryDirectory:
        """The state of all generators of random numbers, as a checkpoint has it."""
        folder = TemporaryDirectory()
        self._save_rng_state(folder.name)
        return folder

    def _load_rng_state(self, checkpoint: str | None) -> None:
        held, self._random = self._random, None
        super()._load_rng_state(checkpoint if held is None else held.name)


class Moments(TrainerCallback):
    """Tells a `LeavingTrainer` of moments at which the library calls nothing else."""

    def __init__(self, trainer: LeavingTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.trainer.restore_losses()

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.trainer._epoch_ended = False

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        self.trainer._epoch_ended = True
