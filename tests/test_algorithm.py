"""The base of every method, on learners of a few numbers whose steps are known by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm, Stage
from marlzoo.batch import Batch
from marlzoo.config import Config, Positive
from marlzoo.errors import CheckpointError, ConfigError, SpecError
from marlzoo.modules.policies import (
    LOG_STD_BOUNDS,
    Policy,
    categorical_log_prob,
    mask_logits,
    tanh_gaussian_log_prob,
)
from marlzoo.replicas import Init
from marlzoo.spec import Spec

BOX = Spec(2, 3, 5, "continuous", 2, 9, action_sizes=(1, 2))
CHOICE = Spec(2, 3, 5, "discrete", 4, 9)


@dataclass(frozen=True)
class PairConfig(Config):
    """Two step sizes."""

    lr: Positive = 0.1
    slow_lr: Positive = 0.01


class Numbers(nn.Module):
    """Two numbers per replica, and no input."""

    def __init__(self, init: Init) -> None:
        super().__init__()
        self.value = init.constant(1.0, 2)


class Pair(Algorithm):
    """Two groups of two numbers."""

    config_class = PairConfig
    actions = ("continuous", "discrete")
    fields: tuple[str, ...] = ("obs", "action", "action_mask", "next_action_mask")

    def build(self, spec: Spec) -> None:
        """A fast and a slow group; the slow one's rows step on their own."""
        self.fast, self.slow = Numbers(self.init), Numbers(self.init)
        self.target = self.make_target(self.fast)
        self.add_optimizer(fast=self.fast)
        self.add_optimizer({"slow": "slow_lr"}, eps=1.0, rows={"slow": (2,)}, slow=self.slow)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def policy(self) -> Policy:
        """None."""
        raise NotImplementedError

    def stages(self) -> tuple[Stage, ...]:
        """Three parts."""
        names = (("model", 2), ("critic", 3), ("policy", 0))
        return tuple(Stage(name, self.update, updates) for name, updates in names)


def pair(spec: Spec = BOX, seeds: tuple[int, ...] = (0, 1), **settings: Any) -> Pair:
    """Replica r has the r-th value of every setting that is given as a list."""
    configs = [
        PairConfig(**{k: v[r] if isinstance(v, list) else v for k, v in settings.items()})
        for r in range(len(seeds))
    ]
    return Pair(spec, seeds, configs, dtype=torch.float64)


def f64(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-6, atol=1e-6)


def test_what_a_learner_is() -> None:
    made = pair()
    assert (made.name, made.replicas, made.fields) == ("test_algorithm", 2, ("obs", "action"))
    assert pair(CHOICE).fields == Pair.fields
    assert made.action_dimensions.tolist() == [[1.0, 0.0], [1.0, 1.0]]
    shown = repr(pair(lr=[0.1, 0.2]))
    assert "seeds=[0, 1]" in shown
    assert "lr=[0.1, 0.2]" in shown
    assert "slow_lr=0.01" in shown
    with pytest.raises(SpecError, match=r"test_algorithm: spec must be a marlzoo\.Spec, got dict"):
        pair(BOX.to_dict())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="2 seeds for 1 configurations"):
        Pair(BOX, (0, 1), [PairConfig()])
    with pytest.raises(ConfigError, match="0 seeds for 0 configurations"):
        pair(seeds=())
    with pytest.raises(ConfigError, match=r"replicas differ in 'batch_size'.*\(\[8, 9\]\)"):
        pair(batch_size=[8, 9])

    class Discrete(Pair):
        actions = ("discrete",)

    with pytest.raises(SpecError, match="handles discrete actions, but this task's are continuous"):
        Discrete(BOX, (0,), [PairConfig()])


def test_settings_of_every_replica() -> None:
    made = pair(lr=[0.1, 0.2], gamma=[0.9, 0.5])
    close(made.hyperparameter("gamma"), f64(0.9, 0.5))
    close(made.hyperparameter("lr", 3), f64([[0.1]], [[0.2]]))


def test_stages_follow_each_other() -> None:
    made, names = pair(), list[str]()
    for made.updates in range(7):
        names.append(made.stage.name)
    assert names == ["model"] * 2 + ["critic"] * 3 + ["policy"] * 2


def test_every_group_steps_down_its_own_loss_by_its_own_step_size() -> None:
    """Adam's first step is the step size times g / (|g| + eps), whatever its decays are."""
    made = pair(lr=[0.1, 0.2], slow_lr=[0.3, 0.4], grad_clip=[float("inf"), 2.0])
    both = made.fast.value * made.slow.value
    norms = made.step(fast=(both * f64(3.0, 4.0)).sum(-1), slow=-both.sum(-1))
    close(norms["grad_norm/fast"], f64(5.0, 5.0))  # before clipping
    close(norms["grad_norm/slow"], f64(2.0**0.5, 2.0**0.5))
    close(made.fast.value, f64([0.9, 0.9], [0.8, 0.8]))
    close(made.slow.value, f64([1.15, 1.15], [1.2, 1.2]))  # its eps is 1


def test_gradients_are_clipped_per_replica() -> None:
    made = pair(slow_lr=1.0, grad_clip=[float("inf"), 1.0])
    made.step(slow=(made.slow.value * f64(3.0, 4.0)).sum(-1))
    close(made.slow.value, 1.0 - f64([3 / 4, 4 / 5], [0.6 / 1.6, 0.8 / 1.8]))


def test_losses_are_summed_over_replicas() -> None:
    made = pair()
    assert made.step(fast=made.fast.value.sum(-1))["grad_norm/fast"].tolist() == [2.0**0.5] * 2


def test_step_sizes_are_scaled_from_their_settings() -> None:
    made = pair(lr=[0.1, 0.2], slow_lr=0.5)
    for factor in (0.5, 0.25):
        made.scale_learning_rates(f64(factor)[0])
    close(made._optimizers["fast"].lr, f64(0.025, 0.05))
    close(made._optimizers["slow"].lr, f64(0.125, 0.125))


def test_a_step_without_effect() -> None:
    made = pair()
    before = {name: value.clone() for name, value in made.state_tensors().items()}
    made.step_if(torch.tensor(False), fast=made.fast.value.sum(-1))
    rows = torch.tensor([[True, False], [False, False]])
    made.step_if(rows, slow=made.slow.value.sum(-1))
    after = made.state_tensors()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {f"optimizer.slow.{name}" for name in ("count", "first.0", "second.0")} | {"slow.value"}
    assert (after["slow.value"] != 1.0).tolist() == rows.tolist()
    assert made.due("slow", 1).tolist() == [[True, True], [True, True]]
    assert made.due("slow", 2, ahead=1).tolist() == [[True, False], [False, False]]


def test_targets_follow() -> None:
    made = pair()
    assert not made.target.value.requires_grad
    assert made.fast.value.requires_grad
    made.fast.value.data.copy_(f64([3.0, 5.0], [3.0, 5.0]))
    made.soft_update(made.target, made.fast, f64(0.5, 0.25))
    close(made.target.value, f64([2.0, 3.0], [1.5, 2.0]))
    made.soft_update(made.target, made.fast, 0.5)
    close(made.target.value, f64([2.5, 4.0], [2.25, 3.5]))
    made.soft_update(nn.Identity(), nn.Identity(), 0.5)  # a sum in a mixer's place has nothing to move
    made.hard_update(made.target, made.fast, 0, f64(0.0, 1.0), "fast")
    close(made.target.value, f64([2.5, 4.0], [3.0, 5.0]))
    followed = []
    for step in range(1, 5):
        made.step(fast=made.fast.value.sum(-1))
        made.fast.value.data.fill_(10.0 * step)
        made.hard_update(made.target, made.fast, 2, f64(0.1, 0.1), "fast")
        followed.append(made.target.value[0, 0].item())
    assert followed == [2.5, 20.0, 20.0, 40.0]
    assert [bool(made.due("fast", period)) for period in (1, 2, 3, 4)] == [True, True, False, True]
    assert made.due("fast", 3, made=2)  # the third of four steps
    assert not made.due("fast", 4, made=0)
    assert made.due("fast", 3, ahead=2)
    before = made.steps_made("fast")
    for _ in range(3):
        made.step(fast=made.fast.value.sum(-1))
    made.hard_update(made.target, made.fast, 5, f64(0.1, 0.1), "fast", made=3)  # the fifth of seven steps
    assert torch.equal(made.target.value, made.fast.value)
    assert [int(before), int(made.steps_made("fast"))] == [4, 7]


class Drawn(Pair):
    """A group whose start is drawn."""

    def build(self, spec: Spec) -> None:
        super().build(spec)
        self.fast.value = self.init.uniform(1.0, 2)


def test_a_replica_starts_from_its_own_seed() -> None:
    """As it would alone, and unlike one of another seed."""
    starts = [Drawn(BOX, seeds, [PairConfig()] * len(seeds)).fast.value for seeds in ((0, 1, 0), (0,), (1,))]
    assert torch.equal(starts[0], torch.cat((starts[1], starts[2], starts[1])))
    assert not torch.equal(starts[1], starts[2])


def test_only_what_is_finite_has_not_diverged() -> None:
    made = pair(seeds=(0, 1, 2))
    made.slow.value.data[1, 0] = torch.nan
    assert made.finite().tolist() == [True, False, True]


def test_states_come_back_whole_or_not_at_all() -> None:
    made, other = pair(), pair()
    made.step(fast=made.fast.value.sum(-1), slow=made.slow.value.sum(-1))
    state = {name: value.clone() for name, value in made.state_tensors().items()}
    assert {"optimizer.fast.count", "optimizer.slow.second.0", "target.value"} <= state.keys()
    other.load_state_tensors(state)
    for name, value in other.state_tensors().items():
        assert torch.equal(value, state[name]), name
    for wrong, text in (
        ({name: value for name, value in state.items() if name != "fast.value"}, r"missing \['fast.value'\]"),
        ({**state, "x": f64(1.0)}, r"not known \['x'\]"),
        ({**state, "fast.value": f64([1.0, 1.0])}, r"fast.value is \[1, 2\] there and \[2, 2\] here"),
    ):
        with pytest.raises(CheckpointError, match=text):
            other.load_state_tensors(wrong)


def test_likelihood_of_the_datas_actions() -> None:
    """Padding has no density, illegal actions no probability, and a sequence's final row no action."""
    made, source = pair(), torch.Generator().manual_seed(0)
    mean, log_std, action = torch.randn(3, 2, 4, 2, 2, generator=source, dtype=torch.float64)
    batch = Batch.of(action=action.tanh())
    found = made.data_log_prob((mean, log_std), batch)
    close(found, tanh_gaussian_log_prob(mean, log_std, batch.action, made.action_dimensions))
    wide = made.data_log_prob(torch.cat((mean, 9.0 * log_std), -1), batch)  # one tensor, not clipped yet
    clipped = (9.0 * log_std).clamp(*LOG_STD_BOUNDS)
    assert not torch.equal(clipped, 9.0 * log_std)
    close(wide, tanh_gaussian_log_prob(mean, clipped, batch.action, made.action_dimensions))
    edge = Batch.of(action=torch.ones(2, 4, 2, 2, dtype=torch.float64))
    margins = pair(bound_margin=[0.0, 0.01]).data_log_prob((mean, log_std), edge)
    close(margins[0], made.data_log_prob((mean, log_std), edge)[0])
    assert (margins[1] <= 0.0).all()  # probabilities of tails

    made = pair(CHOICE)
    logits = torch.randn(2, 4, 6, 2, 4, generator=source, dtype=torch.float64)
    legal = torch.rand(2, 4, 7, 2, 4, generator=source) < 0.5
    legal[..., 2] = True
    taken = torch.full((2, 4, 6, 2), 2)
    plain = categorical_log_prob(logits, taken)
    close(made.data_log_prob(logits, Batch.of(action=taken)), plain)
    masked = categorical_log_prob(mask_logits(logits, legal[:, :, :6]), taken)
    close(made.data_log_prob(logits, Batch.of(action=taken, action_mask=legal[:, :, :6])), masked)
    sequence = Batch.of(action=taken, action_mask=legal, filled=torch.ones(2, 4, 6))
    close(made.data_log_prob(logits, sequence), masked)
    assert not torch.allclose(plain, masked)
