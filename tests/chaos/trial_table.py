"""The list of all trials: what is broken where, what should happen, and the test that does it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """One line of the table.

    Attributes:
        group: what `--only` names.
        broken: what is done.
        where: to what.
        expected: what should happen.
        test: the pytest node that does it once and fails if anything else happens; with parameters, once for each.
        tries: how often a whole run repeats it, each time with another chance where the test takes one.
    """

    group: str
    broken: str
    where: str
    expected: str
    test: str
    tries: int = 1

    @property
    def row(self) -> str:
        """How its row of the table begins."""
        return f"| {self.broken} | {self.where} | {self.expected} |"


_KILL = "kill -9 at a random moment"
_FLIP = "one flipped bit"
_FULL = "the disk is full"
_GOES_ON = "the next one goes on and ends with the same bytes"
_NAMED = "named before use"
_ROOM = "one sentence with path and bytes, no part of a file, success once there is room"

TRIALS = (
    Trial(
        "kills", f"{_KILL}, of the process group or the run alone", "each stage and candidate step of a run, in turn",
        "nothing is left 5 s later; the next run executes only the rest and ends with the same sums",
        "tests/chaos/kills.py::test_a_run_that_is_killed_in_every_step_goes_on_and_ends_with_the_same_sums", 20,
    ),
    Trial(
        "kills", _KILL, "each stage by itself", "no part of an out; the same bytes after another run",
        "tests/chaos/kills.py::test_a_stage_that_is_killed_leaves_no_part_of_an_out_and_ends_with_the_same_bytes", 20,
    ),
    Trial(
        "kills", _KILL, "while checkpoints are written", "the newest whole one is used",
        "tests/chaos/kills.py::test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before", 20,
    ),
    Trial(
        "kills", "kill -9 of the parent alone", "a run in mid-stage", "nothing is left 5 s later",
        "tests/chaos/kills.py::test_nothing_is_left_5_s_after_the_parent_alone_was_killed", 20,
    ),
    Trial(
        "kills", "kill -9 of the parent alone", "a run in mid-stage", "the next run finishes; Prefect says Crashed",
        "tests/flows/test_pipeline_run.py::test_after_kill_9_nothing_is_left_running_and_the_next_run_finishes",
    ),
    Trial(
        "kills", _KILL, "a prediction of a file", _GOES_ON,
        "tests/potstill/prediction/test_killed_prediction.py::test_a_killed_run_goes_on_and_ends_with_the_same_bytes",
        3,
    ),
    Trial(
        "kills", _KILL, "a prediction of a stream", "one answer to each record",
        "tests/potstill/prediction/test_stream_prediction.py"
        "::test_kills_at_random_moments_leave_one_answer_to_each_record",
        3,
    ),
    Trial(
        "kills", "kill -9", "the worker of a service", "it is replaced; what had begun is answered",
        "tests/e2e/test_termination.py"
        "::test_a_killed_worker_is_replaced_and_every_request_that_has_begun_is_answered",
    ),
    Trial(
        "kills", "kill -9 of one node of two", "a stage under torchrun", _GOES_ON,
        "tests/tasks/test_torchrun.py"
        "::test_a_node_that_was_killed_and_is_back_goes_on_and_the_outs_are_those_of_one_process",
    ),
    Trial("flips", _FLIP, "an out or its manifest", _NAMED, "tests/chaos/flipped_bytes.py::test_an_out", 200),
    Trial(
        "flips", _FLIP, "DVC's cache", "named, removed, and computed again",
        "tests/chaos/flipped_bytes.py::test_the_cache_of_dvc", 20,
    ),
    Trial(
        "flips", _FLIP, "a shard of signals", _NAMED,
        "tests/potstill/distillation/test_signal_store.py::test_a_damaged_file_is_refused",
    ),
    Trial(
        "flips", _FLIP, "a checkpoint", "named; the one before is used",
        "tests/chaos/flipped_bytes.py::test_a_checkpoint", 200,
    ),
    Trial(
        "flips", _FLIP, "an artifact in MLflow", f"{_NAMED}; not promoted",
        "tests/chaos/flipped_bytes.py::test_an_artifact_of_mlflow", 20,
    ),
    Trial("flips", _FLIP, "a file of a Bento", _NAMED, "tests/chaos/flipped_bytes.py::test_a_bento", 200),
    Trial(
        "flips", "one flipped byte", "a file of a Bento that is served", "it does not start, and names the file",
        "tests/potstill/serving/test_service.py::test_an_altered_bento_refuses_to_start",
    ),
    Trial(
        "flips", _FLIP, "a line of the ledger", _NAMED, "tests/chaos/flipped_bytes.py::test_a_line_of_the_ledger", 20,
    ),
    Trial(
        "disks", _FULL, "an out of a stage", _ROOM,
        "tests/potstill/test_causes.py::test_a_stage_on_a_full_disk_ends_with_one_sentence",
    ),
    Trial("disks", _FULL, "DVC's cache", _ROOM, "tests/chaos/full_disks.py::test_the_cache_of_dvc"),
    Trial("disks", _FULL, "checkpoints", _ROOM, "tests/chaos/full_disks.py::test_checkpoints"),
    Trial("disks", _FULL, "MLflow's store", _ROOM, "tests/chaos/full_disks.py::test_the_store_of_mlflow"),
    Trial("disks", _FULL, "the store of Bentos", _ROOM, "tests/chaos/full_disks.py::test_the_store_of_bentos"),
    Trial("disks", _FULL, "the folder of watch windows", _ROOM, "tests/chaos/full_disks.py::test_the_watch_folder"),
    Trial(
        "poison", "a pickle", "data, teacher, student, checkpoint", "refused; its code never runs",
        "tests/chaos/poisoned.py::test_a_pickle_is_never_loaded",
    ),
    Trial(
        "poison", "a pickle", "what is sent to the service", "refused unread; its code never runs",
        "tests/e2e/test_hostile.py::test_pickles_and_other_formats_are_refused_unread",
    ),
    Trial(
        "poison", "an entry outside its folder", "an archive", "refused",
        "tests/potstill/data/test_archives.py::test_entry_outside_its_folder_is_refused",
    ),
    Trial(
        "poison", "a link", "an archive", "refused", "tests/potstill/data/test_archives.py::test_link_is_refused",
    ),
    Trial(
        "poison", "aliases that stand for billions of values", "params", "one sentence, at once",
        "tests/potstill/test_config.py::test_few_lines_that_stand_for_billions_of_values_are_refused",
    ),
    Trial(
        "poison", "/etc/passwd as data", "params", "refused; no line of it is printed",
        "tests/chaos/poisoned.py::test_a_file_of_the_system_is_no_data",
    ),
    Trial(
        "poison", "a formula", "CSV that `potstill predict` writes", "in quotes, and with an apostrophe on request",
        "tests/potstill/prediction/test_output_rows.py::test_a_formula_in_csv_gets_an_apostrophe_on_request",
    ),
    Trial(
        "poison", "a formula and a script", "the report", "text",
        "tests/potstill/evaluation/test_report.py::test_the_page_is_balanced_self_contained_and_escaped",
    ),
    Trial(
        "outages", "a server whose answers are lost", "MLflow, in a registration", "nothing is created twice",
        "tests/potstill/registry/test_mlflow_server.py::test_what_was_created_without_an_answer_is_not_created_again",
    ),
    Trial(
        "outages", "a server is away for 60 s", "that of MLflow, of Prefect, and both, in mid-run",
        "the stages go on; every run and number arrives, once",
        "tests/chaos/lost_servers.py::test_a_run_goes_on_while_servers_are_away",
    ),
    Trial(
        "outages", "PostgreSQL is restarted", "that of MLflow's and Prefect's server, at a random moment of a run",
        "the run ends as usual; every run and number arrives, once",
        "tests/chaos/lost_servers.py::test_a_run_goes_on_when_the_database_is_restarted", 5,
    ),
    Trial(
        "outages", "a server is away, and back", "that of MLflow, when the champion is asked for",
        "the run waits, says so, and goes on",
        "tests/potstill/registry/test_store_calls.py"
        "::test_a_run_waits_for_a_server_that_restarts_and_prints_a_notice",
    ),
    Trial(
        "outages", "a server is away, and back", "the server of a stream", "tried again; nothing lost or doubled",
        "tests/potstill/prediction/test_stream_prediction.py::test_while_the_server_is_away_it_tries_again",
    ),
    Trial(
        "outages", "a worker is killed with its run", "a deployment in Prefect",
        "within three heartbeats the run is Crashed and its slot is free",
        "tests/flows/test_lost_runs.py::test_a_run_whose_worker_was_killed_is_crashed_and_its_slot_is_free",
    ),
    Trial(
        "outages", "a worker is killed with its run", "another work pool, in mid-stage",
        "within three heartbeats the run ends with a sentence; the next one finishes with the same bytes",
        "tests/chaos/lost_servers.py::test_the_worker_of_another_pool_is_killed_in_mid_stage",
    ),
    Trial(
        "outages", "a stage hangs", "a run", "ended, with all it started, at most 10 s past its limit",
        "tests/chaos/kills.py::test_a_stage_that_hangs_is_ended_within_10_s_of_its_limit", 5,
    ),
    Trial(
        "outages", "a stage, a step or a run goes past its limit", "a run", "ended with all it started; says which",
        "tests/flows/test_pipeline_run.py::test_past_its_limit_a_stage_a_step_or_the_run_is_ended_with_all_it_started",
    ),
    Trial(
        "clocks", "the clock is set back an hour", "between two promotions", "the second is the champion",
        "tests/chaos/clocks.py::test_promotions_after_the_clock_was_set_back",
    ),
    Trial(
        "races", "two runs, the second at a random moment of the first", "one workspace",
        "one is refused or has nothing left to do; one version, the same sums",
        "tests/chaos/races.py::test_two_runs_at_once_in_one_workspace", 50,
    ),
    Trial(
        "races", "two runs, the second at a random moment of the first", "two clones that share a registry",
        "both end with the same sums; one version",
        "tests/chaos/races.py::test_two_runs_at_once_in_two_clones", 50,
    ),
    Trial(
        "races", "two runs at once, and Ctrl-C", "one workspace", "one runs, the other hears who does; nothing is left",
        "tests/flows/test_pipeline_run.py::test_one_run_at_a_time_and_ctrl_c_ends_all", 10,
    ),
    Trial(
        "races", "promoters at once", "two clones, SQLite", "one wins each round; the ledger is whole",
        "tests/potstill/registry/test_races.py::test_one_promoter_wins_on_sqlite", 50,
    ),
    Trial(
        "races", "promoters at once", "two clones, PostgreSQL and MLflow's server",
        "one wins each round; the ledger is whole",
        "tests/potstill/registry/test_races.py::test_one_promoter_wins_on_postgresql_directly_and_through_a_server", 10,
    ),
)  # fmt: skip
