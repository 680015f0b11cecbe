"""What a GPU would refuse, found without one: every method on tensors of another device than the CPU.

Torch's "meta" device has shapes and no values: an operation that mixes it with the CPU fails, or ends on the CPU, and
fetching a value fails.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.registry import find_method, method_names
from marlzoo.replicas import PrefetchedRandom
from marlzoo.testing.cases import Case, cases
from marlzoo.training.trainer import make_sampler, prepare

CASES = [case for name in method_names() if find_method(name).sampling != "online" for case in cases(name)]
ELSEWHERE = torch.device("meta")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, case: Case) -> Algorithm:
    """A learner on the other device."""
    with monkeypatch.context() as patch:
        # Optimizers ask once, when they are made, whether they clip.
        patch.setattr(torch, "isinf", lambda _: torch.zeros(1))
        return case.learner((0, 1), device=ELSEWHERE)


def there(tensors: dict[str, Tensor]) -> bool:
    """Whether all of them are on the other device."""
    return {name for name, tensor in tensors.items() if tensor.device != ELSEWHERE} == set()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_updates_and_policies_stay_on_their_device(case: Case, elsewhere: Algorithm) -> None:
    """An update mixes no devices and fetches no value; neither does acting."""
    data, learner, spec = case.dataset(), elsewhere, elsewhere.spec
    prepare(learner, [data])
    assert there(learner.state_tensors())
    batch = make_sampler(case.learner((0, 1)), [data]).next()
    for name, value in batch.tensors().items():
        setattr(batch, name, value.to(ELSEWHERE))
    batch.noise = {name: value.to(ELSEWHERE) for name, value in batch.noise.items()}
    for stage in learner.stages():
        assert there(learner.update(batch))
        assert there(learner.state_tensors())
        learner.updates += stage.updates
    policy, num_envs = learner.policy(), (2, 3, spec.n_agents)
    random = PrefetchedRandom([0, 1], "act", ELSEWHERE, learner.dtype) if policy.stochastic else None
    obs = torch.zeros(*num_envs, spec.obs_size, device=ELSEWHERE, dtype=learner.dtype)
    action_mask = torch.ones(*num_envs, spec.action_size, device=ELSEWHERE, dtype=torch.bool)
    policy.reset(3)
    with torch.no_grad():
        for _ in range(2):  # the second step reads a recurrent policy's memory
            assert policy.act(obs, action_mask if spec.discrete else None, random).device == ELSEWHERE


@pytest.mark.parametrize(
    "case",
    [Case("omiga", "discrete"), Case("td3_bc", "continuous", {"history": "rnn", "sequence_length": 6})],
    ids=str,
)
def test_batches_are_gathered_on_the_device(case: Case, elsewhere: Algorithm) -> None:
    sampler = make_sampler(elsewhere, [case.dataset()])
    rows, noise = sampler.draw()
    assert rows.device == sampler.store.device == ELSEWHERE
    assert there({**noise, **sampler.gather(rows, noise).tensors()})
