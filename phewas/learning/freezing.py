"""Which layers of an encoder are trained in an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from phewas.config import LearnConfig


@dataclass(frozen=True)
class Layer:
    """A layer of an encoder: modules, and parameters that belong to none of its modules."""

    name: str
    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...]

    def train(self, *, on: bool) -> None:
        """Train it, or hold its parameters and the statistics of its normalisation."""
        for parameter in self.parameters:
            parameter.requires_grad_(on)
        for module in self.modules:
            module.train(on)


def layers(encoder: nn.Module) -> list[Layer]:
    """Return an encoder's layers from the input on: its parts in the order in which it names them, lists taken apart.

    Normalisation right after a layer belongs to it, as do parts without parameters; parameters that the encoder holds
    itself (such as a class token) belong to the first.
    """
    found: list[tuple[str, list[nn.Module]]] = []

    def walk(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList | nn.Sequential):
                walk(child, f"{prefix}{name}.")
                continue
            norm = "Norm" in type(child).__name__ or isinstance(child, nn.modules.batchnorm._BatchNorm)
            if found and (norm or not any(True for _ in child.parameters())):
                found[-1][1].append(child)
            else:
                found.append((f"{prefix}{name}", [child]))

    walk(encoder, "")
    own = tuple(encoder.parameters(recurse=False))
    if not found:
        return [Layer("all", (), own)] if own else []
    result = []
    for place, (name, modules) in enumerate(found):
        parameters = tuple(p for m in modules for p in m.parameters())
        result.append(Layer(name, tuple(modules), (own if place == 0 else ()) + parameters))
    return result


def frozen_count(epoch: int, n_layers: int, config: LearnConfig) -> int:
    """Return how many layers, from the input on, are held in an epoch (0-based).

    All in the first `frozen_epochs`; then, with `unfreeze_every_epochs`, all but one, and one fewer after each further
    interval; never fewer than `frozen_layers`.
    """
    if epoch < config.frozen_epochs:
        return n_layers
    if config.unfreeze_every_epochs is None:
        return min(config.frozen_layers, n_layers)
    freed = 1 + (epoch - config.frozen_epochs) // config.unfreeze_every_epochs
    return min(n_layers, max(config.frozen_layers, n_layers - freed))


def set_training(encoder: nn.Module, epoch: int, config: LearnConfig) -> None:
    """Put an encoder into training mode, but for the layers that are held in this epoch."""
    encoder.train()
    parts = layers(encoder)
    held = frozen_count(epoch, len(parts), config)
    for place, layer in enumerate(parts):
        layer.train(on=place >= held)
