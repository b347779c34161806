"""What the server did, as Prometheus reads it: TF Serving's metric names, labels and buckets."""

import bisect
import collections

_BOUNDS = [10 * 1.8**i for i in range(33)]  # microseconds


class Metrics:
    """Counts requests by model and status, and their latency by model and API."""

    def __init__(self):
        self._requests: collections.Counter[tuple[str, str]] = collections.Counter()
        self._buckets: dict[tuple[str, str], list[int]] = {}
        self._sums: collections.Counter[tuple[str, str]] = collections.Counter()

    def record(self, model: str, api: str, status: str, seconds: float) -> None:
        """Notes one answer.

        Args:
          api: "predict" and the like; empty for status and metadata.
          status: "OK", or the name of one of `tensorflow.error.Code`; latency is that of good answers only.
        """
        self._requests[model, status] += 1
        if status == "OK":
            buckets = self._buckets.setdefault((model, api), [0] * (len(_BOUNDS) + 1))
            buckets[bisect.bisect_left(_BOUNDS, 1e6 * seconds)] += 1
            self._sums[model, api] += 1e6 * seconds

    def text(self) -> str:
        """Prometheus' text format, version 0.0.4."""
        name = ":tensorflow:serving:request_count"
        lines = [f"# TYPE {name} counter"]
        for (model, status), count in self._requests.items():
            lines.append(f'{name}{{model_name="{_escaped(model)}",status="{status}"}} {count}')
        name = ":tensorflow:serving:request_latency"
        lines.append(f"# TYPE {name} histogram")
        for (model, api), buckets in self._buckets.items():
            labels = f'model_name="{_escaped(model)}",API="{api}",entrypoint="REST"'
            total = 0
            for bound, count in zip([*(f"{bound:g}" for bound in _BOUNDS), "+Inf"], buckets, strict=True):
                total += count
                lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {total}')
            lines.append(f"{name}_sum{{{labels}}} {self._sums[model, api]:.17g}")
            lines.append(f"{name}_count{{{labels}}} {total}")
        return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
