"""Micro-batches whose samples cannot all be used: what takes their place, what is said of it, what stops."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from agevlm.checkpoints.tiny import random_age_vlm
from agevlm.errors import AgeVlmError, DataError, TrainError
from tests.train.toys import SHAPE, Toys, stage
from train.data.collate import Collator
from train.data.feed import Feed, Portion
from train.data.samples import BadSample, Message, Sample
from train.data.skipping import GRACE
from train.spec import Guidance, Regions, SourceSpec

ASK, YES = Message("user", "Is there a dog?"), Message("assistant", "Yes")
LONG = Sample("long", (ASK, Message("assistant", "Yes, there is. " * 80)), Image.new("RGB", (48, 48)))
MUTE = Sample("mute", (ASK,), Image.new("RGB", (48, 48)))
THIN = Sample("thin", (ASK, YES), Image.new("RGB", (2000, 1)))
GONE = BadSample("gone.jpg: no such file", "image", "gone")


@pytest.fixture(scope="module")
def processor():
    return random_age_vlm(SHAPE, 0)[1]


@pytest.fixture
def fed(processor):
    def make(source, rank=0, processes=1, **changes):
        spec = stage(Path("base"), Path("out"), **changes)
        sources = source if isinstance(source, list) else [source]
        return Feed(spec, sources, Collator(processor, spec.guidance, 400), rank, processes)

    return make


def ids(feed, steps=4):
    """Ids of each step, of all micro-batches."""
    return [
        [name for micro in range(feed.accumulation) for name in feed[step * feed.accumulation + micro].batch.ids]
        for step in range(steps)
    ]


def test_a_bad_sample_makes_room_for_the_next_index(fed):
    whole = [name for step in ids(fed(Toys(23))) for name in step]
    assert {"toys/toys-7", "toys/toys-8", "toys/toys-22", "toys/toys-0", "toys/toys-10"} <= set(whole)
    broken = {7: GONE, 8: LONG, 22: MUTE}
    feed = fed(Toys(23, broken=broken), guidance=None, regions=Regions(share=0))
    found = [name for step in ids(feed) for name in step]
    # 9 takes the place of 8, and of 7 too; behind the last comes the first.
    instead = {"toys/toys-7": "toys/toys-9", "toys/toys-8": "toys/toys-9", "toys/toys-22": "toys/toys-0"}
    assert found == [instead.get(name, name) for name in whole]


def test_what_is_said_of_it(fed):
    feed = fed(Toys(23, broken={7: GONE, 8: LONG, 21: MUTE, 2: THIN}), guidance=None)
    skipped = [one for number in range(6) for one in feed[number].skipped]
    assert {(one.index, one.id, one.reason, one.by) for one in skipped} == {
        (7, "toys/gone", "image", "toys/toys-9"),
        (8, "toys/long", "length", "toys/toys-9"),
        (21, "toys/mute", "silent", "toys/toys-22"),
        (2, "toys/thin", "image", "toys/toys-3"),
    }
    for one in skipped:
        drawn = feed.order.step(one.step - 1)[one.slot]
        assert (one.source, one.index, one.epoch) == ("toys", drawn.index, drawn.epoch)
    assert "max_length 400" in next(one.says for one in skipped if one.index == 8)


def test_where_regions_are_wanted_the_next_that_keeps_them_comes(fed):
    settings = {"regions": Regions(share=0.4, batch_share=0.5), "guidance": Guidance()}
    plain = fed(Toys(23), **settings)
    kept = [i for i in range(23) if plain.order.keeps(0, i)]
    assert 5 < len(kept) < 12
    bad = kept[2]
    feed = fed(Toys(23, broken={bad: GONE}), **settings)
    replaced = {True: set(), False: set()}
    for step in range(12):
        for number in range(feed.accumulation):
            portion, other = feed[step * feed.accumulation + number], plain[step * feed.accumulation + number]
            assert portion.drawn == other.drawn
            first = number * feed.spec.micro_batch_size
            for one in portion.skipped:
                replaced[portion.drawn[one.slot - first].guided].add(one.by)
            assert bool(len(portion.batch.rows)) == any(one.guided for one in portion.drawn)
    assert replaced == {True: {f"toys/toys-{kept[3]}"}, False: {f"toys/toys-{bad + 1}"}}


def test_a_mask_of_another_size_is_bad_where_it_is_wanted(fed):
    settings = {"regions": Regions(share=1.0), "guidance": Guidance(), "batch_size": 23, "micro_batch_size": 23}
    odd = Toys(23).read(6, 0)
    odd = replace(odd, phrases=tuple(replace(one, mask=one.mask[:-1]) for one in odd.phrases))
    (one,) = fed(Toys(23, broken={6: odd}), **settings)[0].skipped
    assert (one.id, one.reason, one.by) == ("toys/toys-6", "region", "toys/toys-7")
    assert "shape" in one.says
    assert fed(Toys(23, broken={6: odd}), **settings | {"regions": Regions(share=0)})[0].skipped == ()


def test_the_same_takes_its_place_in_any_process_and_worker(fed):
    broken = {3: GONE, 4: LONG, 11: MUTE, 19: GONE, 20: THIN}
    alone = fed(Toys(23, broken=broken), micro_batch_size=8)
    whole = ids(alone)
    said = [sorted(alone[step].skipped, key=lambda one: one.slot) for step in range(4)]
    assert sum(map(len, said)) > 4
    for processes, micro in ((1, 2), (2, 2), (4, 1), (8, 1)):
        feeds = [fed(Toys(23, broken=broken), rank, processes, micro_batch_size=micro) for rank in range(processes)]
        for step in range(4):
            portions = [feed[step * feed.accumulation + n] for n in range(feeds[0].accumulation) for feed in feeds]
            assert [name for portion in portions for name in portion.batch.ids] == whole[step]
            assert sorted((o for p in portions for o in p.skipped), key=lambda one: one.slot) == said[step]
    read_ahead = fed(Toys(23, broken=broken), micro_batch_size=8, workers=2)
    for step, portion in enumerate(read_ahead.batches(1), start=1):
        assert list(portion.batch.ids) == whole[step]
        assert sorted(portion.skipped, key=lambda one: one.slot) == said[step]
        assert torch.equal(portion.batch.input_ids, alone[step].batch.input_ids)


def test_a_source_that_fails_is_no_bad_sample(fed):
    gone = DataError("the folder of images is gone")
    feed = fed(Toys(8, broken={5: gone}))
    assert [str(found) for found in (feed[n] for n in range(2)) if isinstance(found, AgeVlmError)] == [str(gone)]
    (found,) = [one for one in fed(Toys(8, broken={5: gone}), workers=1).batches(3) if not isinstance(one, Portion)]
    assert (type(found), str(found)) == (DataError, str(gone))


def test_too_many_in_a_row_stop(fed):
    def row(bad, **settings):
        """Step 0 of a source in which so many samples are bad, from the first drawn on."""
        settings |= {"guidance": None, "regions": Regions(share=0), "batch_size": 1, "micro_batch_size": 1}
        first = fed(Toys(200), **settings).order.step(0)[0].index
        return fed(Toys(200, broken={(first + i) % 200: GONE for i in range(bad)}), **settings)[0]

    assert isinstance(row(GRACE), Portion)
    found = row(GRACE + 1)
    assert isinstance(found, TrainError)
    assert f"source toys: of {GRACE + 1} samples in a row none can be used. The first: gone.jpg" in str(found)
    assert isinstance(row(40, max_bad_samples=0.2), Portion)
    assert isinstance(row(41, max_bad_samples=0.2), TrainError)
    assert isinstance(row(1, max_bad_samples=0.0), TrainError)
    assert "of 200 samples in a row" in str(row(200, max_bad_samples=1.0))


def test_a_bad_donor_of_noise_makes_room_too(fed):
    settings = {
        "guidance": Guidance(noise=1.0),
        "regions": Regions(share=1.0),
        "batch_size": 23,
        "micro_batch_size": 23,
    }
    feed = fed(Toys(23), **settings)
    one = feed.order.step(0)[5]
    assert one.guided
    donor = feed.order.other(0, one.index, one.epoch)
    after = next(i for i in list(feed.order.following(0, donor, True))[1:] if i != one.index)
    bad = fed(Toys(23, broken={donor: GONE}), **settings).read(one)
    expected = fed(Toys(23, broken={donor: Toys(23).read(after, one.epoch)}), **settings).read(one)
    for phrase, same, other in zip(bad.phrases, expected.phrases, feed.read(one).phrases, strict=True):
        assert (phrase.mask == same.mask).all()
        assert (phrase.mask != other.mask).any()


def test_two_sources_of_one_name_are_refused(fed):
    sources = (SourceSpec("a"), SourceSpec("b"))
    with pytest.raises(DataError, match=r"two sources of the stage are called 'toys'.*options\.name"):
        fed([Toys(), Toys(9)], sources=sources)
    # The same ids under two names stay apart.
    feed = fed([Toys(), Toys(23, name="others")], sources=sources)
    found = {name for step in ids(feed, 8) for name in step}
    assert {"toys/toys-3", "others/others-3"} <= found
