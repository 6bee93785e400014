"""The student as it runs in production and in evaluation: onnxruntime and tokenizers, no torch.

`runtime` answers; `probabilities` turns logits into them; `profile` and `sketch` describe what a model reads and
says, for drift; `window_store` keeps what a service counts; `occlusion` says which words an answer hangs on. Travels
in the Bento and in the registered model, so it imports little.
"""
