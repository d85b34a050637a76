"""Seeds of photos: from the path in the output folder, under the run's seed."""

from nullface_pipeline.photo_folder import anonymize_photos, find_photos
from nullface_pipeline.runs.seeds import photo_seed

from ..photo_folder.stand_in import paint_black


def test_equal_names_in_two_folders_differ_and_the_same_path_is_the_same():
    assert photo_seed(7, "a/1.jpg") != photo_seed(7, "b/1.jpg")
    assert photo_seed(7, "a/1.jpg") == photo_seed(7, "a/1.jpg")
    assert photo_seed(7, "a/1.jpg") != photo_seed(8, "a/1.jpg")


def test_seeds_are_those_of_this_version():
    """Whoever kept a seed gets the same pictures again; a change is one for the changelog."""
    assert photo_seed(0, "a.jpg") == 1034313039160076577
    assert 0 <= photo_seed(2**63 - 1, "caf\udce9.jpg") < 2**62


def test_names_are_paths_in_the_output_folder(photos, tmp_path):
    names = []

    def note(file, name):
        names.append(name)
        return paint_black(file, name)

    output = tmp_path / "out"
    list(anonymize_photos(note, find_photos([photos], output)))
    assert names == ["a.jpg", "b/c/empty.webp", "b/d.JPG", "b/hard.png"]
    names.clear()
    list(anonymize_photos(note, find_photos([photos / "a.jpg"], tmp_path / "elsewhere")))
    assert names == ["a.jpg"], "wherever the folder is"
