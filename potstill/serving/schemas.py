"""The bodies of the HTTP endpoints, checked strictly: nothing is coerced, nothing unknown is ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from potstill.config.base import TaskKind

# A pair is an array of two strings, and is described as just that: generated clients know no tuples.
Pair = Annotated[
    tuple[str, str],
    WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}),
]
Single = Annotated[list[str], Field(min_length=1, max_length=1)]


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ClassifyTexts(Body):
    """`POST /v1/classify` of a model of single texts."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["a warm and witty film", "dull"]}]})
    texts: Annotated[list[str], Field(min_length=1)]


class ClassifyPairs(Body):
    """`POST /v1/classify` of a model of pairs."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": [["It rains.", "It is dry."]]}]})
    texts: Annotated[list[Pair], Field(min_length=1)]


class TagTexts(Body):
    """`POST /v1/tag`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["Jane Austen was born in Hampshire."]}]})
    texts: Annotated[list[str], Field(min_length=1)]


class Question(Body):
    """A question and the text that it is about."""

    question: Annotated[str, Field(min_length=1)]
    context: Annotated[str, Field(min_length=1)]


class AnswerQuestions(Body):
    """`POST /v1/answer`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"questions": [{"question": "Where?", "context": "She lived in Bath."}]}]}
    )
    questions: Annotated[list[Question], Field(min_length=1)]


class Entity(Body):
    """An entity: its type, its characters (`end` exclusive), what they are, and how sure the model is."""

    type: str
    start: int
    end: int
    text: str
    score: float


class Tagged(Body):
    """One text's entities in order, and in how many windows it was read."""

    entities: list[Entity]
    windows: int


class Reply(Body):
    """One question's answer (null: the context has none), its characters in the context, how sure the model is, and
    into how many windows the context was cut.
    """

    answer: str | None
    start: int
    end: int
    score: float
    windows: int


class Answer(Body):
    """One text's label, the probability of every label, and whether the text was cut to the model's length."""

    label: str | int
    probabilities: dict[str, float]
    truncated: bool


class LabelsAnswer(Body):
    """One text's labels (those more probable than not), every label's own probability, and whether it was cut."""

    labels: list[str | int]
    probabilities: dict[str, float]
    truncated: bool


class NumberAnswer(Body):
    """One text's number, and whether the text was cut to the model's length."""

    score: float
    truncated: bool


class Explain(Body):
    """`POST /v1/explain`: what every model takes. Without a label the most probable one is explained."""

    label: str | None = None


class ExplainText(Explain):
    """`POST /v1/explain` of a model of single texts: a text, and the label whose probability is explained."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "a warm and witty film"}]})
    text: str


class ExplainPair(Explain):
    """`POST /v1/explain` of a model of pairs: two texts, and the label whose probability is explained."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": ["It rains.", "It is dry."]}]})
    text: Pair


class Weight(Body):
    """A word, or where a text is long a run of words: its characters in the text (of a pair: in text `part`), and how
    much lower the score is without it.
    """

    part: int
    start: int
    end: int
    text: str
    weight: float


class ModelVersion(Body):
    """Which model answered: the Bento's tag, and the sha256 of the model's manifest."""

    bento: str | None
    candidate: str
    variant: str


class ClassifyResponse(Body):
    """Answers in the order of the request's texts."""

    predictions: list[Answer]
    model: ModelVersion


class LabelsResponse(Body):
    """Answers of a model of several labels, in the order of the request's texts."""

    predictions: list[LabelsAnswer]
    model: ModelVersion


class NumbersResponse(Body):
    """Answers of a model of numbers, in the order of the request's texts."""

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
    """What the score of a label hangs on, word by word; of a model of numbers there is no label, the score is the
    number.
    """

    label: str | None
    score: float
    weights: list[Weight]
    truncated: bool
    model: ModelVersion


# What a model answers, by its task.
RESPONSES: dict[
    TaskKind,
    type[ClassifyResponse] | type[LabelsResponse] | type[NumbersResponse] | type[TagResponse] | type[AnswerResponse],
] = {
    "token_classification": TagResponse,
    "question_answering": AnswerResponse,
    "single_label": ClassifyResponse,
    "multi_label": LabelsResponse,
    "regression": NumbersResponse,
}


def _integer(value: Any) -> Any:
    """1.0 as 1: in JSON, and in what a JSON schema calls an integer, they are the same."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Parameters(Body):
    """The `parameters` of Hugging Face's inference clients. Without a function, the one of the model's task."""

    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    top_k: Annotated[int, Field(gt=0), BeforeValidator(_integer)] | None = None


# Text Embeddings Inference writes it with a capital. That form alone is described, since client generators would make
# one name of both.
Right = Annotated[Literal["right", "Right"], WithJsonSchema({"type": "string", "const": "Right"})]


class Predict(Body):
    """`POST /predict` in the form of Text Embeddings Inference: what every model takes.

    With `parameters` the answer is nested as Hugging Face's inference clients expect it.
    """

    raw_scores: bool = False
    truncate: bool = False
    truncation_direction: Right = "Right"
    parameters: Parameters | None = None


class PredictTexts(Predict):
    """`POST /predict` of a model of single texts: a text, a list of texts, or a batch `[["text"], ...]`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "a warm and witty film"}]})
    inputs: str | Annotated[list[str], Field(min_length=1)] | Annotated[list[Single], Field(min_length=1)]


class PredictPairs(Predict):
    """`POST /predict` of a model of pairs: a pair `["a", "b"]`, or a batch `[["a", "b"], ...]`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": ["It rains.", "It is dry."]}]})
    inputs: Pair | Annotated[list[Pair], Field(min_length=1)]


class Score(Body):
    """One label of a `/predict` answer, or the number; a text's labels come best first."""

    label: str
    score: float


class Failure(Body):
    """The body of every error."""

    error: str
    error_type: str
    request_id: str


class Info(Body):
    """`GET /info`: what runs here, within which limits, and where it came from."""

    name: str
    bento: str | None
    model: dict[str, Any]
    limits: dict[str, int | float]
    lineage: dict[str, Any]
