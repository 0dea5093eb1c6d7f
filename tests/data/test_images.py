"""Image files become upright 8-bit RGB pixels, or an error that names them; never anything else."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from agevlm.data.images import EncodedFile, decode, original_bytes, read_file
from agevlm.data.sources import ContainerImages, FolderImages, require_images
from agevlm.errors import DataError


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return EncodedFile("pictures/a.png", stream.getvalue())


def pixels(file):
    image = decode(file)
    assert image.mode == "RGB"
    return np.asarray(image)


COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_pixels_of_lossless_formats_come_back_as_they_are(kind):
    assert (pixels(encoded(Image.fromarray(COLOURS), kind)) == COLOURS).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_all_eight_exif_orientations_are_applied(kind):
    # What a camera stores for an upright picture, by the EXIF specification.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255
    upright[:8, 16:24, 0] = 200
    for orientation, turn in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"exif": exif, "quality": 100, "subsampling": 0} if kind == "JPEG" else {"exif": exif}
        found = pixels(encoded(Image.fromarray(np.ascontiguousarray(turn(upright))), kind, **options))
        assert found.shape == upright.shape, orientation
        assert np.abs(found.astype(int) - upright).max() <= 12, orientation


def test_grey_palette_and_bilevel_pictures_keep_their_colours():
    grey = COLOURS[..., 0]
    assert (pixels(encoded(Image.fromarray(grey))) == grey[..., None]).all()
    palette = Image.fromarray(COLOURS).quantize(256)
    assert (pixels(encoded(palette)) == np.asarray(palette.convert("RGB"))).all()
    bilevel = Image.fromarray(grey > 127)
    assert (pixels(encoded(bilevel)) == np.where(grey > 127, 255, 0)[..., None]).all()


def test_transparency_is_dropped_and_colours_stay():
    alpha = np.dstack([COLOURS, np.full((6, 9), 7, np.uint8)])
    assert (pixels(encoded(Image.fromarray(alpha))) == COLOURS).all()
    grey_alpha = np.dstack([COLOURS[..., 0], np.full((6, 9), 7, np.uint8)])
    assert (pixels(encoded(Image.fromarray(grey_alpha, "LA"))) == COLOURS[..., :1]).all()


def test_cmyk_becomes_rgb():
    ink = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    red = pixels(encoded(ink, "TIFF"))[0, 0]
    assert red[0] > 200
    assert red[1:].max() < 60


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped_to_white(kind):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    assert (pixels(encoded(Image.fromarray(values), kind)) == (values >> 8)[..., None]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_defined_range_are_refused(dtype):
    with pytest.raises(DataError, match=r"pictures/a\.png: 32-bit pixels"):
        decode(encoded(Image.fromarray(COLOURS[..., 0].astype(dtype)), "TIFF"))


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    file = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (pixels(file) == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "TIFF"])
def test_a_truncated_file_is_an_error_that_names_it(kind):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind).data
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(DataError, match=r"image pictures/a\.png: (damaged|not an image)"):
            decode(EncodedFile("pictures/a.png", whole[: int(len(whole) * share)]))


def test_what_is_no_image_is_an_error_that_shows_how_it_begins():
    with pytest.raises(DataError, match=r"pictures/a\.png: not an image file.*<html>"):
        decode(EncodedFile("pictures/a.png", b"<html>404</html>"))


def test_a_picture_above_the_limit_is_refused_without_decoding_it(monkeypatch):
    file = encoded(Image.new("RGB", (20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 399)
    with pytest.raises(DataError, match=r"pictures/a\.png: too large to open safely"):
        decode(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(DataError, match="too large"):
        decode(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    assert decode(file).size == (20, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(file).size == (20, 20)


FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "ICO", "TGA", *(["WEBP"] if features.check("webp") else [])]
EXIF = Image.Exif()
EXIF[0x0112] = 6
WHOLE = {
    kind: encoded(Image.fromarray(COLOURS), kind, **({"exif": EXIF} if kind in ("PNG", "JPEG", "WEBP") else {})).data
    for kind in FORMATS
}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_damaged_bytes_give_pixels_or_a_data_error_and_nothing_else(kind, edits, share):
    data = bytearray(WHOLE[kind])
    for position, value in edits:
        data[position % len(data)] = value
    try:
        image = decode(EncodedFile("pictures/a.png", bytes(data[: max(1, int(len(data) * share))])))
    except DataError:
        return
    assert image.mode == "RGB"


def test_missing_empty_and_unreadable_files_are_errors_that_name_them(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name, message in [("gone.jpg", "no such file"), ("empty.jpg", "0 bytes"), ("folder.jpg", "cannot read")]:
        with pytest.raises(DataError, match=f"image {name}: .*{message}"):
            read_file(tmp_path / name, name)


def test_content_identity_follows_the_bytes_and_not_the_name():
    assert EncodedFile("a", b"1").sha256 == EncodedFile("b", b"1").sha256 != EncodedFile("a", b"2").sha256


def test_a_folder_gives_its_files_and_nothing_outside_it(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.jpg").write_bytes(b"inside")
    (tmp_path / "secret.jpg").write_bytes(b"outside")
    source = FolderImages(tmp_path / "in")
    assert source.read("sub/a.jpg") == EncodedFile("sub/a.jpg", b"inside")
    assert source.missing(["b.jpg", "sub/a.jpg", "sub"]) == ["b.jpg", "sub"]
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg")):
        with pytest.raises(DataError):
            source.read(name)
    with pytest.raises(DataError, match="no such folder"):
        FolderImages(tmp_path / "nowhere")


def test_a_container_gives_its_own_images_only():
    source = ContainerImages({"a.jpg": b"1"})
    assert source.read("a.jpg") == EncodedFile("a.jpg", b"1")
    assert source.missing(["b.jpg", "a.jpg", "c.jpg"]) == ["b.jpg", "c.jpg"]
    with pytest.raises(DataError, match=r"b\.jpg: not in"):
        source.read("b.jpg")


def test_missing_images_are_counted_once_each_and_shown_in_order(tmp_path):
    require_images(ContainerImages({"a": b"1"}), ["a", "a"])
    with pytest.raises(DataError, match=r"4 of 5 images are missing from the question file: b, c, d, \.\.\."):
        require_images(ContainerImages({"a": b"1"}), ["e", "d", "c", "b", "b", "a"])
    with pytest.raises(DataError, match=f"1 of 1 images are missing from {tmp_path}: x\\. "):
        require_images(FolderImages(tmp_path), ["x"])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_files_bytes_stay_with_the_decoded_image_and_with_nothing_made_from_it(kind):
    file = encoded(Image.fromarray(COLOURS), kind)
    image = decode(file)
    found = original_bytes(image)
    assert (found.data, found.media_type) == (file.data, f"image/{kind.lower()}")
    assert (np.asarray(Image.open(io.BytesIO(found.data))) == np.asarray(image)).all()
    made = [
        image.copy(),
        image.convert("RGB"),
        image.resize((4, 4)),
        image.crop((0, 0, 9, 6)),
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        Image.fromarray(np.asarray(image)),
        Image.merge("RGB", image.split()),
    ]
    assert [original_bytes(one) for one in made] == [None] * len(made)


def test_bytes_in_which_a_reader_could_see_other_pixels_are_not_kept():
    turned = Image.Exif()
    turned[0x0112] = 3
    image = Image.fromarray(COLOURS)
    more = Image.fromarray(255 - COLOURS)
    files = [
        encoded(image, "JPEG", exif=turned),
        encoded(image, "PNG", exif=turned),
        encoded(image, "PNG", save_all=True, append_images=[more]),
        encoded(image, "WEBP", save_all=True, append_images=[more]),
        encoded(image, "PNG", transparency=tuple(map(int, COLOURS[0, 0]))),
        encoded(image.convert("RGBA")),
        encoded(image.quantize(8)),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "GIF"),
        encoded(image, "BMP"),
    ]
    assert [original_bytes(decode(file)) for file in files] == [None] * len(files)
    assert original_bytes(decode(encoded(image.convert("L")))) is not None
