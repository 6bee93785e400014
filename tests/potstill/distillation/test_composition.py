from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from potstill.artifacts import whole_folder
from potstill.config.distill_params import BY_TOKEN, Distill
from potstill.config.params_file import parse_distill
from potstill.config.teacher_params import Signals
from potstill.config.term_params import Term as TermConfig
from potstill.config.training_params import Training
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.losses.attention import attention_probabilities, attention_scores
from potstill.distillation.objective.composition import Blend, Distillation, distillation, make_terms, teacher_needs
from potstill.distillation.objective.gold_labels import Objective, OptimizerStep, Terms
from potstill.distillation.objective.terms import LossInputs
from potstill.distillation.teachers.outputs import Needs, Outputs, observe
from potstill.distillation.teachers.predict import model_inputs, predict_logits
from potstill.distillation.teachers.providers import FallbackSource, LiveTeacher
from potstill.distillation.teachers.signal_store import StoredSignals, extract, teacher_identity, write_store
from potstill.errors import ModelError, ParamsError, SignalError
from potstill.models.students.student import student_from_layers
from potstill.training.loop import Setting, train
from tests.potstill.models.tiny import CLASSES, batch, make

CPU = torch.device("cpu")


def rows(count: int, seed: int = 0) -> TokenDataset:
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 12, count)
    flat = random.integers(5, 50, lengths.sum()).astype(np.int32)
    return TokenDataset(flat, lengths, None, random.integers(-1, 3, count), 0)


ROWS = rows(64)


def config(**values: Any) -> Any:
    return TypeAdapter(TermConfig).validate_python(values)


@pytest.fixture(scope="module")
def teacher() -> Any:
    return make("bert")


def narrow() -> Any:
    torch.manual_seed(4)
    return make("bert", hidden_size=16, num_hidden_layers=2)


def same_width(teacher: Any) -> Any:
    return student_from_layers(teacher, [3, 0])  # not in order: it has to learn


def objective(student: Any, teacher: Any, *configs: Any, blend: Blend | None = None) -> Distillation:
    return Distillation(LiveTeacher(teacher, CPU), blend, make_terms(configs, student, teacher, seed=1))


def setting(folder: Path, **changes: object) -> Setting:
    plan = {"epochs": 10, "learning_rate": 3e-3, "batch_tokens": 256, "dropout": 0.0, "checkpoint_seconds": 1e6}
    return Setting("distill", Training(**(plan | changes)), 11, CPU, "fp32", folder)


def total(goal: Objective, student: Any, data: TokenDataset, *parts: range, index: int = 0) -> Tensor:
    """Compute the loss of one optimizer step of some micro-batches, and accumulate its gradients."""
    batches = [data.batch(np.array(part)) for part in parts]
    step = OptimizerStep.of(batches, index, 10)
    losses = []
    for part in batches:
        outputs = observe(student, model_inputs(part, CPU), goal.needs(index, 10))
        losses.append(torch.stack(list(goal(outputs, part, step).values())).sum())
        losses[-1].backward()
    return torch.stack(losses).sum().detach()


def name_of(kind: str) -> str:
    """Name a term as `make_terms` does; the blend's names kl and ce are always in use."""
    return f"{kind}_2" if kind in {"kl", "ce"} else kind


ALONE: list[tuple[str, dict[str, Any]]] = [
    ("kl", {}),
    ("ce", {}),
    ("mse", {}),
    ("dist", {}),
    ("cosine", {}),
    ("hidden", {"layers": [[0, 0], [1, 2], [2, 4]]}),
    ("attention", {"layers": [[1, 2], [2, 4]]}),
    ("attention", {"loss": "kl"}),
    ("relations", {"heads": 4}),
    ("pkd", {"layers": [[1, 2], [2, 4]]}),
    ("rkd", {}),
    ("contrastive", {}),
]


@pytest.mark.parametrize("width", ["same", pytest.param("narrow", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "options"), ALONE)
def test_a_student_learns_with_each_term_alone(
    tmp_path: Path, teacher: Any, kind: str, options: dict[str, Any], width: str
) -> None:
    student = same_width(teacher) if width == "same" else narrow()
    goal = objective(student, teacher, config(kind=kind, **options))
    projected = width == "narrow" and kind in {"cosine", "hidden", "pkd", "contrastive"}
    assert bool(list(goal.parameters())) == projected
    before = total(goal, student, ROWS, range(64))
    scores = iter(range(10))  # `train` leaves the weights of the best: the last
    outcome = train(student, ROWS, goal, lambda _: float(next(scores)), setting(tmp_path))
    assert {name for _, name, _ in outcome.history} == {"loss", f"loss_{name_of(kind)}", "dev"}
    assert total(goal, student, ROWS, range(64)) < before


PER_ROW_OR_TOKEN = [item for item in ALONE if item[0] not in {"dist", "rkd", "contrastive"}]


@pytest.mark.parametrize(("kind", "options"), PER_ROW_OR_TOKEN)
def test_one_batch_of_64_equals_two_of_32(teacher: Any, kind: str, options: dict[str, Any]) -> None:
    """The halves differ in real tokens, padding and gold labels."""
    found = []
    for parts in ([range(64)], [range(32), range(32, 64)]):
        student = narrow()
        goal = objective(student, teacher, config(kind=kind, **options), blend=Blend(2.0, 0.7))
        loss = total(goal, student, ROWS, *parts)
        weights = [*student.parameters(), *goal.parameters()]
        found.append((loss, [weight.grad for weight in weights if weight.grad is not None]))
    (whole, gradients), (halves, others) = found
    assert float(halves) == pytest.approx(float(whole), rel=1e-5)
    assert len(gradients) == len(others) > 0
    for one, two in zip(gradients, others, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "options"), ALONE)
def test_only_real_tokens_count(teacher: Any, kind: str, options: dict[str, Any]) -> None:
    """A longer row changes the padding of a batch; the content of padding must not matter."""
    student = narrow()
    goal = objective(student, teacher, config(kind=kind, **options))
    part = ROWS.batch(np.arange(8))
    longer = np.pad(part.input_ids, ((0, 0), (0, 5)), constant_values=9)
    mask = np.pad(part.attention_mask, ((0, 0), (0, 5)))
    padded = type(part)(part.rows, longer, mask, None, part.labels)
    found = []
    for version in (part, padded):
        outputs = observe(student, model_inputs(version, CPU), goal.needs(0, 1))
        found.append(float(goal(outputs, version, OptimizerStep.of([version]))[name_of(kind)].detach()))
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6)


def test_a_loop_of_micro_batches_equals_large_batches(tmp_path: Path, teacher: Any) -> None:
    """Each epoch is one step, of one batch or of several batches, the last of which is not full."""
    losses = []
    for name, plan in (("one", {"batch_tokens": 4096}), ("many", {"batch_tokens": 64, "accumulate": 100})):
        student = narrow()
        goal = objective(student, teacher, config(kind="hidden"), blend=Blend(2.0, 0.7))
        outcome = train(student, ROWS, goal, lambda _: 0.0, setting(tmp_path / name, epochs=3, **plan))
        assert outcome.rows == 3 * len(ROWS)
        losses.append([value for _, name, value in outcome.history if name.startswith("loss")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    student = narrow()
    steps = train(student, ROWS, objective(student, teacher, config(kind="kl")), lambda _: 0.0, setting(
        tmp_path / "rest", epochs=1, batch_tokens=64, accumulate=4
    ))  # fmt: skip
    assert steps.rows == len(ROWS)  # nothing is dropped


class Stop(Exception):
    """Stands for a power cut."""


class CutShort(Distillation):
    cut = 7

    def forward(self, outputs: Outputs, part: Any, step: OptimizerStep) -> Terms:
        if step.index == self.cut:
            raise Stop
        return super().forward(outputs, part, step)


@pytest.mark.slow
def test_a_run_with_projections_and_relations_resumes_to_the_bit(tmp_path: Path, teacher: Any) -> None:
    configs = [
        config(kind="hidden", layers=[[1, 2], [2, 4]], schedule="warmup", fraction=0.5),
        config(kind="relations", heads=4, schedule="decay", fraction=0.5),
        config(kind="pkd"),
    ]
    plan = {"epochs": 4, "accumulate": 2, "batch_tokens": 64, "checkpoint_seconds": 1e-6, "average_decay": 0.9}

    def run(folder: str, kind: type[Distillation]) -> tuple[Any, Any, Any]:
        student = narrow()
        goal = kind(LiveTeacher(teacher, CPU), Blend(2.0, 0.7), make_terms(configs, student, teacher, seed=1))
        return student, goal, train(student, ROWS, goal, lambda _: 0.0, setting(tmp_path / folder, **plan))

    straight, goal, wanted = run("straight", Distillation)
    with pytest.raises(Stop):
        run("cut", CutShort)
    torch.manual_seed(999)
    resumed, again, found = run("cut", Distillation)
    assert found.resumed_at == CutShort.cut
    assert found.history == wanted.history
    for left, right in ((straight, resumed), (goal, again)):
        other = right.state_dict()
        assert all(torch.equal(value, other[name]) for name, value in left.state_dict().items())


def test_clipping_is_over_student_and_projections(
    tmp_path: Path, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clipped, measured = [], []
    norm = torch.nn.utils.get_total_norm
    monkeypatch.setattr("potstill.training.loop._clip", lambda weights, norm, limit: clipped.append(len(weights)))
    monkeypatch.setattr("torch.nn.utils.get_total_norm", lambda all_: (measured.extend(all_), norm(all_))[1])
    student = narrow()
    goal = objective(student, teacher, config(kind="hidden"))
    train(student, ROWS, goal, lambda _: 0.0, setting(tmp_path, epochs=1))
    assert set(clipped) == {len(list(student.parameters())) + 2}
    assert {weight.shape for weight in goal.parameters()} <= {gradient.shape for gradient in measured}


def test_neither_teacher_nor_projections_are_in_the_saved_student(tmp_path: Path, teacher: Any) -> None:
    student = narrow()
    names = set(student.state_dict())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    goal = objective(student, teacher, config(kind="hidden"), blend=Blend(2.0, 0.7))
    train(student, ROWS, goal, lambda _: 0.0, setting(tmp_path, epochs=1))
    assert set(student.state_dict()) == names
    assert [name for name, _ in goal.named_parameters()] == [
        "terms.hidden.projections.linears.2_to_4.weight",
        "terms.hidden.projections.linears.2_to_4.bias",
    ]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(weight.grad is None for weight in teacher.parameters())
    assert not any(module._forward_hooks for module in [*student.modules(), *teacher.modules()])


def test_live_and_stored_logits_give_the_same_loss(teacher: Any) -> None:
    student = narrow()
    stored = StoredSignals(predict_logits(teacher, ROWS), np.arange(len(ROWS)))
    terms = make_terms([config(kind="mse")], student, teacher, seed=1)
    found = [
        float(total(Distillation(source, Blend(2.0, 0.7), terms), student, ROWS, range(0, 64, 3)))
        for source in (stored, LiveTeacher(teacher, CPU))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def longer(data: TokenDataset) -> TokenDataset:
    """The same rows in the tokens of another tokenizer: one to three tokens more, and other ids."""
    extra = np.arange(len(data)) % 3 + 1
    flat = np.random.default_rng(5).integers(5, 50, int((data.lengths + extra).sum())).astype(np.int32)
    return TokenDataset(flat, data.lengths + extra, None, data.labels, 0)


@pytest.mark.parametrize("kind", ["pkd", "rkd", "contrastive"])
def test_a_teacher_with_another_tokenizer_reads_its_own_tokens(teacher: Any, kind: str) -> None:
    """The loss equals that on states of the teacher's tokens that were computed before, for any batches."""
    student, theirs, part = narrow(), longer(ROWS), ROWS.batch(np.array([40, 3, 17, 8]))
    params = parse_distill({
        "layers": [0], "epochs": 1, "learning_rate": 1e-3, "terms": [{"kind": kind, "weight": 0.5}]
    })  # fmt: skip
    stored = StoredSignals(predict_logits(teacher, theirs), np.arange(len(ROWS)))
    options: dict[str, Any] = {"device": CPU, "precision": "fp32", "seed": 1}
    goal = distillation(params, student, teacher, stored, teacher_rows=theirs, **options)
    outputs = observe(student, model_inputs(part, CPU), goal.needs(0, 1))
    found = goal(outputs, part, OptimizerStep.of([part]))
    own = theirs.batch(part.rows)
    answers = observe(teacher, model_inputs(own, CPU), Needs(hidden=frozenset({4})))
    term = make_terms(params.terms, student, teacher, seed=1)[kind]
    ids, mask, labels = (torch.from_numpy(array) for array in (part.input_ids, part.attention_mask, part.labels))
    states = answers.hidden[4] * torch.from_numpy(own.attention_mask)[..., None]
    mean = states.sum(dim=1, keepdim=True) / torch.from_numpy(own.attention_mask).sum(dim=1)[:, None, None]
    # pkd reads the first token, the others the mean: a text of one token has both in one place.
    single = answers.hidden[4][:, :1] if kind == "pkd" else mean
    teachers = Outputs(answers.logits, {4: single}, mask=torch.ones(len(part.rows), 1, dtype=torch.int64))
    wanted = term(LossInputs(outputs, teachers, ids, mask, labels, OptimizerStep.of([part])))
    assert float(found[kind].detach()) == pytest.approx(0.5 * float(wanted.detach()), rel=1e-4)


@pytest.mark.parametrize("kind", BY_TOKEN)
def test_token_level_terms_need_the_same_tokens(teacher: Any, kind: str) -> None:
    term = {"kind": kind} | ({"heads": 4} if kind == "relations" else {})
    params = parse_distill({"layers": [0], "epochs": 1, "learning_rate": 1e-3, "terms": [term]})
    stored = StoredSignals(predict_logits(teacher, ROWS), np.arange(len(ROWS)))
    student = make("bert", num_hidden_layers=2)
    options: dict[str, Any] = {"device": CPU, "precision": "fp32", "seed": 1}
    assert distillation(params, student, teacher, stored, **options).terms
    with pytest.raises(ModelError, match=f"the loss term {kind} compares token by token, .* split texts differently"):
        distillation(params, student, teacher, stored, teacher_rows=longer(ROWS), **options)


@pytest.fixture(scope="module")
def everything(teacher: Any, tmp_path_factory: pytest.TempPathFactory) -> StoredSignals:
    """A store of all that the terms need of the teacher."""
    folder = tmp_path_factory.mktemp("stored")
    teacher.save_pretrained(folder / "teacher")
    (folder / "teacher" / "tokenizer.json").write_text("{}")
    params = Signals(batch_tokens=64, shard_rows=10, hidden=[0, 2, 4], attention=[2, 4], vectors=[2, 4])
    extracted = extract(
        LiveTeacher(teacher, CPU), ROWS, params, identity=teacher_identity(folder / "teacher"), work=folder / "work"
    )
    with whole_folder(folder / "signals") as out:
        write_store(out, extracted)
    return StoredSignals.open(folder / "signals", ROWS, folder / "teacher")


@pytest.mark.parametrize("width", ["same", pytest.param("narrow", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "options"), ALONE)
def test_each_term_is_the_same_from_a_store_as_from_the_teacher(
    teacher: Any, everything: StoredSignals, kind: str, options: dict[str, Any], width: str
) -> None:
    params = Distill(epochs=1, learning_rate=1e-3, layers=[0], terms=[config(kind=kind, **options)])
    found = []
    for stored in (everything, StoredSignals(predict_logits(teacher, ROWS), np.arange(len(ROWS)))):
        student = same_width(teacher) if width == "same" else narrow()
        goal = distillation(params, student, teacher, stored, device=CPU, precision="fp32", seed=1)
        source = goal._source
        assert (source is stored) == stored.supports(goal.teacher_needs)
        found.append((float(total(goal, student, ROWS, range(0, 64, 3))), student))
    assert everything.supports(goal.teacher_needs)
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    for one, two in zip(*(student.parameters() for _, student in found), strict=True):
        assert (one.grad is None) == (two.grad is None)
        assert one.grad is None or torch.allclose(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_a_term_whose_weight_fell_to_zero_is_not_computed(teacher: Any) -> None:
    class Counted(LiveTeacher):
        runs = 0

        def __call__(self, *args: Any) -> Outputs:
            self.runs += 1
            return super().__call__(*args)

    student, live = narrow(), Counted(teacher, CPU)
    stored = StoredSignals(predict_logits(teacher, ROWS), np.arange(len(ROWS)))
    terms = make_terms([config(kind="hidden", schedule="decay", fraction=0.5)], student, teacher, seed=1)
    goal = Distillation(FallbackSource((stored, live)), Blend(2.0, 0.7), terms)
    assert teacher_needs(terms) == Needs(hidden=frozenset({4}))
    for step, runs in ((0, 1), (4, 2), (5, 2), (9, 2)):
        total(goal, student, ROWS, range(8), index=step)
        assert live.runs == runs
    assert goal.needs(4, 10)
    assert not goal.needs(5, 10)


def test_the_objective_is_described_in_one_line_a_term(teacher: Any) -> None:
    configs = [
        config(kind="relations", heads=4, weight=0.5, schedule="decay", fraction=0.5),
        config(kind="hidden", layers=[[1, 2], [2, 4]]),
        config(kind="kl", temperature=4.0),
    ]
    goal = objective(narrow(), teacher, *configs, blend=Blend(2.0, 0.9))
    assert goal.describe() == [
        "0.9 * T^2 * KL(T=2) + 0.1 * CE",
        "+ 0.5 * relations(heads=4) on student -> teacher layers 2 -> 4, falling to 0 over the first 50% of the steps",
        "+ 1 * hidden on student -> teacher layers 1 -> 2, 2 -> 4, with 1,088 weights of projections",
        "+ 1 * kl(temperature=4.0)",
    ]
    assert list(make_terms(configs, narrow(), teacher, seed=1)) == ["relations", "hidden", "kl_2"]


# --- refused before training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hidden", "layers": [[3, 4]]}, "hidden names layer 3 of the student, which has 0 to 2"),
        ({"kind": "pkd", "layers": [[1, 5]]}, "pkd names layer 5 of the teacher, which has 0 to 4"),
        ({"kind": "relations", "layers": [[0, 1]]}, "relations names layer 0 of the student, which has 1 to 2"),
        ({"kind": "relations"}, "48 relation heads do not divide the student's width of 16; .* such as 16"),
        ({"kind": "hidden", "layers": [[1, 2], [1, 2]]}, "holds an entry twice"),
    ],
)
def test_layers_and_heads_that_do_not_fit_are_refused(teacher: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_terms([config(**options)], narrow(), teacher, seed=1)


def test_attention_needs_equal_heads_and_plain_attention(teacher: Any) -> None:
    student = make("bert", num_attention_heads=4)
    with pytest.raises(ModelError, match="the student has 4 and the teacher 2; set its average_heads"):
        make_terms([config(kind="attention")], student, teacher, seed=1)
    assert make_terms([config(kind="attention", average_heads=True)], student, teacher, seed=1)
    with pytest.raises(ModelError, match="cannot read the student's attention maps: mpnet adds positions"):
        make_terms([config(kind="attention")], make("mpnet"), teacher, seed=1)


def test_logits_of_different_classes_are_refused(teacher: Any) -> None:
    student = make("bert", num_labels=2)
    with pytest.raises(ModelError, match="the student has 2 classes and the teacher 3"):
        make_terms([config(kind="mse")], student, teacher, seed=1)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("hidden", "hidden states"), ("relations", "queries, keys and values"), ("pkd", "vectors")],
)
def test_a_store_of_logits_cannot_give_layers(teacher: Any, kind: str, what: str) -> None:
    options = {"heads": 4} if kind == "relations" else {}
    terms = make_terms([config(kind=kind, **options)], narrow(), teacher, seed=1)
    stored = StoredSignals(np.zeros((1, 3)), np.zeros(1, dtype=np.int64))
    with pytest.raises(SignalError, match=f"{kind} needs the teacher's {what}, which a store of logits cannot give"):
        Distillation(stored, Blend(2.0, 0.9), terms)


def test_a_store_without_a_needed_layer_is_refused(teacher: Any, everything: StoredSignals) -> None:
    terms = make_terms([config(kind="hidden", layers=[[1, 3]])], narrow(), teacher, seed=1)
    held = "hidden states 0, 2, 4, attention of layers 2, 4, vectors of states 2, 4"
    with pytest.raises(SignalError, match=rf"which a store of logits, {held} cannot give; store them \(signals.hidden"):
        Distillation(everything, Blend(2.0, 0.9), terms)


def test_terms_that_all_decay_are_refused(teacher: Any) -> None:
    with pytest.raises(ParamsError, match="keeps a weight above 0 to the end"):
        objective(narrow(), teacher, config(kind="hidden", schedule="decay", fraction=0.5))


# --- what is caught equals what transformers gives --------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSES)
def test_observed_states_are_the_models_own(kind: str) -> None:
    model, inputs = make(kind), batch()
    needs = Needs(frozenset(range(4)), frozenset({1, 4}))
    with torch.no_grad():
        found = observe(model, inputs, needs)
        wanted = model(**inputs, output_hidden_states=True)
    assert torch.equal(found.logits, model(**inputs).logits)
    for number in range(4):  # ModernBERT's last is after its last norm
        assert torch.equal(found.hidden[number], wanted.hidden_states[number]), number
    assert {part.shape for layer in (1, 4) for part in found.attention[layer]} == {(2, 20, 32)}


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
def test_attention_maps_are_the_models_own(kind: str) -> None:
    model, inputs = make(kind), batch()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = observe(model, inputs, Needs(attention=frozenset({1, 4})))
        wanted = model(**inputs, output_attentions=True).attentions
    mask = inputs["attention_mask"]
    for layer in (1, 4):
        queries, keys, _ = found.attention[layer]
        maps = attention_probabilities(attention_scores(queries, keys, mask, 2), mask)
        rows = (mask != 0)[:, None, :, None] & (mask != 0)[:, None, None, :]
        assert torch.allclose(maps * rows, wanted[layer - 1] * rows, atol=1e-5)
