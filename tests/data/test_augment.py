"""What augmentation does to texts, pictures, masks and boxes, beside slow ways to say the same."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_tasks
from PIL import Image

from launcher import recipe as recipes
from launcher.__main__ import main
from launcher.data.augment import steps, texts, views
from launcher.errors import DataError
from launcher.recipe import RecipeErrors

TEXT = "  The quick brown fox,\n jumps over the lazy dog again and again "


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def changed(step: Any, text: str = TEXT, seed: int = 0, mask: str | None = "[MASK]", synonyms: Any = None) -> str:
    return texts.changed(text, step, rng(seed), mask, synonyms or {})


# --- texts ---------------------------------------------------------------------------------------------------------------


def test_deletion_leaves_a_subsequence_of_about_the_share_and_never_nothing() -> None:
    words, text = [f"w{n}" for n in range(4000)], " ".join(f"w{n}" for n in range(4000))
    left = changed(steps.RandomDeletion(name="random_deletion", share=0.3), text).split()
    assert left == [word for word in words if word in set(left)]
    assert len(left) == pytest.approx(2800, abs=4 * (4000 * 0.3 * 0.7) ** 0.5)
    one = {changed(steps.RandomDeletion(name="random_deletion", share=1.0), "a b c", seed) for seed in range(30)}
    assert one == {"a", "b", "c"}


def test_swapping_keeps_the_words_and_the_white_space() -> None:
    step = steps.RandomSwap(name="random_swap", share=0.5)
    said = changed(step)
    assert sorted(said.split()) == sorted(TEXT.split()) and said.split() != TEXT.split()
    assert [character for character in said if character.isspace()] == [c for c in TEXT[:-1] if c.isspace()]


def test_masking_hides_words_in_their_places() -> None:
    said = changed(steps.RandomMasking(name="random_masking", share=0.4)).split()
    assert len(said) == len(TEXT.split())
    hidden = [place for place, word in enumerate(said) if word == "[MASK]"]
    assert 0 < len(hidden) < len(said)
    assert all(word in ("[MASK]", old) for word, old in zip(said, TEXT.split(), strict=True))


def test_characters_are_the_unit_of_scripts_without_spaces() -> None:
    said = changed(
        steps.RandomMasking(name="random_masking", share=0.4, unit="character"), "今天天气很好我们去公园", mask="@"
    )
    assert len(said) == len("今天天气很好我们去公园") and 0 < said.count("@") < len(said)


def test_synonyms_keep_capitals_and_punctuation(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("quick, fast\nagain, anew, once more\nthe, the\n")
    found = texts.synonyms_of(str(tmp_path / "words.txt"))
    assert found == {"quick": ["fast"], "fast": ["quick"], "again": ["anew", "once more"], "anew": ["again", "once more"],
                     "once more": ["again", "anew"]}  # fmt: skip
    step = steps.SynonymReplacement(name="synonym_replacement", path="x", share=1.0)
    said = {changed(step, '"Again," quick.', seed, synonyms=found) for seed in range(20)}
    assert said == {'"Anew," fast.', '"Once more," fast.'}
    (tmp_path / "words.json").write_text('{"Quick": ["fast"]}')
    assert texts.synonyms_of(str(tmp_path / "words.json")) == {"quick": ["fast"]}
    for name, content, match in (
        ("a.json", "[1]", "are not"),
        ("b.txt", "alone\n", "no two words"),
        ("c.json", '{"a": [1]}', "no word"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=match):
            texts.synonyms_of(str(tmp_path / name))
    with pytest.raises(DataError, match="cannot be read"):
        texts.synonyms_of(str(tmp_path / "missing.txt"))


# --- pictures ------------------------------------------------------------------------------------------------------------


def picture(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(rng(3).integers(0, 255, (height, width, 3), np.uint8))


def test_a_flip_is_numpys() -> None:
    for direction, axis in (("horizontal", 1), ("vertical", 0)):
        view = views.draw([steps.Flip(name="flip", probability=1.0, direction=direction)], rng())
        assert np.array_equal(np.asarray(view.picture(picture())), np.flip(np.asarray(picture()), axis))
        mask = rng().integers(0, 5, (40, 60)).astype(np.uint8)
        assert np.array_equal(view.mask(mask), np.flip(mask, axis))


def test_a_rotation_is_pillows_and_twice_a_half_turn_is_nothing() -> None:
    view = views.View([views._turned(30.0)])
    smooth = picture(6, 4).resize((60, 40), Image.Resampling.BICUBIC)
    theirs = np.asarray(smooth.rotate(30, Image.Resampling.BILINEAR, fillcolor=views.GREY)).astype(int)
    off = np.abs(np.asarray(view.picture(smooth)).astype(int) - theirs)
    assert np.percentile(off, 99) <= 2  # half a pixel of where the centre is
    half = views.View([views._turned(90.0), views._turned(90.0)])
    turned = np.asarray(half.picture(picture())).astype(int)
    assert np.abs(turned - np.asarray(picture())[::-1, ::-1]).max() <= 1  # Pillow's fixed-point weights


def test_a_crop_shows_a_part_of_the_area_that_is_asked_for() -> None:
    step = steps.RandomCrop(name="random_crop", min_scale=0.25, min_ratio=0.5)
    corners = np.array([[-0.5, 0.5], [-0.5, 0.5], [1, 1]])
    areas = []
    for seed in range(300):
        (made,) = views.draw([step], rng(seed)).maps
        first, last = (np.linalg.inv(made(0.7)) @ corners)[:2].T
        assert (first >= -0.5 - 1e-9).all() and (last <= 0.5 + 1e-9).all()
        areas.append(np.prod(last - first))
        width, height = last - first
        assert 0.5 - 1e-9 <= width / height <= 2 + 1e-9 or max(width, height) == pytest.approx(1)
    assert min(areas) > 0.2 and max(areas) <= 1 + 1e-9 and np.std(areas) > 0.1


@pytest.mark.parametrize("seed", range(12))
def test_boxes_and_masks_go_where_the_picture_goes(seed: int) -> None:
    """A white rectangle in the picture, in the mask and as a box: after any change of shape all three are in the same place."""
    x, y, w, h = 40, 30, 60, 45
    image, mask = np.zeros((150, 200, 3), np.uint8), np.zeros((150, 200), np.uint8)
    image[y : y + h, x : x + w], mask[y : y + h, x : x + w] = 255, 1
    shapes = [
        steps.Flip(name="flip"),
        steps.Rotation(name="rotation", degrees=40.0),
        steps.RandomCrop(name="random_crop", min_scale=0.6),
        steps.RandAugment(name="rand_augment", num_ops=3, magnitude=12),
    ]
    view = views.draw(shapes, rng(seed))
    view.colours.clear()
    assert view.maps
    seen = np.asarray(view.picture(Image.fromarray(image))).astype(int)
    white, classes = seen.min(2) > 190, view.mask(mask)  # 190: between the grey beyond the border and white
    beyond = classes == 255
    assert (white == (classes == 1))[~beyond].mean() > 0.98
    (box,), kept = view.boxes(np.array([[x, y, w, h]], float), 200, 150)
    rows, columns = np.nonzero(classes == 1)
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    assert kept.all()
    first, last = box[:2], box[:2] + box[2:]
    assert (first <= np.array(found[:2]) + 2).all() and (last >= np.array(found[2:]) - 2).all()
    if (first > 0).all() and (last < [200, 150]).all():  # else a corner of the hull may be out of sight
        np.testing.assert_allclose([*first, *last], found, atol=2.0)


def test_what_comes_first_is_done_first_and_beyond_the_border_nothing_counts() -> None:
    moved, flipped = views._moved(0.5, 0.0), views._scaled(-1, 1)
    mask = np.ones((4, 8), np.uint8)
    for maps, left in (([moved, flipped], 1), ([flipped, moved], 255)):
        seen = views.View(maps).mask(mask)
        assert (seen[:, :4] == left).all() and (seen[:, 4:] == 256 - left).all()


def test_a_box_that_is_hardly_seen_is_taken_away_with_its_label() -> None:
    view = views.View([views._moved(0.5, 0.0)])
    boxes, kept = view.boxes(np.array([[10, 10, 10, 10], [41, 10, 10, 10], [49.5, 0, 10, 10]], float), 100, 50)
    assert kept.tolist() == [True, True, False]
    np.testing.assert_allclose(boxes, [[60, 10, 10, 10], [91, 10, 9, 10]])


def test_colours_change_and_shapes_do_not() -> None:
    step = steps.ColorJitter(name="color_jitter", brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2)
    view = views.draw([step], rng(1))
    assert not view.maps and not np.array_equal(np.asarray(view.picture(picture())), np.asarray(picture()))
    still = steps.ColorJitter(name="color_jitter", brightness=0.0, contrast=0.0, saturation=0.0)
    assert np.array_equal(np.asarray(views.draw([still], rng()).picture(picture())), np.asarray(picture()))
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert np.asarray(views._hue(red, 85))[0, 0].argmax() == 1  # a third of the circle: green


def test_rand_augment_draws_every_operation_and_nothing_at_magnitude_zero() -> None:
    drawn = [views.draw([steps.RandAugment(name="rand_augment", num_ops=1)], rng(seed)) for seed in range(300)]
    kinds = Counter((len(view.maps), len(view.colours)) for view in drawn)
    assert kinds[1, 0] == pytest.approx(300 * 5 / 14, rel=0.3) and kinds[0, 1] == pytest.approx(300 * 8 / 14, rel=0.3)
    weak = views.draw([steps.RandAugment(name="rand_augment", num_ops=40, magnitude=0)], rng(5))
    assert np.allclose(weak._in_pixels(60, 40), np.eye(3))


# --- runs ----------------------------------------------------------------------------------------------------------------

STEPS = {
    "text_classification": "[{name: random_deletion, share: 0.3}, {name: random_swap, probability: 0.5}]",
    "text_regression": "[{name: random_swap, share: 0.5}]",
    "image_classification": "[{name: flip, direction: vertical, probability: 0.4}, {name: random_crop, min_scale: 0.3}, "
    "{name: color_jitter, hue: 0.2}, {name: rand_augment, num_ops: 1, magnitude: 5}]",
    "object_detection": "[{name: flip}, {name: rotation, degrees: 20.0}]",
    "semantic_segmentation": "[{name: rand_augment}]",
}
LENGTH = ["training={global_batch_size: 4, per_device_train_batch_size: 2, max_steps: 4}", "logging.logging_steps=1"]


@pytest.mark.parametrize("task", STEPS)
def test_a_run_sees_other_rows_each_time_and_two_processes_see_the_same(task: str, tmp_path: Path) -> None:
    recipe = tiny_tasks.make(task, tmp_path)
    words = [*LENGTH, f"data.augment={STEPS[task]}", "regularization.dropout=null"]
    plain = tmp_path / "plain"
    assert tiny.train(recipe, *LENGTH, f"output_dir={plain}") == 0
    for world in (1, 2):
        log = tmp_path / f"{world}.log"
        ranks = tiny.Ranks(world, ["train", str(recipe), *words, f"output_dir={tmp_path / str(world)}"], log)
        assert ranks.wait() == [0] * world, log.read_text()
    one = tiny.losses(tmp_path / "1")
    assert tiny.losses(tmp_path / "2") == pytest.approx(one, rel=1e-4)
    assert one != tiny.losses(plain)
    planned = json.loads((tmp_path / "1" / "plan.json").read_text())["values"]["augment"]["value"]
    assert len(planned) == STEPS[task].count("name:") and planned[0].startswith(
        STEPS[task][8:].split(",")[0].strip("}]")
    )


def test_steps_for_another_kind_of_data_are_refused(tmp_path: Path) -> None:
    texts_recipe, pictures = (
        tiny_tasks.make("text_classification", tmp_path / "t"),
        tiny_tasks.make("image_classification", tmp_path / "p"),
    )
    with pytest.raises(
        RecipeErrors, match=r"augment\.1\.name: text_classification is learned from texts; there are random_deletion"
    ):
        recipes.load(texts_recipe, ["data.augment=[{name: random_swap}, {name: flip}]"])
    with pytest.raises(
        RecipeErrors, match="image_classification is learned from pictures; there are random_crop, flip"
    ):
        recipes.load(pictures, ["data.augment=[{name: random_swap}]"])
    with pytest.raises(RecipeErrors, match="there is no file"):
        recipes.load(texts_recipe, ["data.augment=[{name: synonym_replacement, path: words.txt}]"])
    with pytest.raises(RecipeErrors, match="rows of token_classification are not augmented"):
        recipes.load(tiny_tasks.make("token_classification", tmp_path / "w"), ["data.augment=[{name: random_swap}]"])
    with pytest.raises(RecipeErrors, match="did you mean rotation"):
        recipes.load(pictures, ["data.augment=[{name: rotaton}]"])


def test_a_mask_that_the_tokenizer_has_not_is_missed_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = tiny_tasks.make("text_classification", tmp_path)
    assert main(["plan", str(recipe), "data.augment=[{name: random_masking}]"]) == 89
    assert "random_masking needs a mask token" in capsys.readouterr().err
