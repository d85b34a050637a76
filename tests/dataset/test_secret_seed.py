import pytest

from nullface_pipeline.dataset import StorageLocation, read_or_draw_seed, seed_path


def test_a_seed_is_drawn_once_and_kept_for_its_owner(tmp_path):
    path = tmp_path / "keys" / "seed"
    seed = read_or_draw_seed(path)
    assert read_or_draw_seed(path) == seed and path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["seed"]
    assert read_or_draw_seed(tmp_path / "other") != seed


def test_a_seed_that_others_can_read_or_that_is_none(tmp_path):
    path = tmp_path / "seed"
    path.write_text("7\n")
    path.chmod(0o644)
    with pytest.raises(ValueError, match=path.name):
        read_or_draw_seed(path)
    path.chmod(0o600)
    assert read_or_draw_seed(path) == 7
    for text in ("", "-1", "x", str(2**62), "1 2"):
        path.write_text(text)
        with pytest.raises(ValueError, match=path.name):
            read_or_draw_seed(path)


def test_each_target_has_its_own(tmp_path):
    first, second = seed_path(StorageLocation(str(tmp_path / "a"))), seed_path(StorageLocation("memory://bucket/a"))
    assert first != second and first.parent == second.parent
    assert seed_path(StorageLocation(str(tmp_path / "b" / ".." / "a"))) == first
