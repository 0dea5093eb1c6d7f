"""The order of samples: permutations without memory, mixes by weight, guided quotas, replay from any step."""

from collections import Counter

import numpy as np
import pytest

from train.data.sampler import Order, Pool, permute


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_a_permutation_and_its_inverse(size):
    everything = np.arange(size)
    found = permute(everything, size, 5)
    assert sorted(found.tolist()) == everything.tolist()
    assert permute(found, size, 5, inverse=True).tolist() == everything.tolist()
    if size > 60:
        assert found.tolist() != permute(everything, size, 6).tolist()
        # Neither near where they were nor near each other.
        assert np.abs(found - everything).mean() > size / 5
        assert np.abs(np.diff(found)).mean() > size / 5


def test_places_do_not_depend_on_what_is_asked_with_them():
    assert permute(np.array([9_999_999]), 10_000_000, 1) == permute(np.arange(9_999_990, 10_000_000), 10_000_000, 1)[-1]


def test_an_epoch_has_every_sample_once_and_the_next_another_order():
    order = Order([Pool("a", 24, 1.0)], 8, seed=0)
    drawn = [one for step in range(6) for one in order.step(step)]
    assert sorted(d.index for d in drawn[:24]) == list(range(24))
    assert {d.epoch for d in drawn[:24]} == {0}
    assert sorted(d.index for d in drawn[24:]) == list(range(24))
    assert {d.epoch for d in drawn[24:]} == {1}
    assert [d.index for d in drawn[:24]] != [d.index for d in drawn[24:]]


def test_any_step_alone_is_the_step_of_the_whole_run():
    pools = [Pool("a", 37, 3.0, range(0, 37, 2)), Pool("b", 11, 1.0, [3, 4, 9])]
    whole = [Order(pools, 10, 7, share=0.5, batch_share=0.25).step(k) for k in range(30)]
    for k in (0, 13, 29):
        assert Order(pools, 10, 7, share=0.5, batch_share=0.25).step(k) == whole[k]
    assert whole != [Order(pools, 10, 8, share=0.5, batch_share=0.25).step(k) for k in range(30)]


def test_sources_alternate_by_weight():
    order = Order([Pool("a", 1000, 5.0), Pool("b", 50, 2.0), Pool("c", 10, 1.0), Pool("off", 10, 0.0)], 16, seed=1)
    steps = [Counter(d.source for d in order.step(k)) for k in range(60)]
    assert all(9 <= c[0] <= 11 and 3 <= c[1] <= 5 and 1 <= c[2] <= 3 and not c[3] for c in steps)
    total = sum(steps, Counter())
    assert [total[s] / 960 for s in range(3)] == pytest.approx([0.625, 0.25, 0.125], abs=0.01)
    # Each source's own epochs are whole.
    drawn = [d.index for k in range(60) for d in order.step(k) if d.source == 2 and d.epoch == 4]
    assert sorted(drawn) == list(range(10))


def test_a_light_source_is_not_forgotten():
    order = Order([Pool("a", 1000, 1e6), Pool("b", 5, 1.0)], 64, seed=1)
    assert any(d.source for k in range(70) for d in order.step(k))


def test_shares_of_guided_samples():
    guided = list(range(0, 400, 2))
    order = Order([Pool("a", 400, 1.0, guided)], 20, seed=3, share=0.1)
    kept = [i for i in range(400) if order.keeps(0, i)]
    assert len(kept) == order.guided_samples == 20
    assert set(kept) <= set(guided)
    flagged = {d.index for k in range(20) for d in order.step(k) if d.guided}
    assert flagged == set(kept)
    assert kept != [i for i in range(400) if Order([Pool("a", 400, 1.0, guided)], 20, seed=4, share=0.1).keeps(0, i)]
    assert Order([Pool("a", 400, 1.0, guided)], 20, seed=3, share=1.0).guided_samples == 200
    assert Order([Pool("a", 400, 1.0, guided)], 20, seed=3).guided_samples == 0
    assert Order([Pool("a", 400, 1.0, guided[:3])], 20, seed=3, share=0.1).guided_samples == 1


@pytest.mark.parametrize("batch_share", [0.25, 0.1, 1.0])
def test_every_step_has_its_guided_samples(batch_share):
    pools = [Pool("a", 400, 1.0, range(0, 400, 2)), Pool("b", 100, 1.0)]
    order = Order(pools, 16, seed=3, share=0.2, batch_share=batch_share)
    steps = [order.step(k) for k in range(50)]
    counts = [sum(d.guided for d in step) for step in steps]
    assert all(abs(count - 16 * batch_share) < 1 for count in counts)
    assert sum(counts) == pytest.approx(50 * 16 * batch_share, abs=1)
    assert all(d.source == 0 and order.keeps(0, d.index) for step in steps for d in step if d.guided)
    # Over-sampled evenly, and not all at one end of a batch.
    drawn = Counter(d.index for step in steps for d in step if d.guided)
    assert max(drawn.values()) - (min(drawn.values()) if len(drawn) == 40 else 0) <= 1
    if batch_share == 0.25:
        front = sum(d.guided for step in steps for d in step[:8])
        assert 60 < front < 140


def test_another_sample_of_the_same_source():
    order = Order([Pool("a", 40, 1.0, range(40))], 4, seed=0, share=0.2)
    for index in range(40):
        other = order.other(0, index, 0)
        assert other != index
        assert order.keeps(0, other)
    assert len({order.other(0, index, 0) for index in range(40)}) > 4


def test_ten_million_samples_take_no_memory_and_no_time():
    import time

    began = time.perf_counter()
    order = Order([Pool("a", 10_000_000, 1.0, range(10_000_000))], 256, seed=0, share=0.1, batch_share=0.25)
    for step in range(100_000, 100_010):
        assert len({d.index for d in order.step(step)}) == 256
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_what_follows_a_sample(share):
    guided = list(range(0, 3000, 2))
    order = Order([Pool("a", 3000, 1.0, guided)], 4, seed=0, share=share)
    assert list(order.following(0, 2998, guided=False))[:4] == [2998, 2999, 0, 1]
    assert sorted(order.following(0, 7, guided=False)) == list(range(3000))
    kept = [i for i in range(3000) if order.keeps(0, i)]
    middle = len(kept) // 2
    assert list(order.following(0, kept[middle], guided=True)) == kept[middle:] + kept[:middle]
