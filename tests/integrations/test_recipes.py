from __future__ import annotations

from simgym.integrations import as_mapping, last_complete_checkpoint


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path):
    assert last_complete_checkpoint(tmp_path / "nothing") is None
    for step, complete in ((9, True), (10, True), (20, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-last").mkdir()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_settings_with_parts_come_from_yaml_or_as_json():
    assert as_mapping('{"max_new_tokens": 4}') == as_mapping({"max_new_tokens": 4}) == {"max_new_tokens": 4}
    assert as_mapping(None) == {}
