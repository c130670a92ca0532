"""Losses over three-state labels: 1 case, 0 control, -1 excluded, which costs nothing and has no gradient.

A loss is a sum over entries divided by a number that the caller knows for the whole batch, so that a batch may be cut
into parts, or shared by several devices, and the gradients of the parts add up to those of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from phewas.config import LearnConfig


def masked_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the mean cross-entropy over entries that are case or control.

    Parameters
    ----------
    logits
        float [segments, phenotypes].
    labels
        int8 [segments, phenotypes]: 1 case, 0 control, -1 excluded (no loss, no gradient).
    weights
        float [segments]: 1 / segments of the encounter in the batch, so that each encounter counts once.
    """
    known = (labels >= 0).float() * weights[:, None]
    entries = functional.binary_cross_entropy_with_logits(logits.float(), labels.clamp(min=0).float(), reduction="none")
    return (entries * known).sum() / known.sum().clamp(min=1e-12)


@dataclass(frozen=True)
class Criterion:
    """A masked loss with the class weighting asked for.

    Parameters
    ----------
    kind
        ``plain``; ``positive_weight``: a case counts `case_weight` times; ``logit_adjustment``: `shift` is added to the
        logits in training only (Menon et al., ICLR 2021), so that the model's own logits are free of the prevalence;
        ``focal``: an entry counts ``(1 - probability of its label) ** gamma`` times (Lin et al., ICCV 2017).
    case_weight, shift
        float [phenotypes].
    gamma
        At least 0; 0 is the plain loss.

    Notes
    -----
    AUCs are within a phenotype, where a shift of all logits changes nothing; the weightings matter through the encoder
    that the phenotypes share. All but ``plain`` give logits whose probabilities are not the prevalences.
    """

    kind: str
    case_weight: Tensor
    shift: Tensor
    gamma: float

    @classmethod
    def of(cls, config: LearnConfig, labels: Tensor) -> Criterion:
        """Return the loss for training labels int8 [encounters, phenotypes], whose prevalences it takes."""
        log_odds = prevalence_log_odds(labels)
        return cls(
            config.loss,
            torch.exp(-log_odds).clamp(min=1.0, max=config.positive_weight_cap),
            config.adjustment_strength * log_odds,
            config.focal_gamma,
        )

    def to(self, device: torch.device) -> Criterion:
        """Return the same on a device."""
        return Criterion(self.kind, self.case_weight.to(device), self.shift.to(device), self.gamma)

    def start(self, labels: Tensor) -> Tensor:
        """Return the head's first biases float [phenotypes]: training starts at no skill, whatever the loss."""
        log_odds = prevalence_log_odds(labels)
        match self.kind:
            case "logit_adjustment":
                return log_odds - self.shift
            case "positive_weight":
                return log_odds + self.case_weight.log()
            case _:
                return log_odds

    def total(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of entries.

        Parameters
        ----------
        logits
            float [rows, phenotypes]; computed in float32 whatever their type.
        labels
            int8 [rows, phenotypes].
        weights
            float [rows], such as one over the segments of the encounter.

        Returns
        -------
        Tensor
            float32 scalar. Divide by the number of known entries of the whole batch, each encounter counted once.
        """
        logits = logits.float()
        if self.kind == "logit_adjustment":
            logits = logits + self.shift
        target = labels.clamp(min=0).float()
        case_weight = self.case_weight if self.kind == "positive_weight" else None
        entries = functional.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=case_weight)
        if self.kind == "focal":
            # 1 - probability of the label, in a form that does not lose small values.
            entries = entries * torch.sigmoid(logits * (1 - 2 * target)) ** self.gamma
        return (entries * (labels >= 0) * weights[:, None]).sum()


def prevalence_log_odds(labels: Tensor) -> Tensor:
    """Return the log odds of each phenotype's prevalence, float32 [phenotypes].

    `labels` are int8 [encounters, phenotypes]. Half a case and half a control are added, so that the result is finite.
    """
    cases, known = (labels == 1).sum(0).double(), (labels >= 0).sum(0).double()
    return torch.logit((cases + 0.5) / (known + 1)).float()
