"""What a planner that knows the model comes to: a normalised score of 1, where random actions have 0.

    python -m benchmarks.planner [--env=Reacher-v5] [--episodes=10] [--starts=6] [--out=benchmarks/results/planner.csv]

The paper has iLQG for this (section 4). Here all actions of an episode follow their own gradient, which comes from
finite differences of the environment's step, from several first guesses; the best of them is played again from the
episode's reset. Episodes begin as those of an evaluation do. What it finds is possible, but need not be the most: where
an episode needs a swing first, as Pendulum's, the gradient leads nowhere.

For Gymnasium's MuJoCo environments without a free body, whose episodes nothing ends but the time limit.
"""

from pathlib import Path

import gymnasium as gym
import numpy as np
from absl import flags
from gymnasium.envs.mujoco import MujocoEnv
from scipy.optimize import minimize

from ddpg_tf import cli
from ddpg_tf.envs.registry import make_env
from ddpg_tf.errors import UserError
from ddpg_tf.evaluation.evaluator import FIRST_SEED
from ddpg_tf.files import read_rows, write_rows

_COLUMNS = ("env", "episodes", "return")
_APART = 1e-6  # of finite differences
_GUESSES = 50  # at random, of which the best one is improved
_HELD = 10  # steps that an action of a guess is held for
_ROUNDS = 100  # of L-BFGS, at most


class Model:
    """`step` as a function of (state, action), of an environment that has been reset.

    A state is the positions and speeds of all joints, [S].

    Raises:
      UserError: it is not one of MuJoCo's, or has a free body.
    """

    def __init__(self, env: gym.Env):
        self._env = env.unwrapped
        if not isinstance(self._env, MujocoEnv):
            raise UserError("the planner is for Gymnasium's MuJoCo environments, whose state it can set")
        if self._env.model.nq != self._env.model.nv:
            raise UserError("the planner needs joints with as many speeds as positions: no free body")

    @property
    def state(self) -> np.ndarray:
        return np.concatenate([self._env.data.qpos, self._env.data.qvel])

    def __call__(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """The next state, and the reward after it: [S + 1]."""
        self._env.set_state(*np.split(state, 2))
        self._env.data.qacc_warmstart[:] = 0  # what was done before must not show
        _, reward, *_ = self._env.step(action)
        return np.append(self.state, reward)

    def total(self, state: np.ndarray, actions: np.ndarray) -> float:
        """The rewards of `actions` [T, A], added up."""
        reward = 0.0
        for action in actions:
            *state, last = self(np.asarray(state), action)
            reward += last
        return reward

    def descent(self, state: np.ndarray, actions: np.ndarray) -> tuple[float, np.ndarray]:
        """(-total, its gradient [T, A]), by the chain rule through one Jacobian a step."""
        cost, jacobians = 0.0, []
        for action in actions:
            at = np.concatenate([state, action])
            after = self(state, action)
            near = [self(*np.split(at + offset, [len(state)])) for offset in _APART * np.eye(len(at))]
            jacobians.append((np.array(near).T - after[:, None]) / _APART)  # [S + 1, S + A]
            state, cost = after[:-1], cost - after[-1]
        gradient, by_state = np.empty(actions.shape), np.zeros(len(state))
        for t in reversed(range(len(actions))):
            by_state, gradient[t] = np.split(np.append(by_state, -1.0) @ jacobians[t], [len(state)])
        return cost, gradient


def plan(env: gym.Env, seed: int, steps: int, starts: int) -> np.ndarray:
    """The best actions [steps, A] found for the episode that `seed` resets `env` to, inside its bounds."""
    env.reset(seed=seed)
    model, box, random = Model(env), env.action_space, np.random.default_rng(seed)
    first = model.state
    shape, held = (steps, *box.shape), (-(-steps // _HELD), *box.shape)

    def guess() -> np.ndarray:
        drawn = random.uniform(box.low, box.high, (_GUESSES, *held)) * random.uniform(size=(_GUESSES, 1, 1))
        return max(drawn.repeat(_HELD, 1)[:, :steps], key=lambda actions: model.total(first, actions))

    def descent(flat):
        cost, gradient = model.descent(first, flat.reshape(shape))
        return cost, gradient.ravel()

    bounds = np.stack([np.broadcast_to(bound, shape).ravel() for bound in (box.low, box.high)], 1)
    found = [
        minimize(descent, begin.ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _ROUNDS})
        for begin in [np.zeros(shape), *(guess() for _ in range(starts - 1))]
    ]
    return min(found, key=lambda result: result.fun).x.reshape(shape)


def play(env: gym.Env, seed: int, actions: np.ndarray) -> float:
    """The return of `actions` [T, A] from the reset with `seed`.

    Raises:
      UserError: the episode ends before them.
    """
    env.reset(seed=seed)
    total = 0.0
    for action in actions.astype(env.action_space.dtype):
        _, reward, terminated, *_ = env.step(action)
        if terminated:
            raise UserError("the planner is for episodes that nothing ends but the time limit")
        total += float(reward)
    return total


def main(argv):
    values = flags.FlagValues()
    define = cli.definers(values)
    define.string("env", "Reacher-v5", "Gymnasium environment id")
    define.integer("episodes", 10, "episodes, reset as those of an evaluation", lower_bound=1)
    define.integer("starts", 6, "first guesses that are improved, of each episode", lower_bound=1)
    define.string("out", "benchmarks/results/planner.csv", "file for the results, which keeps those of others")
    cli.parse(argv, values, __doc__)
    env, returns = make_env(values.env), []
    if not env.spec.max_episode_steps:
        raise UserError(f"{values.env} has no time limit to plan until")
    for seed in range(FIRST_SEED, FIRST_SEED + values.episodes):
        returns.append(play(env, seed, plan(env, seed, env.spec.max_episode_steps, values.starts)))
        print(f"{values.env}, episode {len(returns)}: {returns[-1]:.2f}", flush=True)
    rows = {row["env"]: [row[column] for column in _COLUMNS] for row in read_rows(Path(values.out))}
    rows[values.env] = [values.env, len(returns), f"{np.mean(returns):.4g}"]
    write_rows(Path(values.out), _COLUMNS, [rows[name] for name in sorted(rows)])


if __name__ == "__main__":
    cli.run(main)
