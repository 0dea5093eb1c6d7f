"""Is the fast way exact for this checkpoint? Some answers again by plain `generate`."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rich.console import Console

from agevlm.data.sources import ImageSource
from agevlm.errors import DataError
from agevlm.vlm.contract import Ask, Vlm
from benchmarks.plan import Plan
from benchmarks.run_folder import RunFolder
from benchmarks.settings import RunSettings
from benchmarks.showing import load_pixels


def verify(
    settings: RunSettings, folder: RunFolder, sources: Sequence[ImageSource], plan: Plan, vlm: Vlm, notes: Console
) -> None:
    """`--verify N`: ask N seeded images' questions again one by one through plain `generate`, and list differences."""
    from agevlm.vlm.hf.reference import find_flips
    from agevlm.vlm.hf.session import HfVlm

    if not isinstance(vlm, HfVlm):
        raise DataError("--verify compares with transformers' generate, which this model is not run by")
    records = {k: r for k, r in folder.answers().items() if r.error is None}
    groups = [g for g in plan.groups if g.shown is not None and all(a.key in records for a in g.asks)]
    chosen = random.Random(settings.seed).sample(groups, min(settings.verify, len(groups)))
    flips, compared, changed = [], 0, 0
    for group in chosen:
        assert group.shown is not None
        image = load_pixels(group.shown, sources, settings.seed)
        asks = [Ask(a.prompt, 0, a.max_new_tokens) for a in group.asks]
        replies = vlm.answer(vlm.encode([image]), asks)
        changed += sum(r.text != records[a.key].text for r, a in zip(replies, group.asks, strict=True))
        compared += len(asks)
        flips += [{"image": group.shown.name, **vars(f)} for f in find_flips(vlm, image, asks, replies)]
    folder.write_json("verify.json", {"images": len(chosen), "answers": compared, "changed": changed, "flips": flips})
    asked = f"verify: {compared} answers about {len(chosen)} images asked again by plain generate: {len(flips)} differ"
    notes.print(asked + (f"; asked again our way: {changed} differ from what is recorded" if changed else ""))
    for flip in flips[:10]:
        notes.print(f"  {flip['image']} {flip['prompt']!r}: {flip['ours']!r}, plain {flip['plain']!r}, "
                    f"logit margin {flip['margin']:.4g}")  # fmt: skip
