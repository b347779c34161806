"""What `python -m serve.local` bears: load, version changes, nonsense, killed publishers, too much load.

    python -m benchmarks.serving [load] [versions] [fuzz] [publisher_kill] [overload] [--seconds=60] [--out=FILE]

Without a name all are measured. The load generator runs on the same machine as the server. Writes FILE and FILE with
the suffix .csv; exit status 1 if something is not as wanted.
"""

import functools
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks.processes import ROOT, run
from benchmarks.report import Part, Row, chosen, installed, show, write
from benchmarks.serving import fuzz
from benchmarks.serving.bench import Bench, answers_well, publish, wait_for
from benchmarks.serving.kills import Watch, is_complete, kill_after
from benchmarks.serving.load import WARM_UP_SECONDS, Load, measure
from ddpg_tf import cli
from serve.client import PolicyClient

CHANGES = 10
MAX_BATCH_ROWS = 8
_BATCHING = f"""max_batch_size {{ value: {MAX_BATCH_ROWS} }}
max_enqueued_batches {{ value: 1 }}
num_batch_threads {{ value: 1 }}
batch_timeout_micros {{ value: 0 }}
"""
_TINY_RUN = [
    "--env=Pendulum-v1",
    "--preset=none",
    "--total_steps=400",
    "--warmup_steps=200",
    "--eval_every=200",
    "--eval_episodes=1",
    "--update_every=20",
    "--batch_size=16",
    "--replay_capacity=400",
]
_PACKAGES = ("tensorflow", "tensorflow-serving-api", "numpy", "starlette", "uvicorn", "httptools", "uvloop", "orjson")
_TRACEBACK = re.compile(r"^Traceback .*\n(?:[ \t].*\n)*(.*)", re.MULTILINE)  # its last line


def main(argv) -> int:
    values = flags.FlagValues()
    define = cli.definers(values)
    define.float("seconds", 60.0, "seconds that each load is measured", lower_bound=0.5)
    define.integer("fuzz_requests", 10_000, "random requests", lower_bound=10)
    define.integer("kills", 20, "publishers that are killed", lower_bound=1)
    define.integer("seed", 0, "decides the random requests and the moments of the kills")
    define.string("out", "benchmarks/results/serving.md", "file for the results")
    names = chosen(cli.parse(argv, values, __doc__, positional=True), _PARTS)
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # this is about one machine's processor
    out, parts = Path(values.out), {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="serving-") as directory:
        bench = Bench(Path(directory), values)
        for name in names:
            print(f"{name} ...", flush=True)
            parts[name] = _PARTS[name](bench)
            write(
                out,
                "Serving",
                "`python -m serve.local` on cores that it shares with its clients",
                argv,
                parts,
                installed(*_PACKAGES),
            )
    return show(out, parts)


def load(bench: Bench) -> Part:
    """A 256-256 policy for HalfCheetah, one observation a request, each client keeping its connection and asking again
    as soon as it is answered."""
    rows = []
    with bench.serve("cheetah", f"--model_base_path={bench.policies[0].parent}") as server:
        for clients in (1, 8, 32):
            found = measure(server.url, "cheetah", bench.questions(rows=1), clients, bench.flags.seconds)
            named = f"{clients} client{'s' * (clients > 1)}"
            rows += [
                Row(f"{named}: requests/s", found.rate, *((">=", 4000) if clients == 32 else ())),
                Row(f"{named}: p50 [ms]", found.p50, *(("<", 2) if clients == 1 else ())),
                Row(f"{named}: p99 [ms]", found.p99),
                Row(f"{named}: requests", found.requests),
                Row(f"{named}: errors", found.errors, "=", 0),
            ]
    return Part(load.__doc__, rows)


def versions(bench: Bench) -> Part:
    """New versions, two policies in turn, renamed into place while 32 clients ask; each is waited for."""
    base, times = bench.path("versions"), []
    publish(bench.policies[0], base, 1)
    with bench.serve("cheetah", f"--model_base_path={base}") as server:
        asking = Load(server.url, "cheetah", bench.questions(rows=1), clients=32)
        time.sleep(WARM_UP_SECONDS + 1)
        with PolicyClient(server.url, "cheetah", retries=0) as client:
            for number in range(2, 2 + CHANGES):
                renamed = publish(bench.policies[(number - 1) % 2], base, number)
                if wait_for(client, number):
                    times.append(time.monotonic() - renamed)
                time.sleep(0.5)
        found = asking.finish()
    return Part(
        versions.__doc__,
        [
            Row("versions served", len(times), "=", CHANGES),
            Row("requests meanwhile", found.requests),
            Row("failed requests", found.errors, "=", 0),
            Row("from rename to served, median [s]", statistics.median(times) if times else np.nan),
            Row("from rename to served, longest [s]", max(times, default=np.nan)),
            Row("request latency, p50 [ms]", found.p50),
            Row("request latency, worst [ms]", found.worst),
        ],
        [str(found.outcomes)] if found.errors else [],
    )


def fuzz_server(bench: Bench) -> Part:
    """Random requests to the models of tests/data/make_models.py: tests/data/recordings.jsonl as it is and mutated,
    random tensors, broken HTTP, bytes. Resident memory after 10, 50 and 100 % of them."""
    total, seed = bench.flags.fuzz_requests, bench.flags.seed
    models = bench.path("models")
    run([sys.executable, "tests/data/make_models.py", models])
    recordings = [json.loads(line) for line in (ROOT / "tests/data/recordings.jsonl").read_text("utf-8").splitlines()]
    memory, outcomes, faults = [], Counter(), []
    with bench.serve(
        "actor", f"--model_config_file={models / 'models.config'}", "--allow_version_labels_for_unavailable_models"
    ) as server:
        statuses = fuzz.plain_statuses(server.url, recordings)
        for first, last in ((0, total // 10), (total // 10, total // 2), (total // 2, total)):
            report = fuzz.fire(server.url, recordings, statuses, seed, range(first, last))
            outcomes.update(report.outcomes)
            faults += report.faults
            memory.append(server.resident_megabytes)
        alive = server.alive and answers_well(server.url)
        tracebacks = _TRACEBACK.findall(server.output)
    rows = [
        Row(f"answered {outcome}" if outcome.isdecimal() else outcome, count)
        for outcome, count in sorted(outcomes.items())
    ]
    rows += [
        Row("requests", sum(outcomes.values()), "=", total),
        Row("unexpected 5xx, hangs, no answer, answers that framing changes", len(faults), "=", 0),
        Row("tracebacks in the server's output", len(tracebacks), "=", 0),
        Row("alive, and answers a good request, at the end", int(alive), "=", 1),
    ]
    rows += [Row(f"resident memory at {share} % [MB]", size) for share, size in zip((10, 50, 100), memory, strict=True)]
    rows += [Row("growth from 50 to 100 % [%]", 100 * (memory[2] / memory[1] - 1), "<", 5)]
    faults += [f"{count} x {line}" for line, count in Counter(tracebacks).items()]
    return Part(fuzz_server.__doc__, rows, faults)


def publisher_kill(bench: Bench) -> Part:
    """export.py killed with SIGKILL at random moments, while the server that watches the directory is asked for its
    status and an action every 20 ms."""
    from ddpg_tf.export.versions import versions as versions_in

    run_dir, export_dir = bench.path("run"), bench.path("exports")
    command = [sys.executable, "export.py", f"--run_dir={run_dir}", f"--export_dir={export_dir}"]
    run([sys.executable, "train.py", f"--run_dir={run_dir}", *_TINY_RUN])
    started = time.monotonic()
    run(command)
    duration, rng, killed = time.monotonic() - started, random.Random(bench.flags.seed), 0
    with bench.serve("tiny", f"--model_base_path={export_dir}") as server, Watch(server.url, "tiny") as watch:
        for _ in range(bench.flags.kills):
            killed += kill_after(command, rng.uniform(0, duration))
        published = len(versions_in(export_dir)) - 1
        run(command)
        with PolicyClient(server.url, "tiny", retries=0) as client:
            served = wait_for(client, max(versions_in(export_dir)))
    incomplete = [version for version in watch.states if not is_complete(export_dir / version)]
    problems = watch.problems + [f"version {version} was listed and is not complete" for version in incomplete]
    return Part(
        publisher_kill.__doc__,
        [
            Row("an undisturbed export [s]", duration),
            Row("exports started to be killed", bench.flags.kills),
            Row("of them killed", killed),
            Row("versions that they published all the same", published),
            Row("answers looked at", watch.answers),
            Row("longest wait for an answer [ms]", 1000 * watch.longest),
            Row("errors, versions listed that are not complete or not loaded", len(problems), "=", 0),
            Row("the next publication is served", int(served), "=", 1),
        ],
        problems,
    )


def overload(bench: Bench) -> Part:
    """64 clients with batches of 8 rows against a queue of one batch (max_batch_size 8, max_enqueued_batches 1,
    num_batch_threads 1); one client with one row before and after."""
    parameters = bench.path("batching.txt")
    parameters.write_text(_BATCHING)
    with bench.serve(
        "cheetah",
        f"--model_base_path={bench.policies[0].parent}",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
    ) as server:
        alone = functools.partial(measure, server.url, "cheetah", bench.questions(rows=1), 1, bench.flags.seconds / 4)
        before = alone()
        much = measure(server.url, "cheetah", bench.questions(MAX_BATCH_ROWS), 64, bench.flags.seconds)
        after = alone()
    answered, refused = much.outcomes.get("200", 0), much.outcomes.get("503", 0)
    other = much.requests - answered - refused
    return Part(
        overload.__doc__,
        [
            Row("before: requests", before.requests),
            Row("before: errors", before.errors, "=", 0),
            Row("before: p50 [ms]", before.p50),
            Row("overload: answered 200", answered, ">", 0),
            Row("overload: answered 503", refused, ">", 0),
            Row("overload: answered 200 a second", much.rate),
            Row("overload: anything else", other, "=", 0),
            Row("overload: p50 of 200 [ms]", much.p50),
            Row("overload: p99 of 200 [ms]", much.p99),
            Row("after: requests", after.requests),
            Row("after: errors", after.errors, "=", 0),
            Row("after: p50 [ms]", after.p50),
            Row("after: p50 / before", after.p50 / before.p50, "<", 1.5),
        ],
        [str(much.outcomes)] if other else [],
    )


_PARTS: dict[str, Callable[[Bench], Part]] = {
    "load": load,
    "versions": versions,
    "fuzz": fuzz_server,
    "publisher_kill": publisher_kill,
    "overload": overload,
}


if __name__ == "__main__":
    cli.run(main)
