"""How large objects are that linkage runs have masks of, for questions of the same data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from analysis.linkage.record import schema
from analysis.parts import Parts
from reports.opened import Run
from reports.runs.printing import remark_lines

Sizes = Mapping[tuple[str, str, str], float]
"""(data's content hash, image name, question) -> share of the image that the object's mask covers, 0 to 1."""


def digest_of(run: Run) -> str | None:
    """The content hash of a run's questions; None where it has several sets, in which a name may stand twice."""
    data = run.manifest.get("data", ())
    return str(data[0].get("content_sha256")) if len(data) == 1 else None


def linkage_sizes(runs: Sequence[Run], notes: list[str]) -> Sizes:
    """Sizes by all linkage runs; questions of which they differ have none. What cannot be read is said in `notes`."""
    found: dict[tuple[str, str, str], set[float]] = {}
    for run in runs:
        digest = digest_of(run)
        if run.benchmark != "linkage" or digest is None:
            continue
        names = {re.sub(r"(-to)?-\d+$", "", path.stem) for path in run.folder.glob("probes/*.parquet")}
        for name in sorted(names):
            remarks: list[str] = []
            table = Parts(run.folder, name, schema()).read(["image", "question", "size"], remarks)
            for row in table.to_pylist():
                if row["size"] is not None:
                    found.setdefault((digest, row["image"], row["question"]), set()).add(row["size"])
            notes += [f"{run.label}: {line}" for line in remark_lines(remarks)]
    # Models see crops of their own, and so other shares of an image.
    return {key: sizes.pop() for key, sizes in found.items() if len(sizes) == 1}
