"""The learn step of a run, by one process or several: fitting, or applying a finished model, and the permutations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from phewas import launch
from phewas.plan import Plan

if TYPE_CHECKING:
    from phewas.learning.step import Learn

END = "end"  # to the processes that take part in learning: there is no more


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Tell the other processes, where there are any, when all is done."""
    if not launch.several():
        yield
        return
    from phewas.learning import distributed

    group = distributed.join()
    yield  # after an error they are not told: whoever started them ends them
    group.told(END)
    distributed.leave()


def follow(made: Plan) -> None:
    """Take part in learning whenever the first process comes to it."""
    from phewas.learning import distributed
    from phewas.learning.step import learn

    group = distributed.join()
    while (word := group.told("")) != END:
        learn(job(made, word))
    distributed.leave()


def learn(made: Plan, fingerprint: str) -> None:
    """Do the step: write ``model/`` and ``predictions/``."""
    from phewas.cohorts import heldout

    if made.model is not None:
        from phewas.learning.apply import apply

        heldout.verify(made.out)
        apply(
            made.out, made.model, spec=made.spec, device=made.device, fingerprint=fingerprint,
            settings=made.config.learn,
        )  # fmt: skip
        return
    from phewas.learning.step import learn as fit_and_score
    from phewas.learning.step import shuffled
    from phewas.progress import progress
    from phewas.schema import PermutationNull
    from phewas.stats import crossfit

    heldout.verify(made.out)
    config = made.config
    if launch.several():
        from phewas.learning import distributed

        distributed.join().told(fingerprint)  # the others begin
    frozen = fit_and_score(job(made, fingerprint))
    if frozen is None:
        return

    def permute(number: int) -> Any:
        return crossfit.permute_labels(frozen.labels, frozen.patients, seed=config.seed, permutation=number)

    with progress("permutations", total=config.learn.permutations, unit="permutations") as advance:

        def counted() -> Iterator[Any]:
            for item in shuffled(frozen, permute, permutations=config.learn.permutations):
                yield item
                advance(1, "")

        null = crossfit.null_from(counted(), phenotypes=frozen.phenotypes, folds=frozen.folds, clusters=frozen.patients)
    PermutationNull.write(null, made.out)


def job(made: Plan, fingerprint: str) -> Learn:
    """Return what the learning room is told."""
    from phewas.learning.step import Learn

    config = made.config
    return Learn(
        run=made.out,
        spec=made.spec,
        weights=made.weights,
        kind=made.fit,
        config=config.learn,
        minimum=config.evaluate.min_train_case_patients,
        minimum_tested=config.evaluate.min_case_patients,
        seed=config.seed,
        device=made.device,
        fingerprint=fingerprint,
        about={
            "cohort": made.source.card.name,
            "weights": made.weights_sha256,
            "pretrained": made.pretrained,
            "code": made.spec.code,
            "window_s": made.window_s,
        },
    )
