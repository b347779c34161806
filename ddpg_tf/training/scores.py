"""What the evaluations of a run came to: which is the best, and what may be compared with it."""

import dataclasses
import warnings


@dataclasses.dataclass
class Scores:
    """Means of evaluations, and the steps they were made at.

    Attributes:
      due: an evaluation is to be made at this step, or under way: a resumed run begins with it.
      limit, episodes: max_episode_steps and eval_episodes of the evaluations.
      best_whole: no environment failed in the best: where steps cost, an episode that is cut short looks good.
    """

    due: bool = False
    last: float | None = None
    last_step: int | None = None
    best: float | None = None
    best_step: int | None = None
    best_whole: bool = True
    limit: int = 0
    episodes: int = 0

    def rows_until(self, step: int, due: bool) -> int:
        """The last step whose evaluations a run that goes on at `step` keeps in its files; -1: none.

        Args:
          due: the one of `step` is to come, or comes again.
        """
        last = -1 if self.last_step is None else self.last_step
        return min(last, step - 1) if due else last

    def under(self, limit: int, episodes: int) -> "Scores":
        """These, or none where evaluations were of other episodes, for their means cannot be compared."""
        changed = [
            f"{name} is {now} now, and was {before}"
            for name, now, before in (
                ("max_episode_steps", limit, self.limit),
                ("eval_episodes", episodes, self.episodes),
            )
            if now != before
        ]
        if not changed:
            return self
        if self.best is not None:
            warnings.warn(
                f"{', '.join(changed)}: what was evaluated before, at best {self.best:.1f} at step {self.best_step}, "
                "no longer counts",
                stacklevel=4,
            )
        return Scores(due=self.due or self.last is not None, limit=limit, episodes=episodes)
