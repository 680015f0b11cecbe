"""The updates of a training, one after another: stages as they come, and those that replicas share trained once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler
from marlzoo.method_faults import require_metrics, told, untraceable
from marlzoo.training.compilation import Compile, make_training_step
from marlzoo.training.shared_stage import SharedStage, kinds


class Steps:
    """Trains to the last update; iterating gives the metrics of each, when it has been counted.

    The learner's own state is that of the updates counted only after :meth:`spread`.

    Args:
        learner: R replicas.
        sampler: of their batches.
        datasets: one for all, or one per replica.
        part: makes a learner of some of the replicas, and its sampler.
        compile: see :func:`marlzoo.training.compilation.make_update`.
        updates: to train to.
        log: called with a one-line message where replicas share a stage.
    """

    def __init__(
        self,
        learner: Algorithm,
        sampler: Sampler,
        datasets: Sequence[Dataset],
        part: Callable[[Sequence[int]], tuple[Algorithm, Sampler]],
        compile: Compile,  # noqa: A002
        updates: int,
        log: Callable[[str], None],
    ) -> None:
        self.learner = learner
        self.sampler = sampler
        self._datasets = datasets
        self._part = part
        self._compile: Compile = compile
        self._updates = updates
        self._log = log
        self._shared: SharedStage | None = None

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        learner = self.learner
        stage = ""
        while learner.updates < self._updates:
            if learner.stage.name != stage:
                stage = learner.stage.name
                self.spread()
                self._shared = self._share()
                trained = self._shared or self
                step = make_training_step(
                    trained.learner, trained.sampler, self._compile, self._updates, self._log
                )
                first = True
            try:
                metrics = step()
            except Exception as error:
                fault = _fault(trained.learner, trained.sampler, error)
                if fault is error:
                    raise
                raise fault from error
            if first:
                require_metrics(trained.learner, metrics)
                first = False
            learner.updates += 1
            yield self._shared.count(metrics) if self._shared else metrics

    def spread(self) -> None:
        """Let the learner and its sampler have the state that the updates have reached."""
        if self._shared:
            self._shared.spread()

    def _share(self) -> SharedStage | None:
        learner = self.learner
        firsts = kinds(learner, self._datasets)
        alone = len(set(firsts))
        if alone == learner.replicas:
            return None
        self._log(
            f"{learner.name}: the stage '{learner.stage.name}' is trained once for {alone} of "
            f"{learner.replicas} runs, which share it"
        )
        return SharedStage(learner, self.sampler, self._part, firsts)


def _fault(learner: Algorithm, sampler: Sampler, error: Exception) -> Exception:
    """What to raise for an update that failed; the learner is lost."""
    if not type(error).__module__.startswith("torch._dynamo"):
        return told(type(learner), error, "update", learner)
    try:  # the compiler hides the method's own mistakes behind its words
        require_metrics(learner, learner.stage.update(sampler.next()))
    except Exception as plain:
        return told(type(learner), plain, "update", learner)
    return untraceable(learner, error)
