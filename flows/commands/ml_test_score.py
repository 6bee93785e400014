"""The ML Test Score of a Potstill pipeline: 28 practices, the points for each, and what proves them.

Breck et al. 2017, "The ML Test Score: A Rubric for ML Production Readiness and Technical Debt Reduction". 1: the
practice is automated and tested. 0.5: a part of it is, or a person has to start it. 0: it is missing. A section has the
sum of its items, and the score is that of the weakest section.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Section = Literal["data", "model", "infrastructure", "monitoring"]
SECTIONS: dict[Section, str] = {
    "data": "Features and data",
    "model": "Model development",
    "infrastructure": "Infrastructure",
    "monitoring": "Monitoring",
}
# The section score below which the paper still sees gaps in a tested pipeline.
TARGET = 5.0
# The page of this table, relative to a checkout.
PAGE = "docs/ml-test-score.md"


@dataclass(frozen=True)
class Item:
    """A practice.

    Attributes:
        section: its section.
        practice: what the paper asks for.
        points: 0, 0.5 or 1.
        reason: what there is and, below 1, what is missing.
        tests: ids of tests below `tests/` that prove it.
        pages: pages below `docs/` that describe it, each with its anchor.
    """

    section: Section
    practice: str
    points: float
    reason: str
    tests: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()


ITEMS: tuple[Item, ...] = (
    # --- features and data ---
    Item(
        "data",
        "Expectations of the data are captured in a schema.",
        1,
        "The stage validate stops a run whose splits break the limits of `validate`.",
        ("tasks/test_validate.py::test_failing_data_stops_with_docs_and_without_outs",),
        ("params.md#validate",),
    ),
    Item(
        "data",
        "All features are beneficial.",
        0.5,
        "The proof measures what the teacher brings, and /v1/explain what each word does. Missing: whether the "
        "second text of a pair helps.",
        (
            "potstill/evaluation/test_teacher_gain.py::test_known_cases",
            "potstill/inference/test_occlusion.py::test_a_word_of_a_pair_is_removed_from_its_own_text",
        ),
        ("proof.md#the-verdict", "serving.md#requests"),
    ),
    Item(
        "data",
        "No feature costs too much.",
        1,
        "Size, latency and throughput have gates; a model that will be too large is refused before training.",
        (
            "potstill/evaluation/test_gates.py::test_each_limit_fails_alone_and_says_by_how_much",
            "tasks/test_early.py::test_a_file_over_the_limit_is_refused_once_the_teacher_is_there",
        ),
        ("params.md#gate",),
    ),
    Item(
        "data",
        "Data adheres to meta-level requirements.",
        1,
        "Sources come in by their sha256, pickles never, and test texts that leak into train are limited.",
        (
            "potstill/data/test_sources.py::test_package_of_another_sum_is_refused_before_it_is_opened",
            "potstill/data/test_archives.py::test_pickle_is_known_by_its_bytes_whatever_its_name",
            "potstill/data/test_near_duplicates.py::test_finds_what_comparing_all_pairs_finds",
        ),
        ("own-data.md#sources",),
    ),
    Item(
        "data",
        "The data pipeline has privacy controls.",
        0.5,
        "The service keeps no texts unless told to, and masks those; keys guard it. Missing: a search for "
        "personal data in the training rows.",
        (
            "potstill/serving/test_redaction.py::test_personal_data_is_masked",
            "potstill/serving/test_watcher.py::test_captured_texts_are_masked_before_they_are_written",
            "potstill/serving/test_middleware.py::test_a_request_without_a_key_is_refused_before_its_body_is_read",
        ),
        ("watching.md", "serving.md#keys"),
    ),
    Item(
        "data",
        "New features can be added quickly.",
        1,
        "Columns, pairs and sources are params. The recipes for a new task, stage or loss are run by a test.",
        (
            "test_contributing.py::test_a_recipe_does_what_it_says",
            "flows/test_create_workspace.py::test_a_pair_of_columns_and_integer_labels",
        ),
        ("own-data.md#pairs-of-texts",),
    ),
    Item(
        "data",
        "All code that makes input is tested.",
        1,
        "Cleaning, splitting, augmentation and tokenization have tests of their properties, and the same bytes again.",
        (
            "potstill/data/test_cleaning.py::test_clean_is_stable_normal_and_writable",
            "potstill/data/test_splitting.py::test_added_rows_move_no_old_row",
            "tasks/test_tokenize.py::test_outs_have_the_documented_form_and_the_same_bytes_again",
        ),
        ("artifacts.md#datatokens",),
    ),
    # --- model development ---
    Item(
        "model",
        "Every model specification is reviewed and checked in.",
        1,
        "A version carries its commit. With `gate.require_clean_git` only committed params and code pass, and with "
        "`promote.policy: person` only an approved version.",
        (
            "tasks/test_gate.py::test_params_that_nobody_could_review_fail_where_params_ask",
            "tasks/test_register.py::test_a_version_carries_model_evidence_and_lineage",
            "flows/test_pipeline_run.py::test_a_person_approves_or_vetoes",
        ),
        ("operating.md#review-a-version",),
    ),
    Item(
        "model",
        "Offline metrics go with online metrics.",
        0.5,
        "`potstill feedback` measures the served accuracy on labels that arrive. Missing: the correlation of both "
        "over several champions.",
        (
            "potstill/evaluation/test_feedback.py::test_the_accuracy_on_labels_that_arrived",
            "potstill/evaluation/test_drift.py::test_the_estimate_is_the_measured_accuracy_on_the_test_texts_and_its_interval_holds",
        ),
        ("watching.md",),
    ),
    Item(
        "model",
        "All hyperparameters are tuned.",
        0.5,
        "`potstill search` tunes those of distillation. Missing: it is no part of a scheduled run, and the "
        "teacher's are not searched.",
        (
            "potstill/studies/test_study.py::test_the_sampler_learns",
            "tasks/test_search.py::test_the_params_of_a_point_make_the_very_same_student",
        ),
        ("search.md#what-is-tried",),
    ),
    Item(
        "model",
        "The impact of stale models is known.",
        0.5,
        "Each run scores the champion again on the current test split. Missing: a curve of the score over its age.",
        ("tasks/test_gate.py::test_a_better_champion_stays_and_the_sentence_says_by_how_much",),
        ("operating.md#gates-and-exit-codes",),
    ),
    Item(
        "model",
        "A simpler model is not better.",
        1,
        "Each run compares the student with TF-IDF and one control or two, and says where it does not beat them.",
        (
            "potstill/evaluation/test_baseline.py::test_the_end_says_that_the_student_does_not_beat_it",
            "potstill/evaluation/test_gates.py::test_a_control_that_has_to_be_beaten",
        ),
        ("proof.md#against-tf-idf",),
    ),
    Item(
        "model",
        "Quality is sufficient on important slices.",
        1,
        "Slices are judged in each run, with the false-discovery rate held over all of them, and have gates.",
        (
            "potstill/evaluation/test_slices.py::test_a_drop_of_ten_points_on_300_rows_is_found",
            "potstill/evaluation/test_evidence_gates.py::test_each_limit_refuses_with_its_reason",
        ),
        ("evaluation.md#slices",),
    ),
    Item(
        "model",
        "The model is tested for inclusion.",
        0.5,
        "Names are swapped, and any column of the data makes slices. Missing: tests of gender, origin and "
        "dialect, which need templates of one's own.",
        (
            "potstill/evaluation/behaviour/test_perturbations.py::test_names_are_swapped_everywhere_and_stay_apart",
            "potstill/evaluation/behaviour/test_suite.py::test_a_suite_has_the_tests_of_the_language_and_the_templates",
            "potstill/data/test_kept_columns.py::test_they_make_slices",
        ),
        ("behaviour.md#tests-of-your-own",),
    ),
    # --- infrastructure ---
    Item(
        "infrastructure",
        "Training is reproducible.",
        1,
        "On the CPU the same inputs give the same bytes, interrupted or not.",
        (
            "potstill/training/test_loop.py::test_the_same_seed_gives_the_same_bits",
            "potstill/training/test_loop.py::test_interrupted_and_resumed_equals_straight_through_to_the_bit",
            "tasks/test_stage.py::test_same_inputs_same_bytes",
        ),
        ("params.md#the-training-loop",),
    ),
    Item(
        "infrastructure",
        "Model specifications are unit tested.",
        1,
        "Params are typed and refused where they do not fit; each loss learns alone in a test.",
        (
            "potstill/test_config.py::test_a_combination_that_cannot_be_is_refused",
            "potstill/distillation/test_composition.py::test_a_student_learns_with_each_term_alone",
        ),
        ("params.md#strict",),
    ),
    Item(
        "infrastructure",
        "The pipeline is integration tested.",
        1,
        "Whole runs, from data to a served champion, are tests, also killed and resumed ones.",
        (
            "e2e/test_tiny.py::test_the_promoted_bento_answers",
            "e2e/test_interruptions.py::test_kill_9_interrupt_and_a_second_run_at_once",
        ),
        ("operating.md#interrupted-runs",),
    ),
    Item(
        "infrastructure",
        "Quality is validated before serving.",
        1,
        "Fail-closed gates judge each candidate against limits and the champion.",
        (
            "potstill/evaluation/test_gates.py::test_what_is_no_finite_number_fails",
            "potstill/evaluation/test_evidence_gates.py::test_noise_makes_no_equal_model_superior_or_inferior",
            "flows/test_pipeline_run.py::test_a_change_runs_what_depends_on_it_and_a_refused_candidate_changes_nothing",
        ),
        ("operating.md#gates-and-exit-codes",),
    ),
    Item(
        "infrastructure",
        "The model can be debugged on a single example.",
        0.5,
        "An answer is explained word by word and traced to the commit. Missing: the values of each layer.",
        (
            "potstill/inference/test_occlusion.py::test_each_word_and_mark_is_a_span",
            "flows/test_trace_answer.py::test_every_name_of_an_answer_leads_to_the_commit",
        ),
        ("serving.md#requests", "operating.md#trace-an-answer"),
    ),
    Item(
        "infrastructure",
        "Models are canaried before serving.",
        1,
        "The Bento has to answer golden texts, a challenger answers in the shadow, and a new champion is tried "
        "before it takes over.",
        (
            "tasks/test_smoke.py::test_another_answer_than_the_evaluated_is_named",
            "potstill/serving/test_shadow.py::test_a_challenger_answers_too_and_its_agreement_is_counted",
            "flows/test_follow_champion.py::test_a_bento_that_answers_otherwise_than_evaluated_is_not_served",
        ),
        ("deploy.md#following-the-champion",),
    ),
    Item(
        "infrastructure",
        "Serving models can be rolled back.",
        1,
        "`potstill rollback` restores a version that verifies.",
        (
            "potstill/registry/test_promotion.py::test_rollbacks_without_a_version_go_back_one_champion_at_a_time",
            "potstill/registry/test_promotion.py::test_a_veto_falls_back_to_a_version_that_verifies",
        ),
        ("operating.md#promote-roll-back-freeze-veto",),
    ),
    # --- monitoring ---
    Item(
        "monitoring",
        "Changes of dependencies are noticed.",
        0.5,
        "Another sum of a source stops a run, and packages are pinned. Missing: notices of new releases.",
        (
            "potstill/data/test_sources.py::test_changed_file_is_refused",
            "tasks/test_package.py::test_it_pins_the_base_install_with_all_that_requires_as_the_lock_does",
        ),
        ("tools.md", "operating.md#data-that-changed"),
    ),
    Item(
        "monitoring",
        "Data invariants hold in training and serving.",
        1,
        "New data is compared with the accepted profile, and served texts with those of the evaluation.",
        (
            "potstill/data/test_profiles.py::test_longer_texts_and_a_new_label_are_a_shift",
            "potstill/evaluation/test_drift.py::test_longer_texts_drift_in_their_lengths",
            "potstill/serving/test_service.py::test_a_bad_body_is_the_callers_error",
        ),
        ("watching.md", "operating.md#data-that-changed"),
    ),
    Item(
        "monitoring",
        "Training and serving are not skewed.",
        1,
        "The same runtime evaluates and serves, and the Bento's answers are compared with the evaluated ones.",
        (
            "tasks/test_smoke.py::test_the_bento_answers_as_evaluated_and_is_stopped",
            "tasks/test_evaluate.py::test_the_served_model_answers_as_it_was_evaluated",
        ),
        ("serving.md#what-is-verified",),
    ),
    Item(
        "monitoring",
        "Models are not too stale.",
        0.5,
        "A schedule trains anew. Missing: an alert on the age of the champion.",
        (
            "flows/test_servers.py::test_of_two_schedulers_one_run_goes_on_at_a_time_and_an_unchanged_tick_is_nothing_new",
        ),
        ("operating.md#on-a-schedule",),
    ),
    Item(
        "monitoring",
        "Models are numerically stable.",
        1,
        "A loss, gradient or logit that is not finite stops training, export and evaluation.",
        (
            "potstill/training/test_loop.py::test_a_nan_loss_stops_the_run_names_the_term_and_records_the_step",
            "potstill/onnx_export/test_export.py::test_nan_logits_are_refused",
            "tasks/test_evaluate.py::test_a_model_that_answers_nan_stops_the_stage_and_leaves_the_outs",
        ),
        ("params.md#the-training-loop",),
    ),
    Item(
        "monitoring",
        "Computing performance has not regressed.",
        0.5,
        "Speed has limits in `gate` and metrics in the service. Missing: a comparison with the champion's speed.",
        (
            "potstill/evaluation/test_latency.py::test_models_take_turns_and_texts_are_repeated_where_there_are_few",
            "potstill/serving/test_shadow.py::test_a_challenger_that_slows_the_champion_is_dropped",
        ),
        ("serving.md#metrics", "params.md#gate"),
    ),
    Item(
        "monitoring",
        "Prediction quality on served data has not regressed.",
        1,
        "`potstill drift` and `potstill feedback` estimate and measure it, and end with an error below the limit.",
        (
            "flows/test_judge_answers.py::test_the_verdict_is_said_written_logged_and_told_by_an_error",
            "potstill/evaluation/test_drift.py::test_a_model_that_is_less_sure_is_right_less_often",
        ),
        ("watching.md",),
    ),
)


def section_points(items: Sequence[Item] = ITEMS) -> dict[Section, float]:
    """Sum the points of each section."""
    return {section: sum(item.points for item in items if item.section == section) for section in SECTIONS}


def score(items: Sequence[Item] = ITEMS) -> float:
    """Return the ML Test Score: the points of the weakest section."""
    return min(section_points(items).values())


def render_page() -> str:
    """Write docs/ml-test-score.md."""
    points = section_points()
    lines = [
        "# ML Test Score",
        "",
        "The rubric of Breck et al. 2017 has 28 practices of production machine learning in four sections.",
        "`potstill score` prints the tables below; `python scripts/score_page.py` writes this page. A test checks that",
        "each test and each page that they name exists.",
        "",
        "| points | meaning |",
        "|---|---|",
        "| 1 | automated and tested |",
        "| 0.5 | a part is, or a person has to start it; the reason says what is missing |",
        "| 0 | missing |",
        "",
        "A section has the sum of its items. The score is that of the weakest section.",
        "",
        "| section | points of 7 |",
        "|---|---|",
        *(f"| [{title}](#{_anchor(title)}) | {points[section]:g} |" for section, title in SECTIONS.items()),
        f"| **score** | **{score():g}** |",
    ]
    for section, title in SECTIONS.items():
        lines += ["", f"## {title}", "", "| practice | points | why | proof |", "|---|---|---|---|"]
        lines += [_row(item) for item in ITEMS if item.section == section]
    return "\n".join(lines) + "\n"


def _row(item: Item) -> str:
    proof = [f"`tests/{test}`" for test in item.tests] + [f"[{page}]({page})" for page in item.pages]
    return f"| {item.practice} | {item.points:g} | {item.reason} | {'<br>'.join(proof)} |"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
