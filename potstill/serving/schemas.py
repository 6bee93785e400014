"""The bodies of the HTTP endpoints, validated strictly: nothing is coerced, and unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from potstill.kinds.definitions.kind import Form

Item = TypeVar("Item")
# The first wrong item ends the validation: each one takes about 800 bytes, so that a body of numbers in place of texts
# would take 2 GB.
Several = Annotated[list[Item], Field(min_length=1, fail_fast=True)]
# A pair is described as an array of two strings, because generated clients have no tuples.
Pair = Annotated[
    tuple[str, str],
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}),
]
Single = Annotated[list[str], Field(min_length=1, max_length=1)]


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ClassifyTexts(Body):
    """The body of `POST /v1/classify` for a model of single texts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["a warm and witty film", "dull"]}]})
    texts: Several[str]


class ClassifyPairs(Body):
    """The body of `POST /v1/classify` for a model of pairs."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": [["It rains.", "It is dry."]]}]})
    texts: Several[Pair]


class TagTexts(Body):
    """The body of `POST /v1/tag`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["Jane Austen was born in Hampshire."]}]})
    texts: Several[str]


class Question(Body):
    """A question about a context."""

    question: Annotated[str, Field(min_length=1)]
    context: Annotated[str, Field(min_length=1)]


class AnswerQuestions(Body):
    """The body of `POST /v1/answer`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"questions": [{"question": "Where?", "context": "She lived in Bath."}]}]}
    )
    questions: Several[Question]


class Entity(Body):
    """An entity: its type, its characters (`end` exclusive), its text, and the model's confidence."""

    type: str
    start: int
    end: int
    text: str
    score: float


class Tagged(Body):
    """The entities of a text in order, and the number of windows in which it was read."""

    entities: list[Entity]
    windows: int


class Reply(Body):
    """The answer to a question (null if the context has none), its characters in the context, the model's confidence,
    and the number of windows in which the context was read.
    """

    answer: str | None
    start: int
    end: int
    score: float
    windows: int


class Answer(Body):
    """The label of a text, the probability of every label, and whether the text was truncated."""

    label: str | int
    probabilities: dict[str, float]
    truncated: bool


class LabelsAnswer(Body):
    """The labels of a text (those more probable than not), all probabilities, and whether the text was truncated."""

    labels: list[str | int]
    probabilities: dict[str, float]
    truncated: bool


class NumberAnswer(Body):
    """The number of a text, and whether the text was truncated."""

    score: float
    truncated: bool


class AbstainingAnswer(Answer):
    """An answer, and whether the model is less sure of it than `abstain_below` of /info."""

    abstained: bool


class AbstainingLabelsAnswer(LabelsAnswer):
    """Labels, and whether the model is less sure of all of them together than `abstain_below` of /info."""

    abstained: bool


class AbstainingTagged(Tagged):
    """Entities, and whether the model is less sure of all tags together than `abstain_below` of /info."""

    abstained: bool


class Explain(Body):
    """The common part of the body of `POST /v1/explain`. Without a label the most probable one is explained."""

    label: str | None = None


class ExplainText(Explain):
    """The body of `POST /v1/explain` for a model of single texts: a text, and the label to explain."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a warm and witty film"}]})
    text: str


class ExplainPair(Explain):
    """The body of `POST /v1/explain` for a model of pairs: two texts, and the label to explain."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": ["It rains.", "It is dry."]}]})
    text: Pair


class Weight(Body):
    """A word, or a run of words in a long text: its characters in the text (in text `part` of a pair), and by how much
    the score drops without it.
    """

    part: int
    start: int
    end: int
    text: str
    weight: float


class ModelVersion(Body):
    """The model that answered: the Bento's tag, the sha256 of the model's manifest, and the variant."""

    bento: str | None
    candidate: str
    variant: str


class ClassifyResponse(Body):
    """Answers in the order of the request's texts."""

    predictions: list[Answer]
    model: ModelVersion


class LabelsResponse(Body):
    """Answers of a multi-label model in the order of the request's texts."""

    predictions: list[LabelsAnswer]
    model: ModelVersion


class NumbersResponse(Body):
    """Answers of a regression model in the order of the request's texts."""

    predictions: list[NumberAnswer]
    model: ModelVersion


class TagResponse(Body):
    """Entities in the order of the request's texts."""

    predictions: list[Tagged]
    model: ModelVersion


class AnswerResponse(Body):
    """Answers in the order of the request's questions."""

    predictions: list[Reply]
    model: ModelVersion


class ExplainResponse(Body):
    """The explanation of a label's score, word by word. For a regression model the label is null and the score is the
    number.
    """

    label: str | None
    score: float
    weights: list[Weight]
    truncated: bool
    model: ModelVersion


class AbstainingClassifyResponse(Body):
    """Answers in the order of the request's texts, of a model that may abstain."""

    predictions: list[AbstainingAnswer]
    model: ModelVersion


class AbstainingLabelsResponse(Body):
    """Answers of a multi-label model that may abstain, in the order of the request's texts."""

    predictions: list[AbstainingLabelsAnswer]
    model: ModelVersion


class AbstainingTagResponse(Body):
    """Entities in the order of the request's texts, of a model that may abstain."""

    predictions: list[AbstainingTagged]
    model: ModelVersion


class Answering(NamedTuple):
    """The body of an answer, and that of the response that lists answers."""

    answer: type[BaseModel]
    response: type[BaseModel]


# For each form of answer.
ANSWERING: dict[Form, Answering] = {
    "entities": Answering(Tagged, TagResponse),
    "span": Answering(Reply, AnswerResponse),
    "class": Answering(Answer, ClassifyResponse),
    "labels": Answering(LabelsAnswer, LabelsResponse),
    "number": Answering(NumberAnswer, NumbersResponse),
}
# The same for models that may abstain.
ABSTAINING: dict[Form, Answering] = {
    "entities": Answering(AbstainingTagged, AbstainingTagResponse),
    "class": Answering(AbstainingAnswer, AbstainingClassifyResponse),
    "labels": Answering(AbstainingLabelsAnswer, AbstainingLabelsResponse),
}


def _integer(value: Any) -> Any:
    """Convert 1.0 to 1, which JSON schema does not distinguish."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Parameters(Body):
    """The `parameters` of Hugging Face's inference clients. The default function depends on the model's task."""

    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    top_k: Annotated[int, Field(gt=0), BeforeValidator(_integer)] | None = None


# Text Embeddings Inference capitalizes it. Only that form is described, because client generators would give both the
# same name.
Right = Annotated[Literal["right", "Right"], WithJsonSchema({"type": "string", "const": "Right"})]


class Predict(Body):
    """The common part of the body of `POST /predict`, in the form of Text Embeddings Inference.

    With `parameters` the response is nested, as Hugging Face's inference clients expect.
    """

    raw_scores: bool = False
    truncate: bool = False
    truncation_direction: Right = "Right"
    parameters: Parameters | None = None


class PredictTexts(Predict):
    """The body of `POST /predict` for a model of single texts: a text, a list, or a batch `[["text"], ...]`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "a warm and witty film"}]})
    inputs: str | Several[str] | Several[Single]


class PredictPairs(Predict):
    """The body of `POST /predict` for a model of pairs: a pair `["a", "b"]`, or a batch `[["a", "b"], ...]`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": ["It rains.", "It is dry."]}]})
    inputs: Pair | Several[Pair]


class Score(Body):
    """A label of a `/predict` response and its score, or the number; the labels of a text come best first."""

    label: str
    score: float


class Failure(Body):
    """The body of every error."""

    error: str
    error_type: str
    request_id: str


class Info(Body):
    """The response of `GET /info`: the model, its limits and its lineage."""

    name: str
    bento: str | None
    model: dict[str, Any]
    limits: dict[str, int | float]
    lineage: dict[str, Any]
