"""Inference with the exported student, in production and in evaluation: onnxruntime and tokenizers, no torch.

`runtime` predicts. `profile` and `sketch` describe the distributions
of inputs and predictions for drift detection. `window_store` stores what a service counts. `occlusion` explains a
prediction word by word. The code travels in the Bento and in the registered model, so it imports little.
"""
