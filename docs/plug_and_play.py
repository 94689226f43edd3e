"""AdaKD in Hugging Face's Trainer, for CTC models; docs/plug_and_play.md explains it.

A batch holds input_values, attention_mask, labels (padded with -100) and, in training, difficulty
(B,): the teacher's own `ctc` loss on each utterance, to which `weighting` was fitted beforehand;
with a guard also doubt (B,). Pass `remove_unused_columns=False` to TrainingArguments, or difficulty
never arrives.
"""

import torch
from transformers import Trainer

from adakd.objectives import ctc, frame_kl


class DistillingTrainer(Trainer):
    def __init__(self, *args, teacher, weighting, temperature=2.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.weighting = weighting.to(self.args.device)
        self.temperature = temperature
        # The loss is a mean over its batch: Trainer shall divide it by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        audio = {name: inputs[name] for name in ("input_values", "attention_mask")}
        outputs = model(**audio)
        frames = self.model._get_feat_extract_output_lengths(audio["attention_mask"].sum(dim=1))
        counts = (labels >= 0).sum(dim=1)
        blank = self.model.config.pad_token_id

        loss = task = ctc(outputs.logits, frames, labels, counts, blank)
        if model.training:  # evaluation is of the task alone
            with torch.no_grad():
                soft = self.teacher(**audio).logits
            distill = frame_kl(
                outputs.logits, soft, frames, counts, self.temperature, select="all", blank=blank
            )
            progress = self.state.global_step / max(1, self.state.max_steps - 1)
            x, doubt = inputs.get("difficulty"), inputs.get("doubt")
            loss = self.weighting(task, distill, x, progress, doubt).loss
        return (loss.mean(), outputs) if return_outputs else loss.mean()
