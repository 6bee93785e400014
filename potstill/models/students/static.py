"""A static-embedding student: a vector for each token, their normalised mean, one linear layer.

The vectors begin as model2vec makes them (Tulkens & van Dongen 2024, "Model2Vec: Fast State-of-the-Art Static
Embeddings"): every token alone through the teacher, principal components of what it gives, weights by Zipf's law. Its
own `distill` needs another release of transformers than this project, so that step is here; what it makes is a
`model2vec.StaticModel`, and the trained vectors are saved as one.
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

# Smooth inverse frequency (Arora et al. 2017), model2vec's value.
SIF = 1e-4
# Tokens that go through the teacher at once.
TOKENS_AT_ONCE = 1024


class StaticConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of a `StaticForSequenceClassification`."""

    model_type = STATIC

    def __init__(
        self, vocab_size: int = 2, hidden_size: int = 2, silent_ids: list[int] | None = None, **rest: Any
    ) -> None:
        """Take the sizes; `silent_ids` are the tokens that say nothing: special ones and the unknown one."""
        self.vocab_size, self.hidden_size, self.silent_ids = vocab_size, hidden_size, list(silent_ids or [])
        super().__init__(**rest)


class StaticForSequenceClassification(PreTrainedModel):  # type: ignore[misc]
    """Logits [batch, labels] of token ids, whatever their order. Tokens that say nothing count for nothing."""

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
        """The sum of the vectors, scaled to length 1: what their mean is scaled to as well."""
        weights = self.audible[input_ids]
        if attention_mask is not None:
            weights = weights * attention_mask
        total = (self.embeddings(input_ids) * weights[..., None]).sum(dim=1)
        return SequenceClassifierOutput(logits=self.classifier(functional.normalize(total, dim=-1)))

    def keep(self, tokens: npt.NDArray[np.integer]) -> StaticForSequenceClassification:
        """The same student of these tokens alone, in this order."""
        silent = [place for place, token in enumerate(tokens.tolist()) if token in self.config.silent_ids]
        config = StaticConfig(**self.config.to_dict() | {"vocab_size": len(tokens), "silent_ids": silent})
        kept = StaticForSequenceClassification(config)
        with torch.no_grad():
            kept.embeddings.weight.copy_(self.embeddings.weight[torch.from_numpy(tokens.astype(np.int64))])
        kept.classifier.load_state_dict(self.classifier.state_dict())
        kept.eval()
        return kept

    def get_input_embeddings(self) -> nn.Module:
        """The table of vectors."""
        return self.embeddings

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: vectors come from a teacher, and the layer keeps torch's own start."""


AutoConfig.register(StaticConfig.model_type, StaticConfig)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification)


def static_from_teacher(
    teacher: PreTrainedModel, tokenizer: Tokenizer, dimensions: int
) -> StaticForSequenceClassification:
    """A static student that begins with the teacher's own vectors; its linear layer is new (torch's current seed).

    Args:
        teacher: a sequence classifier; its encoder is asked for every token of the vocabulary.
        tokenizer: its tokenizer.
        dimensions: width of the vectors; at most the teacher's, and the vocabulary's size.
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
    """Ids that model2vec leaves out of the mean: those of special tokens, the unknown one among them."""
    special = [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    unknown = getattr(tokenizer.model, "unk_token", None)
    found = {*special, *([tokenizer.token_to_id(unknown)] if unknown is not None else [])}
    return sorted(number for number in found if number is not None)


@torch.inference_mode()
def token_vectors(teacher: PreTrainedModel, tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    """[vocabulary, width]: the mean of the encoder's last states over each token alone, with its special tokens."""
    begin, end = _surroundings(tokenizer)
    encoder, device = teacher.base_model.eval(), next(teacher.parameters()).device
    rows = torch.arange(tokenizer.get_vocab_size())
    found = []
    with progress("static", len(rows), "tokens") as bar:
        for ids in torch.split(rows, TOKENS_AT_ONCE):
            framed = torch.cat([begin.expand(len(ids), -1), ids[:, None], end.expand(len(ids), -1)], dim=1)
            states = encoder(input_ids=framed.to(device), attention_mask=torch.ones_like(framed).to(device))
            found.append(states.last_hidden_state.float().mean(dim=1).cpu())
            bar.advance(len(ids))
    return torch.nan_to_num(torch.cat(found)).numpy()


def _surroundings(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """What the tokenizer puts before and behind a text."""
    encoding = tokenizer.encode("a")
    special = [place for place, flag in enumerate(encoding.special_tokens_mask) if flag]
    inside = next((place for place in range(len(encoding.ids)) if place not in special), len(encoding.ids))
    begin = [encoding.ids[place] for place in special if place < inside]
    end = [encoding.ids[place] for place in special if place > inside]
    return torch.tensor([begin], dtype=torch.int64), torch.tensor([end], dtype=torch.int64)


def _components(vectors: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float64]:
    """[vocabulary, dimensions] principal components, the largest first; the sign of each by its largest entry."""
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centred.T @ centred)
    scores = centred @ directions[:, ::-1][:, :dimensions]
    largest = np.abs(scores).argmax(axis=0)
    found: npt.NDArray[np.float64] = scores * np.sign(scores[largest, np.arange(scores.shape[1])])
    return found


def zipf_weights(vocabulary: int) -> npt.NDArray[np.float64]:
    """a / (a + p) for tokens whose frequency p falls as 1 / rank: vocabularies list the frequent ones first."""
    inverse = 1 / np.arange(2, vocabulary + 2)
    weights: npt.NDArray[np.float64] = SIF / (SIF + inverse / inverse.sum())
    return weights


def save_static(student: StaticForSequenceClassification, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the vectors as a `model2vec.StaticModel`, which loads without torch. Nothing is fetched for it."""
    from model2vec import StaticModel

    vectors = student.embeddings.weight.detach().cpu().numpy() * student.audible.cpu().numpy()[:, None]
    # A name that is no folder would have the library ask the hub for a model card.
    StaticModel(vectors, tokenizer, normalize=True, config={"normalize": True}).save_pretrained(folder)
