"""A source's regions, part by part: what is in them, going on after a stop, sharing the work, training with them."""

import errno
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from agevlm.data.noise import Noise, resize_mask
from agevlm.errors import CheckpointError, DataError, TrainError
from tests.train.teacher.painted import COLOURS, PLACES, ByColour, Painted, painted
from train.data.masked import MaskedSource
from train.data.region_table import part_path, read_facts, read_manifest
from train.data.samples import BadSample, Message, Words
from train.teacher.gates import EXACT, Gates
from train.teacher.phrases import Given
from train.teacher.producer import Grounded
from train.teacher.run import MaskSettings, chosen_samples, make_masks
from train.teacher.summary import summarise


def settings(producer=None, **changes):
    return MaskSettings(Given(), producer or ByColour(), changes.pop("gates", EXACT), span=6, batch_images=2, **changes)


def rows_of(folder):
    manifest = read_manifest(folder)
    return [row for part in range(manifest.parts) for row in pq.read_table(part_path(folder, part)).to_pylist()]


def true_region(number, colour):
    return (np.asarray(painted(number)) == COLOURS[colour]).all(-1)


def decoded(row, place):
    return coco.decode({"size": [row["height"], row["width"]], "counts": row["masks"][place]}).astype(bool)


@pytest.fixture
def made(tmp_path):
    make_masks(Painted(), settings(), tmp_path / "regions")
    return tmp_path / "regions"


def test_every_phrase_of_every_sample_has_its_row_and_its_region(made):
    rows = rows_of(made)
    assert [(row["sample"], row["phrase"]) for row in rows] == [(i, phrase) for i in range(20) for phrase in PLACES]
    source = Painted()
    for row in rows:
        sample = source.read(row["sample"], 0)
        assert (row["sample_id"], row["image"], row["image_sha256"]) == (
            sample.id,
            sample.image_name,
            sample.image_sha256,
        )
        assert (row["height"], row["width"]) == (sample.image.height, sample.image.width)
        assert sample.messages[0].text[row["start"] : row["end"]] == row["phrase"]
        assert row["producer"] == "by colour 1"
        region = true_region(row["sample"] // 2, row["phrase"].split()[0])
        union = np.zeros_like(region)
        for place in range(row["kept"]):
            union |= decoded(row, place)
        assert np.array_equal(union, region)
        assert (row["kept"] > 0) == bool(region.any())
    assert any(not row["kept"] for row in rows)
    assert any(row["kept"] == 2 for row in rows)


def test_an_image_is_looked_at_once_however_often_it_is_asked_about(tmp_path):
    producer = ByColour()
    make_masks(Painted(), settings(producer), tmp_path / "r")
    assert producer.asked == [(f"{number}.png", phrase) for number in range(10) for phrase in PLACES]


def test_what_is_done_is_not_done_again_and_the_end_is_the_same(made, tmp_path):
    out = tmp_path / "stopped"
    stopped = ByColour(stop_after=9)
    with pytest.raises(KeyboardInterrupt):
        make_masks(Painted(), settings(stopped), out)
    done = sorted(path.name for path in (out / "parts").iterdir())
    assert done == ["000000.parquet"]
    again = ByColour()
    work = make_masks(Painted(), settings(again), out)
    assert work.parts == 3
    assert {key for key, _ in again.asked} == {f"{number}.png" for number in range(3, 10)}
    assert rows_of(out) == rows_of(made)
    assert make_masks(Painted(), settings(again), out).parts == 0


def test_on_a_full_disk_parts_that_are_done_stay(made, tmp_path, monkeypatch):
    out, written = tmp_path / "r", []
    write_table = pq.write_table

    def until_full(table, path, **options):
        if len(written) == 2:
            path.write_bytes(b"PAR1 and no more")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write_table(table, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", until_full)
        with pytest.raises(OSError, match="No space left"):
            make_masks(Painted(), settings(), out)
    assert sorted(path.name for path in (out / "parts").iterdir()) == ["000000.parquet", "000001.parquet"]
    make_masks(Painted(), settings(), out)
    assert rows_of(out) == rows_of(made)


def test_processes_share_the_parts_without_knowing_of_each_other(made, tmp_path):
    out = tmp_path / "shared"
    for rank in (2, 0, 1):
        work = make_masks(Painted(), settings(), out, rank=rank, ranks=3)
        assert work.parts == (2 if rank == 0 else 1)
    assert rows_of(out) == rows_of(made)


@pytest.mark.parametrize(
    ("source", "changes", "says"),
    [
        (Painted(fingerprint="painted-2"), {}, "data was 'painted-1', is 'painted-2'"),
        (Painted(), {"gates": Gates()}, "gates was"),
        (Painted(), {"noise": Noise("drop", 0.5)}, "noise was '', is 'drop 0.5'"),
        (Painted(), {"producer": ByColour(version="by colour 2")}, "producer was 'by colour 1'"),
    ],
)
def test_regions_of_other_data_or_settings_are_not_mixed_in(made, source, changes, says):
    with pytest.raises(TrainError, match=says):
        make_masks(source, settings(**changes), made)


def test_a_share_of_the_samples_is_drawn_by_the_seed(tmp_path):
    make_masks(Painted(200), settings(share=0.1, seed=3), tmp_path / "r")
    found = sorted({row["sample"] for row in rows_of(tmp_path / "r")})
    assert len(found) == 20
    assert found == chosen_samples(200, 0.1, 3).tolist() != chosen_samples(200, 0.1, 4).tolist()


def test_broken_samples_are_noted_and_too_many_stop_it(tmp_path):
    make_masks(Painted(60, broken=[4, 7]), settings(most_unread=0.05), tmp_path / "r")
    assert [one["index"] for part in range(10) for one in read_facts(tmp_path / "r", part).unread] == [4, 7]
    assert {4, 7}.isdisjoint(row["sample"] for row in rows_of(tmp_path / "r"))
    assert summarise(tmp_path / "r", read_manifest(tmp_path / "r")).unread == 2
    with pytest.raises(DataError, match=r"21 of 24 samples cannot be read.*painted 0.*broken"):
        make_masks(Painted(60, broken=[*range(10), *range(13, 40)]), settings(), tmp_path / "s")
    with pytest.raises(DataError, match=r"20 of 20|24 of 24"):
        make_masks(Painted(400, broken=range(400)), settings(most_unread=1.0), tmp_path / "t")


def test_what_the_gates_leave_out_is_stored_but_not_used(tmp_path):
    make_masks(Painted(), settings(ByColour(score=0.2), gates=Gates(least_area=0.0)), tmp_path / "r")
    rows = rows_of(tmp_path / "r")
    assert all(row["kept"] == 0 for row in rows)
    assert {row["dropped"] for row in rows if row["masks"]} == {"score"}
    assert any(row["masks"] for row in rows)
    summary = summarise(tmp_path / "r", read_manifest(tmp_path / "r"))
    assert (summary.with_region, summary.samples) == (0, 0)
    assert summary.dropped["score"] + summary.unfound == summary.phrases == 40


def test_swapped_regions_are_another_image_s(made, tmp_path):
    make_masks(Painted(), settings(noise=Noise("swap", 1.0)), tmp_path / "r")
    changed = 0
    for row, before in zip(rows_of(tmp_path / "r"), rows_of(made), strict=True):
        assert row["kept"] == before["kept"]
        changed += row["masks"] != before["masks"]
    assert changed > 20
    again = tmp_path / "again"
    make_masks(Painted(), settings(noise=Noise("swap", 1.0)), again)
    assert rows_of(again) == rows_of(tmp_path / "r")


def test_dropped_regions_are_gone_and_counted(made, tmp_path):
    make_masks(Painted(), settings(noise=Noise("drop", 0.5)), tmp_path / "r")
    before = sum(row["kept"] for row in rows_of(made))
    after = rows_of(tmp_path / "r")
    assert 0 < sum(row["kept"] for row in after) < before
    assert all(len(row["masks"]) == len(row["boxes"]) == len(row["scores"]) for row in after)
    assert any(row["dropped"] == "noise" for row in after)


class TestTrainingWithThem:
    def test_samples_come_with_the_union_of_the_used_regions(self, made):
        source = MaskedSource(Painted(), made)
        assert len(source) == 20
        assert source.name == "painted"
        assert list(source.guided) == list(range(20))
        for index in range(20):
            sample = source.read(index, 0)
            named = {sample.messages[p.message].text[p.start : p.end]: p.mask for p in sample.phrases}
            for phrase in PLACES:
                region = true_region(index // 2, phrase.split()[0])
                assert (phrase in named) == bool(region.any())
                if region.any():
                    assert np.array_equal(named[phrase], region)

    def test_workers_get_their_own_map_of_the_file(self, made):
        source = MaskedSource(Painted(), made)
        copy = pickle.loads(pickle.dumps(source))
        assert len(pickle.dumps(source.table)) < 3000
        one, other = source.read(5, 0), copy.read(5, 0)
        assert len(one.phrases) == len(other.phrases) > 0
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(one.phrases, other.phrases, strict=True))

    def test_the_fingerprint_changes_with_the_regions_alone(self, made, tmp_path):
        assert MaskedSource(Painted(), made).fingerprint == MaskedSource(Painted(), made).fingerprint
        make_masks(Painted(), settings(), tmp_path / "same")
        make_masks(Painted(), settings(noise=Noise("shift", 0.3)), tmp_path / "noisy")
        prints = [MaskedSource(Painted(), tmp_path / name).fingerprint for name in ("regions", "same", "noisy")]
        assert prints[0] == prints[1] != prints[2]

    def test_an_unfinished_folder_and_other_data_are_refused(self, made, tmp_path):
        with pytest.raises(DataError, match="the data have changed"):
            MaskedSource(Painted(fingerprint="other"), made)
        with pytest.raises(DataError, match=r"no masks\.json"):
            MaskedSource(Painted(), tmp_path)
        part_path(made, 2).unlink()
        with pytest.raises(DataError, match=r"1 of 4 parts are missing, first 000002\.parquet"):
            MaskedSource(Painted(), made)
        part_path(made, 2).write_bytes(b"PAR1 or not")
        with pytest.raises(DataError, match=r"000002\.parquet: cannot be read"):
            MaskedSource(Painted(), made)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda s: replace(s, image_sha256="0" * 64), "another file now"),
            (lambda s: replace(s, image=s.image.resize((30, 30)), image_sha256=""), "pixels, the image 30 x 30"),
            (lambda s: replace(s, messages=s.messages[1:]), "are not 'red thing'"),
            (lambda s: replace(s, image=None), "no image"),
        ],
    )
    def test_regions_of_another_image_or_text_are_refused_with_the_sample(self, made, change, says):
        class Changed(Painted):
            def read(self, index, epoch):
                return change(super().read(index, epoch))

        with pytest.raises(DataError, match=f"sample p5: .*{says}"):
            MaskedSource(Changed(), made).read(5, 0)

    def test_regions_that_the_source_knows_itself_stay(self, made):
        from train.data.samples import Phrase

        class Knowing(Painted):
            def read(self, index, epoch):
                sample = super().read(index, epoch)
                mask = np.ones((sample.image.height, sample.image.width), bool)
                return replace(sample, phrases=(Phrase(0, *PLACES["red thing"], mask),))

        sample = MaskedSource(Knowing(), made).read(3, 0)
        assert [p.mask.all() for p in sample.phrases] == [True, False]


def test_the_source_s_own_regions_can_be_written_and_read_back(made, tmp_path):
    with_regions = MaskedSource(Painted(), made)
    own = MaskSettings(Given(), None, EXACT, span=6)
    make_masks(with_regions, own, tmp_path / "own")
    for row, before in zip(rows_of(tmp_path / "own"), rows_of(made), strict=True):
        assert bool(row["kept"]) == bool(before["kept"])
        if row["kept"]:
            assert np.array_equal(decoded(row, 0), true_region(row["sample"] // 2, row["phrase"].split()[0]))
    assert json.loads((tmp_path / "own" / "masks.json").read_text())["producer"] == "the source's own"


@pytest.mark.parametrize("noise", [Noise("drop", 0.5), Noise("erode", 0.2), Noise("shift", 0.5)])
def test_the_source_s_own_regions_with_noise_take_the_place_of_the_exact_ones(made, tmp_path, noise):
    exact = MaskedSource(Painted(), made)
    make_masks(exact, MaskSettings(Given(), None, EXACT, noise=noise, span=6), tmp_path / "noisy")
    noisy = MaskedSource(exact, tmp_path / "noisy")
    rows = {(r["sample"], r["start"]): r for r in rows_of(tmp_path / "noisy")}
    changed = 0
    for index in range(20):
        clean, found = exact.read(index, 0), noisy.read(index, 3)
        assert {p.start for p in found.phrases} == {s for (i, s), r in rows.items() if i == index and r["kept"]}
        assert len(found.phrases) <= len(clean.phrases)
        for phrase in found.phrases:
            assert np.array_equal(phrase.mask, decoded(rows[index, phrase.start], 0))
        kept = {p.start: p.mask for p in found.phrases}
        changed += sum(not np.array_equal(p.mask, kept.get(p.start)) for p in clean.phrases)
    assert changed > 5
    assert set(noisy.guided) == {i for (i, _), r in rows.items() if r["kept"]}


def test_texts_that_change_by_epoch_stay_those_that_the_regions_are_of(made):
    class Changing(Painted):
        def read(self, index, epoch):
            sample = super().read(index, epoch)
            return sample if not epoch else replace(sample, messages=(Message("user", "Well?"), sample.messages[1]))

    source = MaskedSource(Changing(), made)
    assert source.read(3, 5).messages == source.read(3, 0).messages
    assert source.read(3, 5).phrases


def test_what_was_unreadable_before_counts_too(tmp_path):
    broken = Painted(40, broken=range(0, 40, 3))
    with pytest.raises(DataError, match="cannot be read"):
        make_masks(broken, settings(most_unread=0.0), tmp_path / "r")
    assert not list((tmp_path / "r" / "parts").glob("*")) if (tmp_path / "r" / "parts").exists() else True
    halves = settings(most_unread=0.4)
    make_masks(broken, halves, tmp_path / "s", rank=0, ranks=1)
    part_path(tmp_path / "s", 6).unlink()
    with pytest.raises(DataError, match=r"14 of 40|14 of 4"):
        make_masks(broken, replace(halves, most_unread=0.0), tmp_path / "s")


class Scattered(Painted):
    """Images take turns, and a text names a word for nothing too."""

    def read(self, index, epoch):
        sample = super().read(2 * (index % 3), epoch)
        text = "In the image the red thing is near the blue square."
        words = tuple(Words(0, text.index(w), text.index(w) + len(w)) for w in ("image", *PLACES))
        return replace(sample, id=f"s{index}", messages=(Message("user", text), sample.messages[1]), words=words)


def test_rows_are_in_the_order_of_samples_and_words_for_nothing_are_not_asked(tmp_path):
    producer = ByColour()
    make_masks(Scattered(6), settings(producer), tmp_path / "r")
    found = [(row["sample"], row["phrase"]) for row in rows_of(tmp_path / "r")]
    assert found == [(i, phrase) for i in range(6) for phrase in PLACES]
    assert {phrase for _, phrase in producer.asked} == set(PLACES)


def test_a_swapped_region_comes_from_the_only_other_image(tmp_path):
    make_masks(Painted(4), settings(noise=Noise("swap", 1.0)), tmp_path / "r")
    make_masks(Painted(4), settings(), tmp_path / "before")
    halves = {0: [], 1: []}
    for row in rows_of(tmp_path / "before"):
        halves[row["sample"] // 2] += [decoded(row, place) for place in range(row["kept"])]
    for row in rows_of(tmp_path / "r"):
        other = [resize_mask(half, row["height"], row["width"]) for half in halves[1 - row["sample"] // 2]]
        for place in range(row["kept"]):
            assert any(np.array_equal(decoded(row, place), half) for half in other)


def test_regions_that_noise_leaves_nothing_of_are_gone(made, tmp_path):
    assert any(row["kept"] for row in rows_of(made))
    make_masks(Painted(), settings(noise=Noise("erode", 1.0)), tmp_path / "r")
    assert all(row["kept"] == 0 and row["masks"] == [] for row in rows_of(tmp_path / "r"))


def test_training_gets_the_used_regions_alone(tmp_path):
    class Unsure(ByColour):
        def produce(self, pictures):
            found = super().produce(pictures)
            return [[[replace(one, score=0.9 - 0.8 * i) for i, one in enumerate(p)] for p in s] for s in found]

    make_masks(Painted(), settings(Unsure(), gates=replace(EXACT, score=0.5)), tmp_path / "r")
    rows = [row for row in rows_of(tmp_path / "r") if row["kept"]]
    assert any(len(row["masks"]) == 2 for row in rows)
    source = MaskedSource(Painted(), tmp_path / "r")
    for row in rows:
        sample = source.read(row["sample"], 0)
        (mask,) = [p.mask for p in sample.phrases if p.start == row["start"]]
        assert row["kept"] == 1
        assert np.array_equal(mask, decoded(row, 0))


@pytest.mark.parametrize("error", [BadSample("image 3.png: not annotated", "image"), RuntimeError("not annotated\nat")])
def test_an_image_that_the_producer_cannot_take_costs_the_others_nothing(made, tmp_path, error):
    class Picky(ByColour):
        def produce(self, pictures):
            if any(picture.key == "3.png" for picture in pictures):
                raise error
            return super().produce(pictures)

    work = make_masks(Painted(), settings(Picky()), tmp_path / "r")
    assert [(one["index"], one["id"]) for one in work.unread] == [(6, "p6"), (7, "p7")]
    assert work.unread[0]["reason"].startswith("image 3.png: ")
    assert work.unread[0]["reason"].endswith("not annotated")
    assert rows_of(tmp_path / "r") == [row for row in rows_of(made) if row["image"] != "3.png"]
    summary = summarise(tmp_path / "r", read_manifest(tmp_path / "r"))
    assert (summary.images, summary.unread) == (9, 2)


def test_images_too_thin_for_a_detector_are_left_out(tmp_path):
    class Finds:
        version = "finds"

        def detect(self, pictures):
            return [[[] for _ in picture.phrases] for picture in pictures]

        def segment(self, images, boxes):
            return [[] for _ in images]

    class Thin(Painted):
        def read(self, index, epoch):
            sample = super().read(index, epoch)
            return replace(sample, image=sample.image.resize((400, 2))) if index in (4, 5) else sample

    work = make_masks(Thin(), settings(Grounded(Finds(), Finds())), tmp_path / "r")
    assert [one["index"] for one in work.unread] == [4, 5]
    assert "400 x 2 pixels is too thin" in work.unread[0]["reason"]


def test_rare_phrases_are_forgotten_where_there_are_too_many_and_counts_stay(made, monkeypatch):
    manifest = read_manifest(made)
    whole = summarise(made, manifest)
    monkeypatch.setattr("train.teacher.summary.DISTINCT", 1)
    assert summarise(made, manifest) == whole


def test_a_model_that_takes_no_image_stops_it(tmp_path):
    class Broken(ByColour):
        def produce(self, pictures):
            raise RuntimeError("no kernel")

    with pytest.raises(DataError, match="RuntimeError: no kernel"):
        make_masks(Painted(400), settings(Broken()), tmp_path / "r")

    class NoNumbers(ByColour):
        def produce(self, pictures):
            raise CheckpointError("no numbers")

    with pytest.raises(CheckpointError):
        make_masks(Painted(400), settings(NoNumbers()), tmp_path / "s")
