"""Settings of the test run: one thread for each process, the project importable, loggers as they
were."""

import gc
import logging
import multiprocessing
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a kill leaves is the same without waiting for the disk, and no test pulls the plug: that
# files are synced, and when, is seen by the calls.
os.fsync = lambda descriptor: None
gc.disable()  # until all is imported, which is kept

#: Files that take long, and are begun with: a worker that had one of them last would let the others
#: wait.
LONG = (
    "launch",
    "together",
    "suggestions",
    "examples",
    "commands",
    "trackers",
    "new_project",
    "update_project",
    "pages",
    "resume",
    "records",
    "sweep",
    "own_tasks",
    "ten_minutes",
    "auto",
    "door",
)


#: What takes most of the time by the number of its cases: of so many of them, one is run often, and
#: all by `.ci/run`. None: no case of it is.
OFTEN = {
    "test_what_it_says_helps": 10,
    "test_a_resumed_run_is_the_unbroken_one_whatever_the_seed_is_then": 3,
    "test_commands_work_where_they_are_printed": 4,
    "test_what_it_says_of_code_helps": 4,
    "test_a_file_that_is_no_json_is_mended_as_it_says": 3,
    "test_nothing_is_said_that_would_not_help": 3,
    "test_it_trains_is_continued_exactly_and_tested": 6,
    "test_two_processes_train_it": 4,
    "test_mlflow_has_what_was_trained": None,
    "test_each_row_runs": None,
    "test_a_run_goes_on_on_others": 5,
    "test_two_processes_train_as_one": 4,
    "test_weights_and_biases_offline": None,
    "test_the_tools_run_as_they_are_shown": 4,
    "test_the_sweep_of_the_page_runs": None,
    "test_its_commands_run": 3,
    "test_its_command_runs_and_it_is_clean": 3,
    "test_layers_that_are_trained_for_a_while_are_saved": 3,
    "test_it_trains_and_is_continued_exactly": 4,
    "test_they_are_clean": 3,
    "test_it_prints_what_the_page_says": 3,
    "test_debugging_by_a_config": 3,
    "test_each_epoch_is_over_the_data_as_it_is_then_also_on_a_resume": 3,
    "test_sizes_that_are_of_the_users_own_making": 2,
    "test_a_foreign_loader_with_workers_resumes_exactly": 2,
    "test_two_resume_two_bit_for_bit": 2,
    "test_a_stream_that_says_where_it_stands_is_not_read_again": 2,
    "test_it_continues_exactly_and_is_tested": 3,
    "test_nothing_of_other_tasks_is_left": 6,
    "test_the_commands_of_its_readme_run": None,
    "test_its_checks_pass_from_the_first_commit": None,
    "test_its_checks_pass_when_it_has_become_another_task": None,
    "test_its_tests_see_what_is_wrong": None,
    "test_data_that_is_not_there_is_no_fault": None,
    "test_a_project_of_an_early_version_is_updated": None,
    "test_a_sweep_goes_on_after_a_failing_point_and_a_kill": None,
    "test_what_cannot_be_exported_is_refused_with_the_reason": None,
    "test_a_daemon_without_streams_trains": None,
    "test_two_processes_survive_kills_of_either": None,
    "test_a_signal_for_the_launcher_reaches_all": 4,
    "test_a_run_survives_kills": 2,
    "test_loops_of_ones_own_train_alike": 3,
    "test_several_machines_by_the_command_of_the_page": None,
    "test_every_scheduler_trains_or_says_why_not": 4,
    "test_every_optimizer_trains_or_says_why_not": 4,
    "test_another_learning_rate_keeps_the_schedule_where_it_is": 4,
    "test_a_mistake_at_the_first_batch_is_told_in_six_lines": 4,
    "test_a_process_that_fails_ends_all": 3,
    "test_watching_changes_nothing": 4,
    "test_metric_objects_resume_exactly_or_from_the_epoch_s_start": 6,
    "test_a_resumed_run_goes_on_at_the_place_of_a_loader_that_it_holds": 3,
    "test_resuming_inside_an_epoch_twice": 3,
    "test_two_and_three_processes_train_what_one_trains": 5,
    "test_trainers_of_other_kinds_train_alike": 3,
    "test_metrics_that_are_objects_count_everything": 3,
    "test_mistakes_are_told_and_leave_nothing": 3,
    "test_it_is_converted_and_continues": 2,
    "test_what_a_loader_feeds_is_shown": 2,
    "test_a_signal_saves_and_leaves": 2,
    "test_it_holds_what_a_file_does": 4,
    "test_a_model_by_name_goes_on_bit_for_bit": 2,
    "test_a_run_begins_with_a_folders_weights": 4,
    "test_a_resume_inside_an_epoch_is_bit_for_bit": 2,
    "test_what_a_constructor_builds_goes_on_exactly": 3,
    "test_the_commands_printed_at_the_end_work": None,
    "test_the_classic_command_of_this_project_is_shown_at_the_end": None,
    "test_a_scheduler_s_command_starts_goes_on_and_finishes": None,
    "test_the_command_of_the_page_in_new_processes": None,
    "test_show_config_shows_where_each_value_came_from": None,
    "test_one_that_does_not_answer_is_not_waited_for": None,
    "test_torchrun_starts_again_what_has_crashed": None,
    "test_an_exported_model_is_the_model": None,
    "test_r_auto_finds_the_newest_unfinished_run": None,
    "test_the_same_run_goes_on_with_another_tracker": None,
    "test_a_torn_journal_is_mended_and_links_are_not_followed": None,
    "test_accumulated_batches_are_one_large_batch": 3,
    "test_what_a_change_of_the_code_changes_first_is_found": None,
    "test_processes_train_as_one": 4,
    "test_each_pass_is_looked_at_however_long_an_epoch_is": None,
    "test_mistakes_are_told_once_with_their_exit_code": None,
    "test_several_evaluate_what_one_evaluates": None,
    "test_a_table_of_runs": None,
    "test_naming_changes_no_numbers": 3,
    "test_a_stop_inside_an_epoch_changes_nothing": 3,
    "test_a_checkpoint_gets_nothing_from_the_network_without_a_word": 3,
    "test_what_stands_among_the_logs_ends_no_training": 3,
    "test_what_comes_while_it_trains_is_not_written_to": 3,
    "test_a_run_begins_with_them": 3,
    "test_nonsense_with_a_right_checksum_is_refused": 3,
    "test_what_makes_no_sense_is_told_before_anything_is_written": 3,
    "test_what_it_means_works": 3,
    "test_what_a_loader_raises_is_about_the_data": 3,
    "test_another_environment_is_named_on_resume": 3,
    "test_from_each_batch_on_it_is_the_unbroken_pass": 3,
    "test_a_share_of_three_ends_long_before_the_others": None,
    "test_the_tools_read_it": None,
    "test_kills_cost_nothing": 2,
    "test_one_process_is_measured": None,
    "test_one_that_does_not_go_on_writing_is_not_waited_for": None,
    "test_a_resume_is_bit_for_bit": 2,
    "test_it_stays_alive_with_few_packages": None,
    "test_so_do_several_processes_that_are_short_of_as_many": 2,
    "test_a_stop_inside_an_epoch_costs_nothing": 3,
    "test_a_weight_by_two_names_stays_one": None,
    "test_an_epoch_of_several_passes_that_are_short_goes_on": 2,
    "test_shards_are_gone_on_with_in_the_middle": 4,
    "test_what_it_cannot_do_is_refused": 4,
    "test_all_skip_what_one_cannot_learn_from": 2,
    "test_a_model_by_name_goes_on_on_others": None,
    "test_whole_and_by_name_go_on_from_each_other": None,
    "test_it_continues_exactly": 2,
    "test_a_pass_longer_than_an_epoch_goes_on_in_the_next": 3,
    "test_a_share_that_ends_before_others_is_told": 3,
    "test_a_batch_that_is_a_dict_is_told_with_the_lines_to_write": 3,
    "test_what_parts_cannot_have_is_refused": 2,
    "test_two_processes_are_one": 2,
    "test_what_a_stand_in_lacks_is_another_process_s": 2,
    "test_a_loss_that_learns_may_have_no_target_in_some_processes": 3,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Long files first; what is seldom run is marked, unless a test is asked for by its name."""
    first = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path.stem, len(LONG)))
    if any("::" in argument for argument in config.args):
        return
    seen = Counter()
    for item in items:
        name = item.originalname
        if name in OFTEN:
            number = OFTEN[name]
            if number is None or seen[name] % number:
                item.add_marker("slow")
            seen[name] += 1


def pytest_collection_finish():
    """The imported half a million objects are not looked through in each search for garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def own_logging(capfd):
    """Each test has its own handlers and levels: a run leaves those of its own behind."""
    for name in ("checkpoint", "trainer", "config"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()


@pytest.fixture(autouse=True)
def no_workers_left():
    """A loader whose error is kept, as a test keeps it, is garbage in a circle: once it is found,
    torch would wait five seconds for each of its workers."""
    yield
    for process in multiprocessing.active_children():
        if process.daemon:
            process.terminate()


@pytest.fixture
def messages(capfd):
    """What has been printed so far."""
    return lambda: capfd.readouterr().out
