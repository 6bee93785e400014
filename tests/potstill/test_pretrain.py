from __future__ import annotations

from pathlib import Path

import pytest
from transformers import pipeline

from potstill.errors import EmptyDataError, FormatError, ModelError, ParamsError
from potstill.models.loading import load_encoder
from potstill.pretrain import distill_general, pretrain
from tests.conftest import generate_rows

TEXTS = [text for text, _ in generate_rows(80, seed=2)]
SIZES = {"vocabulary": 120, "layers": 3, "width": 32, "heads": 2, "max_length": 24, "batch_tokens": 256, "epochs": 1}


@pytest.mark.slow
def test_an_encoder_of_ones_own_texts_and_a_student_of_it(tmp_path: Path) -> None:
    encoder = pretrain(TEXTS, precision="fp32", **SIZES)
    assert encoder.report.keys() == {"rows", "rows_seen", "held_out_loss"}
    encoder.save_pretrained(tmp_path / "encoder")
    assert len(pipeline("fill-mask", str(tmp_path / "encoder"))("a superb [MASK]")) == 5
    terms = [{"kind": "relations", "heads": 2}]
    for masked_lm, name in ((None, "BertModel"), ({"ce": 0.0}, "BertForMaskedLM")):
        student = distill_general(
            tmp_path / "encoder", TEXTS, [0, 2], max_length=16, terms=terms, masked_lm=masked_lm, epochs=1
        )
        assert type(student.model).__name__ == name
        student.save_pretrained(tmp_path / name)
        assert load_encoder(tmp_path / name).config.num_hidden_layers == 2


def test_what_does_not_fit_is_one_sentence(tiny_base: Path) -> None:
    with pytest.raises(ParamsError, match=r"unknown key 'pretrain\.vocabulry'; did you mean 'vocabulary'"):
        pretrain(TEXTS, vocabulry=8)
    with pytest.raises(ParamsError, match=r"heads is 4, which does not divide width \(30\); choose one that does"):
        pretrain(TEXTS, width=30)
    with pytest.raises(FormatError, match="texts is one string"):
        pretrain("a text")
    with pytest.raises(FormatError, match=r"texts\[1\] is 3; it has to be a string"):
        distill_general(tiny_base, ["a", 3], [0])  # type: ignore[list-item]
    with pytest.raises(EmptyDataError, match="no texts"):
        pretrain([])
    with pytest.raises(ModelError, match="names layer 9"):
        distill_general(tiny_base, TEXTS, [9], max_length=16)
    with pytest.raises(ModelError, match="no head for masked language modelling"):
        distill_general(tiny_base, TEXTS, [0], masked_lm={})
    with pytest.raises(ParamsError, match="general distillation has no task; use terms between layers, or masked_lm"):
        distill_general(tiny_base, TEXTS, [0], terms=[{"kind": "mse"}])
