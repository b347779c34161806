"""A suite file: which runs there are, and what their results are compared with.

about = "What the suite is for, one sentence."
[sets.Hopper-v5]                    # a part of an entry, to be used by several
about = "What it is, for the legend of the suite's page; or without."
flags = {env = "Hopper-v5", total_steps = 100_000}
published = {score = 1577.0, steps = 1_000_000, source = "..."}
[entries."LayerNorm, Hopper-v5"]    # its sets in their order, then its own, key by key; flags over the preset's
sets = ["Hopper-v5"]
flags = {preset = "none", normalization = "layer"}
seeds = [0, 1, 2]
[entries."SBX DDPG, Hopper-v5"]     # another library's training; of the flags, only what says how long and how scored
sets = ["Hopper-v5"]
flags = {preset = "none"}
peer = {library = "sbx", algorithm = "DDPG", settings = {net_arch = [256, 256]}}
"""

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.peers.peer_runs import ALGORITHMS, LIBRARIES, Peer
from ddpg_tf.config import Config
from ddpg_tf.errors import UsageError, UserError
from ddpg_tf.flags import parse_command_line
from ddpg_tf.settings import as_flag

SUITES = Path("benchmarks/suites")  # relative to the project's directory, where commands run
_KEYS = {"about": str, "entries": dict, "sets": dict}
_ENTRY_KEYS = {
    "sets": list,
    "flags": dict,
    "seeds": list,
    "published": dict,
    "peer": dict,
    "readme": str,
    "note": str,
    "beside": str,
    "scatter": bool,
}
_SET_KEYS = {"about": str} | {key: kind for key, kind in _ENTRY_KEYS.items() if key != "sets"}
_PUBLISHED_KEYS = {"score": float, "steps": int, "source": str}
_PEER_KEYS = {"library": str, "algorithm": str, "settings": dict}


@dataclasses.dataclass(frozen=True)
class Published:
    """A figure of others to compare with."""

    score: float
    steps: int
    source: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """Runs that differ in their seed only.

    Attributes:
      name: also the folder of its results.
      arguments: train.py's, but for the seed and the run directory.
      peer: who trains, where it is not this project.
      readme: what the README's table calls it; empty where it has no row there.
      note: a sentence on what it shows, or why it was stopped, for the suite's page.
      beside: another entry of the suite, whose curve is drawn too; empty for none.
      scatter: whether the critic's estimates are drawn against what followed (paper, Fig. 3).
    """

    name: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]
    config: Config  # of the first seed
    published: Published | None = None
    peer: Peer | None = None
    readme: str = ""
    note: str = ""
    beside: str = ""
    scatter: bool = False

    def seed_config(self, seed: int) -> Config:
        return dataclasses.replace(self.config, seed=seed)


@dataclasses.dataclass(frozen=True)
class Suite:
    """What a suite file says; `name` is the file's, `legend` what its sets say about themselves."""

    name: str
    about: str
    entries: tuple[Entry, ...]
    legend: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read(path: Path) -> Suite:
    """The suite in `path`.

    Raises:
      UsageError: it cannot be read, or says what cannot be run: an entry twice, an unknown flag, a missing preset, ...
    """
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read the suite {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:  # an entry twice is one
        raise UsageError(f"{path} is not a suite: {error}") from None
    try:
        _check_keys(found, _KEYS)
        for part in found.get("sets", {}).values():
            _check_keys(part, _SET_KEYS)
        entries = tuple(_entry(name, found) for name in found.get("entries", {}))
    except UserError as error:
        raise UsageError(f"{path}: {error}") from None
    if not entries:
        raise UsageError(f"{path} has no entries")
    for entry in entries:
        if entry.beside and entry.beside not in found["entries"]:
            raise UsageError(f"{path}: entry {entry.name!r}: there is no entry {entry.beside!r} to draw beside it")
    legend = {name: part["about"] for name, part in found.get("sets", {}).items() if "about" in part}
    return Suite(path.stem, found.get("about", ""), entries, legend)


def _entry(name: str, found: Mapping[str, Any]) -> Entry:
    try:
        return _merged(name, found)
    except UserError as error:
        raise UsageError(f"entry {name!r}: {error}") from None


def _merged(name: str, found: Mapping[str, Any]) -> Entry:
    own = found["entries"][name]
    if not name or name[0] in ".-" or set(name) & set("/\\\n"):
        raise UsageError("its name is a folder's: no slash, no dot or dash at its beginning")
    _check_keys(own, _ENTRY_KEYS)
    merged: dict[str, Any] = {"flags": {}}
    for part_name in own.get("sets", []):
        if not isinstance(part_name, str) or part_name not in found.get("sets", {}):
            raise UsageError(f"there is no set {part_name!r}")
        merged = _over(merged, found["sets"][part_name])
    merged = _over(merged, own)
    seeds = merged.get("seeds", [0])
    if not seeds or not all(isinstance(seed, int) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds must be different whole numbers, not {seeds}")
    if own_flags := {"seed", "run_dir", "resume", "export_dir"} & merged["flags"].keys():
        raise UsageError(f"{', '.join(sorted(own_flags))} cannot be among a suite's flags")
    arguments = tuple(f"--{flag}={_spelled(value)}" for flag, value in merged["flags"].items())
    configs = [_parse(arguments, seed) for seed in seeds]
    peer = _peer(merged.get("peer"))
    if peer:
        _require_known_to_peers(configs[0])
    published = _published(merged.get("published"))
    _require_keys("flags", merged["flags"], {"env": str})
    return Entry(
        name,
        arguments,
        tuple(seeds),
        configs[0],
        published,
        peer,
        **{key: merged[key] for key in ("readme", "note", "beside", "scatter") if key in merged},
    )


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both; where they say the same key `over` counts, and of tables each of its keys."""
    tables = [key for key in under.keys() & over.keys() if isinstance(under[key], dict)]
    return {**under, **over, **{key: under[key] | over[key] for key in tables}}


def _parse(arguments: tuple[str, ...], seed: int) -> Config:
    from ddpg_tf.envs import registry

    return parse_command_line(["train.py", *arguments, f"--seed={seed}"], "", registry.resolve_id).config


def _published(found: dict[str, Any] | None) -> Published | None:
    if found is None:
        return None
    found = {
        name: float(value) if name == "score" and isinstance(value, int) else value for name, value in found.items()
    }
    _check_keys(found, _PUBLISHED_KEYS)
    _require_keys("published", found, _PUBLISHED_KEYS)
    return Published(**found)


def _peer(found: dict[str, Any] | None) -> Peer | None:
    if found is None:
        return None
    _check_keys(found, _PEER_KEYS)
    _require_keys("peer", found, _PEER_KEYS)
    peer = Peer(**found)
    for name, known in (("library", LIBRARIES), ("algorithm", ALGORITHMS)):
        if found[name] not in known:
            raise UsageError(f"peer's {name} must be one of {', '.join(known)}, not {found[name]!r}")
    _require_keys("peer's settings", peer.settings, {"net_arch": list})
    return peer


def _require_known_to_peers(config: Config):
    """Raises UsageError where peers/train.py would do something else, or never come to its last evaluation."""
    if config.env_kwargs != "{}" or config.max_episode_steps:
        raise UsageError("a peer does not know env_kwargs and max_episode_steps")
    if not config.log_every or not config.eval_every or config.total_steps % config.eval_every:
        raise UsageError("a peer needs log_every, and total_steps that are a multiple of eval_every")


def _require_keys(what: str, found: Mapping[str, Any], needed: Mapping[str, type]):
    if missing := needed.keys() - found.keys():
        raise UsageError(f"{what} lacks {', '.join(sorted(missing))}")


def _check_keys(found: Any, known: Mapping[str, type]):
    if not isinstance(found, dict):
        raise UsageError(f"{found!r} is not a table")
    for key, value in found.items():
        if key not in known:
            raise UsageError(f"{key!r} is not one of {', '.join(known)}")
        if not isinstance(value, known[key]):
            raise UsageError(f"{key} must be a {known[key].__name__}, not {value!r}")


def _spelled(value: Any) -> str:
    """A value of TOML as a flag's."""
    if isinstance(value, dict):
        return json.dumps(value)
    return as_flag(tuple(value) if isinstance(value, list) else value)
