"""SMAX: sizes without jax; battles where jaxmarl is installed (the battery by listing tests the rest)."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from marlzoo.envs import smax
from marlzoo.errors import ConfigError, MissingExtraError, SpecError, UnknownNameError

# Agents, enemies, observation, state, actions.
SIZES = {
    "3m": (3, 3, 75, 72, 8),
    "2s3z": (5, 5, 127, 120, 10),
    "5m_vs_6m": (5, 6, 140, 132, 11),
    "6h_vs_8z": (6, 8, 179, 168, 13),
    "3s5z_vs_3s6z": (8, 9, 218, 204, 14),
    "corridor": (6, 24, 387, 360, 29),
    "smacv2_5_units": (5, 5, 127, 120, 10),
}


def test_listing_needs_no_jax() -> None:
    code = (
        "import sys; sys.modules['jax'] = None; from marlzoo.envs import smax as m;"
        "[m.spec(t) for t in m.TASKS]; print('jaxmarl' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name: str) -> None:
    spec = smax.spec(name)
    found = (spec.n_agents, smax.MAPS[name][1], spec.obs_size, spec.state_size, spec.action_size)
    assert found == SIZES[name]
    assert spec.horizon == 100


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    monkeypatch.setitem(sys.modules, "jaxmarl.environments.smax", None)
    smax._compiled.cache_clear()
    with pytest.raises(MissingExtraError, match=r'-m pip install "jaxmarl[<>]'):
        smax.make("3m", 1)


def test_what_jaxmarl_prints_when_it_is_imported_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    """It would stand before the JSON of commands."""
    streams = sys.stdout, sys.stderr, sys.__stdout__
    with smax._silent():
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # as its module mabrax does
        print("shown")
    sys.__stdout__.flush()  # type: ignore[union-attr]
    assert capfd.readouterr().out == ""
    assert (sys.stdout, sys.stderr, sys.__stdout__) == streams


def test_bad_names_and_options() -> None:
    with pytest.raises(UnknownNameError, match="5m_vs_6m"):
        smax.spec("5m_vs_7m")
    with pytest.raises(UnknownNameError, match="horizon"):
        smax.spec("3m", horizn=3)
    with pytest.raises(ConfigError, match="horizon"):
        smax.spec("3m", horizon=0)
    with pytest.raises(ConfigError, match="got True"):
        smax.spec("3m", horizon=True)
    with pytest.raises(ConfigError, match="num_envs"):
        smax.make("3m", 0)


def test_data_of_other_versions_are_refused() -> None:
    assert smax.SMAX.exact_versions == ("engine_version",)


def test_units_of_smacv2s_maps_are_drawn_for_every_episode() -> None:
    pytest.importorskip("jaxmarl", reason="jaxmarl is not installed")
    jax, battle = smax._battle("smacv2_5_units", 100)
    drawn = [battle.reset(jax.random.PRNGKey(seed))[1].state.unit_types for seed in range(3)]
    assert not (drawn[0] == drawn[1]).all() or not (drawn[0] == drawn[2]).all()


def test_a_scripted_team_wins_about_half_of_its_battles() -> None:
    """Going east and shooting at the first enemy in reach wins 49 % of the battles of 3m."""
    pytest.importorskip("jaxmarl", reason="jaxmarl is not installed")
    env = smax.make("3m", 256)
    seen, total = env.reset(), np.zeros(256)
    alive, won = np.ones(256, bool), np.zeros(256, bool)
    for time in range(1, 101):
        assert seen.action_mask is not None
        attacks = seen.action_mask[..., 5:]
        action = np.where(attacks.any(-1), 5 + attacks.argmax(-1), np.where(seen.action_mask[..., 1], 1, 4))
        step = env.step(action, np.flatnonzero(alive))
        total += step.reward
        won |= step.info["win"]
        assert (step.info["win"] <= step.terminal).all()
        assert not step.truncated.any() or time == 100
        alive &= ~(step.terminal | step.truncated)
        seen = step
        if not alive.any():
            break
    assert won.mean() == pytest.approx(0.49, abs=0.12)
    np.testing.assert_allclose(total[won], 2.0, atol=1e-4)  # all health, and the win
    assert (total[~won] < 1.0001).all()
    env.reset()
    with pytest.raises(SpecError, match="not legal there"):
        env.step(np.full((256, 3), 7))
    with pytest.raises(SpecError, match="shape"):
        env.step(np.zeros((2, 3), int))
    with pytest.raises(ConfigError, match="seeds"):
        env.seed([1])


# ---- copies in blocks, with battles that are two numbers: what was drawn at the start, and steps -----------


def counted(name: str, horizon: int) -> smax._Programs:
    """Stands in for the compiled programs: shows both numbers, and ends a battle whose agents all attack."""

    def shown(battles: Any) -> Any:
        values = np.asarray(battles[:, 0] + 0.01 * battles[:, 1], np.float32)
        mask = np.ones((len(battles), 3, 8), bool)
        mask[:, :, 6] = False
        return (
            np.broadcast_to(values[:, None, None], (len(values), 3, 75)),
            np.broadcast_to(values[:, None], (len(values), 72)),
            mask,
        )

    def start(keys: Any, episode: Any) -> Any:
        battles = np.stack((keys[:, 0] % 97 + 100.0 * episode, 0.0 * episode), axis=1)
        return battles, shown(battles)

    def choose(chosen: Any, new: Any, old: Any) -> Any:
        return np.where(chosen[:, None], new, old)

    def advance(keys: Any, episode: Any, time: Any, chosen: Any, old: Any, action: Any) -> Any:
        assert (time[chosen] == old[chosen, 1]).all()
        new = old + np.array([0.0, 1.0])
        over = (action >= smax.MOVES).all(1)
        won = over & (action[:, 0] == 5)
        outcome = np.ones(len(old)), over | ~chosen, won | ~chosen  # of others it is not to be used
        return choose(chosen, new, old), shown(new), outcome

    return smax._Programs(start, advance, choose, np.ones(1), (1.0, 1.0))


def test_copies_are_computed_in_blocks_and_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smax, "_compiled", counted)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: f"{package} 1")
    env = smax.make("3m", 70, horizon=3)
    assert env.metadata["engine_version"] == "jaxmarl 1"
    assert env.metadata["engine_jax"] == "jax 1"
    seeds = [3 * k for k in range(70)]
    env.seed(seeds)
    drawn = np.array([np.random.SeedSequence(s).generate_state(2, np.uint32)[0] % 97 for s in seeds], float)
    seen = env.reset()
    assert (seen.obs.shape, seen.state.shape) == ((70, 3, 75), (70, 72))
    np.testing.assert_array_equal(seen.obs[:, 0, 0], drawn)
    stand, some = np.full((70, 3), 4), np.array([2, 66])
    wild = np.full((70, 3), 99)
    wild[some] = [[5, 5, 7], [7, 5, 5]]
    step = env.step(wild, some)  # of the others anything is allowed
    assert np.flatnonzero(step.reward).tolist() == np.flatnonzero(step.terminal).tolist() == some.tolist()
    assert np.flatnonzero(step.info["win"]).tolist() == [2]
    assert not step.truncated.any()
    drawn[some] += 0.01
    np.testing.assert_allclose(step.state[:, 0], drawn, rtol=1e-6)
    others = np.setdiff1d(np.arange(3, 70), some)
    env.step(stand, others)
    seen = env.reset(some)
    drawn[some] += 99.99  # their second episodes
    drawn[others] += 0.01  # the others go on where they were
    np.testing.assert_allclose(seen.obs[:, 2, 0], drawn, rtol=1e-6)
    for time in (2, 3):
        step = env.step(stand, others)
        drawn[others] += 0.01
        np.testing.assert_allclose(step.obs[:, 2, 0], drawn, rtol=1e-6)
        np.testing.assert_array_equal(step.truncated, np.isin(np.arange(70), others) & (time == 3))
        assert np.flatnonzero(step.reward).tolist() == others.tolist()
    attack = np.full((70, 3), 7)
    last = env.reset(np.array([0]))
    assert last.obs[0, 0, 0] == drawn[0] + 100  # its second episode as well
    for _ in range(2):
        last = env.step(stand, np.array([0]))
        assert not last.truncated.any()  # also not where an episode was over before
    last = env.step(attack, np.array([0]))  # ends by itself in the step that the limit would end
    assert np.flatnonzero(last.terminal).tolist() == [0]
    assert (last.terminal[0], last.truncated[0], last.info["win"][0]) == (True, False, False)
    with pytest.raises(ConfigError, match="70 copies need as many seeds, got 71"):
        env.seed(range(71))
    env.seed(seeds)
    env.reset()
    seen = env.reset(np.array([69]))
    assert seen.obs[69, 0, 0] - seen.obs[0, 0, 0] >= 4  # seeding begins at the first episode again
    assert seen.obs[:69].max() < 100
    assert 100 <= seen.obs[69, 0, 0] < 200


def test_an_action_that_is_not_legal_is_named_and_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smax, "_compiled", counted)
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "1")
    env = smax.make("3m", 4)
    before = env.reset()
    for wrong in (6, 8, -1):
        action = np.full((4, 3), 4)
        action[2, 1] = wrong
        text = rf"agent 1 of copy 2 took the action {wrong}, .*legal are \[0, 1, 2, 3, 4, 5, 7\]"
        with pytest.raises(SpecError, match=text):
            env.step(action)
    step = env.step(np.full((4, 3), 99), np.array([], int))
    assert (step.obs == before.obs).all()
    assert not step.reward.any()
    before.obs[:] = -1.0  # what was shown is the caller's
    assert (env.step(np.full((4, 3), 4), np.array([0])).obs >= 0).all()
