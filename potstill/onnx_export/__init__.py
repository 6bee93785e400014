"""Export of a trained student to ONNX.

`onnx_model` writes the fp32 model, `quantize` its INT8 form and `four_bits` embeddings of 4 bits. `logit_parity`
compares exported and trained model on dev. `size` estimates the size of the file before anything is trained.
"""
