from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from potstill.models.loading import load_classifier
from potstill.training.hotpath import training_attention

KEPT = """
import psutil, torch
from potstill.training.hotpath import keep_freed_memory
keep_freed_memory()
before = psutil.Process().memory_info().rss
block = torch.ones(50_000_000)
del block
print((psutil.Process().memory_info().rss - before) // 1_000_000)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_freed_memory_stays_with_the_process() -> None:
    said = subprocess.run([sys.executable, "-c", KEPT], check=True, capture_output=True, text=True).stdout
    assert int(said) >= 190  # of 200 MB


def test_attention_is_eager_during_training_and_restored_afterwards(tiny_base: Path) -> None:
    model = load_classifier(tiny_base, ["no", "yes"])
    before = model.config._attn_implementation
    ids = torch.randint(5, 60, (3, 9))
    fused = model(input_ids=ids).logits
    with training_attention(model, torch.device("cpu")):
        assert model.config._attn_implementation == "eager"
        plain = model(input_ids=ids).logits
    assert model.config._attn_implementation == before
    assert plain.tolist() == [pytest.approx(row, abs=1e-5) for row in fused.tolist()]
