"""Options of a photo: whatever is out of range or of a wrong type is refused by name, before
anything is computed.
"""

import json
import math
from decimal import Decimal

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nullface_pipeline.photo_options import MAX_SEED, PRESETS, PhotoOptions, content, described, is_whole
from nullface_pipeline.photo_records import OptionError, OptionTypeError

from .refusals import refused_option


FIELDS = PhotoOptions.__dataclass_fields__
NUMBERS = [name for name, field in FIELDS.items() if described(field).is_number]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, -1e300, np.float32("nan")])
def test_numbers_are_finite_and_in_range(name, value):
    with refused_option(name):
        PhotoOptions(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["3", b"3", [3], {}, 3j, Decimal(1), True, np.array([1.0, 2.0]), object()])
def test_numbers_are_numbers(name, value):
    with refused_option(name, OptionTypeError):
        PhotoOptions(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_each_range_are_in_it(name):
    about, whole = described(FIELDS[name]), is_whole(FIELDS[name])
    # Below 0 some numbers need the opposite identity.
    identity = {"identity": "opposite"}
    for end in (about.low, about.high):
        assert getattr(PhotoOptions(**{name: int(end) if whole else end}, **identity), name) == end
    step = 1 if whole else 1e-3 * max(1.0, abs(about.high))
    for outside in (about.low - step, about.high + step):
        with refused_option(name):
            PhotoOptions(**{name: int(outside) if whole else outside}, **identity)


@pytest.mark.parametrize("name", ["seed", "max_attempts", "batch_faces", "num_inference_steps"])
def test_whole_numbers_are_whole(name):
    with refused_option(name, OptionTypeError):
        PhotoOptions(**{name: 2.5})
    assert getattr(PhotoOptions(**{name: np.int64(7)}), name) == 7


@pytest.mark.parametrize("option", [{"identity_scale": -1.0}, {"guidance_scale": -5.0}])
def test_a_face_is_not_moved_towards_the_person_by_accident(option):
    with refused_option(*option):
        PhotoOptions(**option)
    assert PhotoOptions(**option, identity="opposite").settings().items() >= option.items()


PEOPLE = np.ones((1, 512), dtype=np.float32)


@pytest.mark.parametrize("identity", ["random", "consistent"])
@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_an_angle_does_not_choose_the_identity(identity, angle):
    """An angle of 0 must not turn the default into the paper's way."""
    with refused_option("identity_angle"):
        PhotoOptions(identity=identity, identity_angle=angle)
    assert PhotoOptions(identity="opposite", identity_angle=angle).settings()["identity_angle"] == angle


@pytest.mark.parametrize("identity", ["random", "opposite"])
def test_people_belong_to_consistent_identities(identity):
    with refused_option("people"):
        PhotoOptions(identity=identity, people=PEOPLE)
    assert PhotoOptions(identity="consistent", people=PEOPLE).people is not None


@pytest.mark.parametrize("identity", ["stranger", "", None, True])
def test_identities_are_known(identity):
    with refused_option("identity"):
        PhotoOptions(identity=identity)


@pytest.mark.parametrize("cover", ["black", "", None, 3])
def test_covers_are_known(cover):
    with refused_option("cover"):
        PhotoOptions(cover=cover)


def test_a_prompt_is_one_text():
    assert PhotoOptions(prompt="an old man").settings()["prompt"] == "an old man"
    assert "prompt" not in PhotoOptions().settings()
    with refused_option("prompt", OptionTypeError):
        PhotoOptions(prompt=["an old man", "a child"])


@pytest.mark.parametrize("name", ["min_face", "max_attempts", "batch_faces", "keep", "preset", "skip_faces"])
def test_what_has_a_default_cannot_be_none(name):
    with refused_option(name):
        PhotoOptions(**{name: None})


@pytest.mark.parametrize(
    "skip_faces",
    [
        "abcd",
        b"abcd",
        5,
        {"box": (0, 0, 5, 5)},
        (1, 2, 3, 4),
        [(1, 2, 3)],
        [(1, 2, 3, "4")],
        [[1, 2, 3, 4, 5]],
        [b"abcd"],
        [None],
        [np.zeros((2, 4))],
        [(True, False, 2, 3)],
        PIL.Image.new("RGB", (9, 9)),
    ],
)
def test_people_to_spare_are_boxes_or_photos(skip_faces):
    with refused_option("skip_faces", OptionTypeError):
        PhotoOptions(skip_faces=skip_faces)


@pytest.mark.parametrize(
    "box",
    [
        (math.nan, 0, 5, 5),
        (0, 0, math.inf, 5),
        (-math.inf, 0, 5, 5),
        (math.nan,) * 4,
        (5, 0, 5, 5),
        (9, 0, 5, 5),
        (0, 5, 5, 1),
    ],
)
def test_a_box_to_spare_is_a_box(box):
    with refused_option("skip_faces"):
        PhotoOptions(skip_faces=[box])


def test_people_to_spare_may_be_embeddings():
    (person,) = PhotoOptions(skip_faces=[np.ones(512)]).skip_faces
    assert person.shape == (512,) and person.dtype == np.float32
    with refused_option("skip_faces"):
        PhotoOptions(skip_faces=[np.full(512, math.nan)])


def test_good_values_become_plain_ones():
    photo = PIL.Image.new("RGB", (9, 9))
    options = PhotoOptions(keep=["eyes"], skip_faces=[np.array([1, 2, 3, 4], np.float32), photo], skip=np.float32(0.5))
    assert options.keep == ("eyes",) and options.skip_faces == ((1.0, 2.0, 3.0, 4.0), photo)
    assert type(options.skip) is float and type(options.skip_faces[0][0]) is float


@pytest.mark.parametrize("keep", ["eyes", 5, [5], [("eyes",)], None])
def test_regions_are_a_list_of_names(keep):
    with refused_option("keep"):
        PhotoOptions(keep=keep)


@pytest.mark.parametrize("wrong", [{"preset": "much"}, {"preset": 3}, {"on_failure": "ignore"}, {"on_failure": True}])
def test_choices(wrong):
    with refused_option(*wrong):
        PhotoOptions(**wrong)


def test_leniency_is_a_plain_yes():
    with refused_option("accept_recognizable", OptionTypeError):
        PhotoOptions(accept_recognizable="yes")
    with refused_option("keep_mask", OptionTypeError):
        PhotoOptions(keep_mask=np.zeros((9, 9)))


def test_settings_are_the_presets_and_what_is_given():
    assert PhotoOptions(preset="strong").settings() == PRESETS["strong"]
    given = PhotoOptions(preset="strong", skip=0.0, eta=0.5).settings()
    assert given == {**PRESETS["strong"], "skip": 0.0, "eta": 0.5}


def test_the_private_preset_needs_a_random_identity():
    assert PhotoOptions(preset="private").settings()["min_angle"] == 90.0
    for identity in ("opposite", "consistent"):
        with refused_option("preset"):
            PhotoOptions(preset="private", identity=identity)


@pytest.mark.parametrize(
    "options", [{"identity": "opposite"}, {"keep": ("eyes",)}, {"keep_mask": PIL.Image.new("L", (9, 9))}]
)
def test_the_smallest_angle_is_for_random_identities_of_whole_faces(options):
    presets = {"standard": {"skip": 0.5, "min_angle": 40.0}}
    assert PhotoOptions().settings(presets) == presets["standard"]
    assert PhotoOptions(**options).settings(presets) == {"skip": 0.5}


def test_few_steps_or_many():
    assert PhotoOptions(preset="fast").settings()["few_steps"] == 7
    assert PhotoOptions(preset="strong", few_steps=5).settings() == {**PRESETS["strong"], "few_steps": 5}
    assert "few_steps" not in PhotoOptions(preset="fast", num_inference_steps=50).settings()
    with refused_option("few_steps"):
        PhotoOptions(few_steps=7, num_inference_steps=50)


def test_arguments_by_name():
    options = PhotoOptions.from_arguments({"seed": 3}, PhotoOptions(seed=1, keep=("eyes",)))
    assert (options.seed, options.keep) == (3, ("eyes",))
    with pytest.raises(TypeError, match="output_type"):
        PhotoOptions.from_arguments({"output_type": "pt"})
    with pytest.raises(TypeError, match="options"):
        PhotoOptions.from_arguments({}, ("eyes",))
    with refused_option("seed"):
        PhotoOptions.from_arguments({"seed": MAX_SEED + 1}, PhotoOptions())


def test_content_holds_what_results_depend_on():
    def changed(**options):
        return content(PhotoOptions(**options)) != content(PhotoOptions())

    reference = PIL.Image.new("RGB", (9, 9))
    for options in ({"keep": ("eyes",)}, {"skip": 0.5}, {"cover": "blur"}, {"skip_faces": [reference]}):
        assert changed(**options)
    assert not changed(seed=1) and not changed(batch_faces=2) and not changed(on_progress=print)
    black, white = (PIL.Image.new("L", (9, 9), value) for value in (0, 255))
    assert content(PhotoOptions(keep_mask=black)) != content(PhotoOptions(keep_mask=white))
    orders = [("eyes", "mouth"), ("mouth", "eyes")]
    assert len({json.dumps(content(PhotoOptions(keep=order))) for order in orders}) == 1


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.lists(st.floats(), max_size=5),
    st.lists(st.lists(st.floats(), max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@given(st.sampled_from(sorted(PhotoOptions.__dataclass_fields__)), anything)
def test_whatever_is_given_is_taken_or_refused_in_words(name, value):
    try:
        taken = getattr(PhotoOptions(**{name: value}), name)
    except OptionError as error:
        assert error.option == name
        return
    if isinstance(taken, float):
        assert math.isfinite(taken)
