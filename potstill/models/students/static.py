"""A static-embedding student: one vector a token, their normalised mean, and a linear layer.

The vectors are initialised as in model2vec (Tulkens & van Dongen 2024, "Model2Vec: Fast State-of-the-Art Static
Embeddings"): each token passes through the teacher alone, its output is reduced by PCA and weighted by Zipf's law.
model2vec's own `distill` needs another release of transformers than this project, so the step is implemented here. The
trained vectors are saved as a `model2vec.StaticModel`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from potstill.pretrained.inspection import STATIC
from potstill.progress import progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The parameter a of smooth inverse frequency (Arora et al. 2017), with model2vec's value.
SIF = 1e-4
# Rows of a batch in which the teacher embeds single tokens.
TOKEN_BATCH = 1024


class StaticConfig(PreTrainedConfig):  # type: ignore[misc]
    """The config of a `StaticForSequenceClassification`."""

    model_type = STATIC

    def __init__(
        self, vocab_size: int = 2, hidden_size: int = 2, silent_ids: list[int] | None = None, **kwargs: Any
    ) -> None:
        """Set the sizes; tokens of `silent_ids` (special tokens and the unknown token) are left out of the mean."""
        self.vocab_size, self.hidden_size, self.silent_ids = vocab_size, hidden_size, list(silent_ids or [])
        super().__init__(**kwargs)


class StaticForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """A bag-of-tokens classifier: logits [batch, labels] of token ids in any order, silent tokens left out."""

    config_class = StaticConfig
    base_model_prefix = "static"
    _supports_sdpa = True

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        audible = torch.ones(config.vocab_size)
        audible[config.silent_ids] = 0
        self.register_buffer("audible", audible)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Classify the sum of the token vectors, scaled to length 1; scaling their mean would give the same."""
        weights = self.audible[input_ids]
        if attention_mask is not None:
            weights = weights * attention_mask
        total = (self.embeddings(input_ids) * weights[..., None]).sum(dim=1)
        return SequenceClassifierOutput(logits=self.classifier(functional.normalize(total, dim=-1)))

    def trimmed(self, kept_ids: npt.NDArray[np.integer]) -> StaticForSequenceClassification:
        """Copy the student with only some tokens, given by their old ids; a token's new id is its index there."""
        silent = [new_id for new_id, old_id in enumerate(kept_ids.tolist()) if old_id in self.config.silent_ids]
        config = StaticConfig(**self.config.to_dict() | {"vocab_size": len(kept_ids), "silent_ids": silent})
        student = StaticForSequenceClassification(config)
        with torch.no_grad():
            student.embeddings.weight.copy_(self.embeddings.weight[torch.from_numpy(kept_ids.astype(np.int64))])
        student.classifier.load_state_dict(self.classifier.state_dict())
        student.eval()
        return student

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of token vectors."""
        return self.embeddings

    def _init_weights(self, module: nn.Module) -> None:
        """Leave torch's initialisation: the vectors come from a teacher, and the linear layer keeps its own."""


AutoConfig.register(StaticConfig.model_type, StaticConfig)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification)


def static_from_teacher(
    teacher: PreTrainedModel, tokenizer: Tokenizer, dimensions: int
) -> StaticForSequenceClassification:
    """Build a static student whose vectors come from the teacher; its linear layer is drawn from torch's current seed.

    Args:
        teacher: a sequence classifier; its encoder embeds every token of the vocabulary.
        tokenizer: the teacher's tokenizer.
        dimensions: width of the vectors; at most the teacher's hidden size and the size of the vocabulary.
    """
    silent = silent_tokens(tokenizer)
    vectors = _components(token_vectors(teacher, tokenizer), dimensions)
    problem = teacher.config.problem_type
    config = StaticConfig(
        vocab_size=len(vectors),
        hidden_size=vectors.shape[1],
        silent_ids=silent,
        num_labels=teacher.config.num_labels,
        id2label=dict(teacher.config.id2label),
        label2id=dict(teacher.config.label2id),
        pad_token_id=teacher.config.pad_token_id,
        **({} if problem is None else {"problem_type": problem}),
    )
    student = StaticForSequenceClassification(config)
    weighted = vectors * zipf_weights(len(vectors))[:, None]
    with torch.no_grad():
        student.embeddings.weight.copy_(torch.from_numpy(weighted.astype(np.float32)))
        student.embeddings.weight[silent] = 0
    student.eval()
    return student


def silent_tokens(tokenizer: Tokenizer) -> list[int]:
    """List the ids that model2vec leaves out of the mean: special tokens and the unknown token."""
    silent = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    unknown = getattr(tokenizer.model, "unk_token", None)
    unknown_id = None if unknown is None else tokenizer.token_to_id(unknown)
    return sorted(silent if unknown_id is None else silent | {unknown_id})


@torch.inference_mode()
def token_vectors(teacher: PreTrainedModel, tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    """Embed each token alone with the teacher's encoder.

    Args:
        teacher: the model whose encoder is used.
        tokenizer: its tokenizer, which says which special tokens surround the token.

    Returns:
        [vocabulary, width] means of the last hidden states over the token and its special tokens.
    """
    begin, end = _surrounding_tokens(tokenizer)
    encoder = teacher.base_model.eval()
    device = next(teacher.parameters()).device
    rows = torch.arange(tokenizer.get_vocab_size())
    means = []
    with progress("static", len(rows), "tokens") as bar:
        for ids in torch.split(rows, TOKEN_BATCH):
            framed = torch.cat([begin.expand(len(ids), -1), ids[:, None], end.expand(len(ids), -1)], dim=1)
            states = encoder(input_ids=framed.to(device), attention_mask=torch.ones_like(framed).to(device))
            means.append(states.last_hidden_state.float().mean(dim=1).cpu())
            bar.advance(len(ids))
    return torch.nan_to_num(torch.cat(means)).numpy()


def _surrounding_tokens(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Return the special tokens that the tokenizer adds before and after a text, each [1, tokens]."""
    encoding = tokenizer.encode("a")
    special = [index for index, flag in enumerate(encoding.special_tokens_mask) if flag]
    inside = next((index for index in range(len(encoding.ids)) if index not in special), len(encoding.ids))
    begin = [encoding.ids[index] for index in special if index < inside]
    end = [encoding.ids[index] for index in special if index > inside]
    return torch.tensor([begin], dtype=torch.int64), torch.tensor([end], dtype=torch.int64)


def _components(vectors: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float64]:
    """Compute principal component scores [vocabulary, dimensions]; the largest entry of each is positive."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    scores = centred @ directions[:, ::-1][:, :dimensions]
    largest = np.abs(scores).argmax(axis=0)
    signed: npt.NDArray[np.float64] = scores * np.sign(scores[largest, np.arange(scores.shape[1])])
    return signed


def zipf_weights(vocabulary: int) -> npt.NDArray[np.float64]:
    """Compute smooth inverse frequencies a / (a + p) [vocabulary].

    The frequency p of a token is taken to fall as 1 / rank, because vocabularies list frequent tokens first.
    """
    inverse = 1 / np.arange(2, vocabulary + 2)
    weights: npt.NDArray[np.float64] = SIF / (SIF + inverse / inverse.sum())
    return weights


def save_static(student: StaticForSequenceClassification, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the vectors as a `model2vec.StaticModel`, which loads without torch."""
    from model2vec import StaticModel

    vectors = student.embeddings.weight.detach().cpu().numpy() * student.audible.cpu().numpy()[:, None]
    # Given a folder, the library does not look for a model card on the hub.
    StaticModel(vectors, tokenizer, normalize=True, config={"normalize": True}).save_pretrained(folder)
