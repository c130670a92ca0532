"""Ridge-penalised logistic regressions of many phenotypes on the same features, all at once.

Features are rotated to the axes in which they are uncorrelated. There, the curvature of every phenotype's loss is
nearly diagonal, so that one division per phenotype stands in for the inverse of its Hessian, and a limited-memory
quasi-Newton method (Nocedal 1980) with that start needs 10 to 30 passes over the data. A pass is two matrix products
for a block of phenotypes at a time, which runs at the speed of the processor or the GPU, in bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float64]

BLOCK_PHENOTYPES = {"cpu": 128, "cuda": 1024}
BLOCK_ENTRIES = {"cpu": 262_144, "cuda": 33_554_432}
BLOCK_ROWS = {"cpu": 2048, "cuda": 65_536}  # on a processor, what stays in its cache between the two products
MEMORY = 8  # past steps that shape the next one
MAX_ITERATIONS = 300
HALVINGS = 25
TOLERANCE = 1e-5  # of a quasi-Newton step, against the largest coefficient
LEAST_SHARE = 1e-7  # of the largest variance; axes below it are rounding, in float32
STALLED = 5  # steps in a row that lower the loss by no more than its rounding
SMALL = 4_000_000  # numbers of a feature matrix up to which double precision costs nothing worth saving


@dataclass(frozen=True)
class Axes:
    """Standardised features on their principal axes.

    `z` [rows, axes]; `rotation` [features, axes]; `variance` [axes], sums of squares of `z`. float64 for a small matrix
    on a processor, else float32.
    """

    z: Tensor
    rotation: Tensor
    variance: Tensor

    @classmethod
    def of(cls, x: Floats, device: torch.device) -> Axes:
        """Rotate features [rows, features] whose columns have mean zero. Axes without variance are left out."""
        kind = torch.float64 if x.size <= SMALL and device.type == "cpu" else torch.float32
        features = torch.from_numpy(np.ascontiguousarray(x)).to(kind).to(device)
        gram = torch.zeros((x.shape[1], x.shape[1]), dtype=torch.float64, device=device)
        for part in torch.split(features, BLOCK_ROWS["cuda"]):
            gram += (part.T @ part).double()
        values, vectors = torch.linalg.eigh(gram)
        kept = values > LEAST_SHARE * values[-1].clamp(min=1e-30)
        rotation = vectors[:, kept].to(kind)
        z = torch.cat([part @ rotation for part in torch.split(features, BLOCK_ROWS["cuda"])])
        return cls(z, rotation, values[kept].to(kind))


def solve(
    axes: Axes, labels: NDArray[np.int8], *, l2: Floats, start: tuple[Floats, Floats] | None = None
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Minimise ``sum(cross-entropy over known entries) + l2 / 2 * |weight|^2`` for each phenotype.

    Parameters
    ----------
    axes
        The features.
    labels
        int8 [rows, phenotypes]: 1 case, 0 control, -1 excluded; each phenotype has a case and a control.
    l2
        float64 [phenotypes], above 0.
    start
        Weights [features, phenotypes] and biases [phenotypes] to begin at, such as those of a stronger penalty.

    Returns
    -------
    weight, bias, converged
        float64 [features, phenotypes] and [phenotypes], for the features as they were before the rotation; bool
        [phenotypes], whether `TOLERANCE` was met within `MAX_ITERATIONS`.
    """
    device = axes.z.device
    # Few rows: as many phenotypes at once as keep the block of that size.
    size = max(BLOCK_PHENOTYPES.get(device.type, 256), BLOCK_ENTRIES.get(device.type, 262_144) // max(1, len(labels)))
    weights, biases, flags = [], [], []
    for at in range(0, labels.shape[1], size):
        part = slice(at, at + size)
        kind = axes.z.dtype
        beta = torch.zeros((axes.z.shape[1] + 1, len(l2[part])), device=device, dtype=kind)
        block = _Block.of(axes, labels[:, part], torch.from_numpy(l2[part]).to(device, kind))
        beta[-1] = block.log_odds
        if start is not None:
            beta[:-1] = axes.rotation.T @ torch.from_numpy(start[0][:, part]).to(device, kind)
            beta[-1] = torch.from_numpy(start[1][part]).to(device, kind)
        found, converged = _minimised(block, beta)
        weights.append((axes.rotation.double() @ found[:-1].double()).cpu().numpy())
        biases.append(found[-1].double().cpu().numpy())
        flags.append(converged.cpu().numpy())
    return np.concatenate(weights, axis=1), np.concatenate(biases), np.concatenate(flags)


@dataclass
class _Block:
    """Some phenotypes: what their loss and its gradient are computed from."""

    z: Tensor
    target: Tensor
    known: Tensor
    l2: Tensor
    curvature: Tensor
    log_odds: Tensor

    @classmethod
    def of(cls, axes: Axes, labels: NDArray[np.int8], l2: Tensor) -> _Block:
        device = axes.z.device
        y = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
        known, target = (y >= 0).to(axes.z.dtype), (y == 1).to(axes.z.dtype)
        n, cases = known.sum(0), target.sum(0)
        share = cases / n
        spread = share * (1 - share)
        # What the Hessian would be if every row had the prevalence for a probability and none were excluded.
        curvature = axes.variance[:, None] * (spread * n / len(y)) + l2
        log_odds = torch.log(cases / (n - cases))
        return cls(axes.z, target, known, l2, torch.cat([curvature, (spread * n)[None]]), log_odds)

    def only(self, columns: Tensor) -> _Block:
        """Return some of the phenotypes."""
        return _Block(
            self.z, self.target[:, columns], self.known[:, columns], self.l2[columns], self.curvature[:, columns],
            self.log_odds[columns],
        )  # fmt: skip

    def loss_and_gradient(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Return float64 [phenotypes], and [axes + 1, phenotypes], in one pass over the rows."""
        weight, bias = beta[:-1], beta[-1]
        loss = (0.5 * self.l2 * weight.square().sum(0)).double()
        gradient = torch.empty_like(beta)
        gradient[:-1] = self.l2 * weight
        gradient[-1] = 0
        rows = BLOCK_ROWS.get(self.z.device.type, 8192)
        for z, target, known in zip(
            torch.split(self.z, rows), torch.split(self.target, rows), torch.split(self.known, rows), strict=True
        ):
            logits = torch.addmm(bias, z, weight)
            each = functional.binary_cross_entropy_with_logits(logits, target, weight=known, reduction="none")
            loss += each.sum(0)
            residual = logits.sigmoid_().sub_(target).mul_(known)
            gradient[:-1].addmm_(z.T, residual)
            gradient[-1] += residual.sum(0)
        return loss, gradient


def _minimised(block: _Block, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise all columns together; one that has converged is left alone."""
    result, done = beta.clone(), torch.zeros(beta.shape[1], dtype=torch.bool, device=beta.device)
    active = torch.arange(beta.shape[1], device=beta.device)
    loss, gradient = block.loss_and_gradient(beta)
    past, stalled = _Past(), torch.zeros_like(active)
    rounding = 1e-7 if beta.dtype == torch.float32 else 1e-14
    for _ in range(MAX_ITERATIONS):
        step = -past.times_inverse(gradient, block.curvature)
        ended = step.abs().amax(0) <= TOLERANCE * (1 + beta.abs().amax(0))
        if ended.any():
            result[:, active[ended]], done[active[ended]] = beta[:, ended] + step[:, ended], True
            stay = torch.nonzero(~ended).flatten()
            if not len(stay):
                return result, done
            block, active, past = block.only(stay), active[stay], past.only(stay)
            beta, step, gradient, loss = beta[:, stay], step[:, stay], gradient[:, stay], loss[stay]
            stalled = stalled[stay]
        before = loss
        beta, loss, gradient = _searched(block, beta, step, loss, gradient, past)
        stalled = torch.where(before - loss > rounding * loss, 0, stalled + 1)
        if (stalled >= STALLED).any():
            # Steps no longer lower the loss by more than its rounding: this is the minimum as far as can be told.
            stuck = stalled >= STALLED
            result[:, active[stuck]], done[active[stuck]] = beta[:, stuck], True
            stay = torch.nonzero(~stuck).flatten()
            if not len(stay):
                return result, done
            block, active, past = block.only(stay), active[stay], past.only(stay)
            beta, gradient, loss, stalled = beta[:, stay], gradient[:, stay], loss[stay], stalled[stay]
    result[:, active] = beta
    return result, done


def _searched(
    block: _Block, beta: Tensor, step: Tensor, loss: Tensor, gradient: Tensor, past: _Past
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the longest step of 1, 1/2, 1/4 ... that lowers the loss enough (Armijo), in each column for itself."""
    slope = (gradient * step).sum(0).double()
    slack = (1e-7 if beta.dtype == torch.float32 else 1e-14) * loss.abs()  # its rounding
    new, new_loss, new_gradient = beta + step, loss.clone(), gradient.clone()
    waiting, length = torch.arange(len(loss), device=beta.device), 1.0
    for _ in range(HALVINGS):
        part = block if len(waiting) == len(loss) else block.only(waiting)
        trial = beta[:, waiting] + length * step[:, waiting]
        trial_loss, trial_gradient = part.loss_and_gradient(trial)
        enough = trial_loss <= loss[waiting] + 1e-4 * length * slope[waiting] + slack[waiting]
        good = waiting[enough]
        new[:, good], new_gradient[:, good] = trial[:, enough], trial_gradient[:, enough]
        new_loss[good] = trial_loss[enough]
        waiting, length = waiting[~enough], length / 2
        if not len(waiting):
            break
    new[:, waiting] = beta[:, waiting]
    past.add(new - beta, new_gradient - gradient)
    return new, new_loss, new_gradient


class _Past:
    """The last steps and what they did to the gradient, of each column."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Tensor, change: Tensor) -> None:
        """Take note of a step; a column in which the loss curved downwards keeps nothing of it."""
        curved = (step * change).sum(0)
        good = curved > 1e-10 * step.norm(dim=0) * change.norm(dim=0)
        rho = torch.where(good, 1 / torch.where(good, curved, 1.0), 0.0)
        self.pairs = [*self.pairs[-(MEMORY - 1) :], (step, change, rho)]

    def only(self, columns: Tensor) -> _Past:
        """Keep some of the columns."""
        twin = _Past()
        twin.pairs = [(s[:, columns], y[:, columns], r[columns]) for s, y, r in self.pairs]
        return twin

    def times_inverse(self, gradient: Tensor, curvature: Tensor) -> Tensor:
        """Return the approximate inverse Hessian times the gradient (the two-loop recursion)."""
        q, alphas = gradient.clone(), []
        for step, change, rho in reversed(self.pairs):
            alpha = rho * (step * q).sum(0)
            q -= alpha * change
            alphas.append(alpha)
        q /= curvature
        for (step, change, rho), alpha in zip(self.pairs, reversed(alphas), strict=True):
            q += (alpha - rho * (change * q).sum(0)) * step
        return q

